"""Temperatures by zone; a sensor that is off has none."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgetuner.telemetry import thermal

from .conftest import write


def test_zones_read_in_degrees_and_an_offline_one_is_absent(board: Path) -> None:
    assert thermal.temperatures_c(thermal.zones(board)) == {"cpu": 48.5}


def test_the_lowest_passive_trip_counts(board: Path) -> None:
    assert thermal.passive_trips_c(thermal.zones(board)) == {"cpu": 95.0}


def test_a_second_zone_of_a_name_is_kept(board: Path) -> None:
    zone = "sys/class/thermal/thermal_zone2"
    write(board, {f"{zone}/type": "cpu-thermal", f"{zone}/temp": 20000})
    assert thermal.temperatures_c(thermal.zones(board)) == {"cpu": 48.5, "cpu_zone2": 20.0}


def test_hwmon_sensors_are_named_by_device_and_label(computer: Path) -> None:
    write(
        computer,
        {
            "sys/class/hwmon/hwmon0/name": "k10temp",
            "sys/class/hwmon/hwmon0/temp1_label": "Tctl",
            "sys/class/hwmon/hwmon0/temp1_input": 61250,
            "sys/class/hwmon/hwmon1/name": "nvme",
            "sys/class/hwmon/hwmon1/temp1_input": 39850,
            "sys/class/hwmon/hwmon1/temp2_input": "not a number",
        },
    )
    assert thermal.hwmon_temperatures_c(computer) == {"k10temp Tctl": 61.25, "nvme temp1": 39.85}


@pytest.mark.parametrize(
    ("raw", "name"), [("cpu-thermal", "cpu"), ("x86_pkg_temp", "x86_pkg_temp")]
)
def test_zone_names(raw: str, name: str) -> None:
    assert thermal.zone_name(raw) == name
