"""jtop's recorded shapes in base units."""

from __future__ import annotations

import math
from typing import Any

import pytest

from edgetuner.telemetry.jtop_reading import board_reading


def rail(milliwatts: object, **more: object) -> dict[str, object]:
    return {"type": "INA3221", "volt": 5000, "curr": 1, "power": milliwatts, "online": True, **more}


ORIN_NANO: dict[str, Any] = {
    "uptime": 1234.5,
    "interval": 1.0,
    "power": {
        "rail": {"VDD_CPU_GPU_CV": rail(850), "VDD_SOC": rail(1450)},
        "tot": rail(5081, name="VDD_IN", avg=5081),
    },
    "temperature": {
        "cpu": {"temp": 48.5, "online": True},
        "cv0": {"temp": -256, "online": False},
        "cv1": {"temp": -256},
        "tj": {"temp": 49.0, "online": True, "max": 95.0, "crit": 104.5},
    },
    "gpu": {"gpu": {"status": {"load": 12.5, "railgate": False}}},
    "nvpmodel": "25W",
}


def test_an_orin_nano() -> None:
    assert board_reading(ORIN_NANO) == {
        "power_w": {"VDD_IN": 5.081, "VDD_CPU_GPU_CV": 0.85, "VDD_SOC": 1.45},
        "total_power_w": 5.081,
        "temperature_c": {"cpu": 48.5, "tj": 49.0},
        "gpu_load": 0.125,
        "power_mode": "25W",
    }


@pytest.mark.parametrize(
    ("power", "total"),
    [
        ({}, None),  # a board without a sensor
        ({"rail": {}, "tot": {"power": 0, "avg": 0}}, None),  # a sum of nothing
        ({"rail": {"A": rail(1000), "B": rail(500)}, "tot": {"power": 1500, "avg": 1500}}, 1.5),
        ({"rail": {"A": rail(1000), "B": rail(0, online=False)}, "tot": {"power": 1000}}, None),
        ({"rail": {"A": rail(1000)}, "tot": rail(math.nan, name="VDD_IN")}, None),
        ({"rail": {"A": rail(1000)}, "tot": {"name": "VDD_IN"}}, None),
        ([], None),
        (None, None),
    ],
)
def test_a_total_that_was_not_measured_is_absent(power: object, total: float | None) -> None:
    assert board_reading(ORIN_NANO | {"power": power})["total_power_w"] == total


@pytest.mark.parametrize("gpu", [None, {}, {"gpu": {}}, {"gpu": {"status": {"load": 700}}}])
def test_a_gpu_load_that_was_not_measured_is_absent(gpu: object) -> None:
    assert board_reading(ORIN_NANO | {"gpu": gpu})["gpu_load"] is None


def test_a_line_with_nothing_in_it_measures_nothing() -> None:
    assert board_reading({}) == {
        "power_w": {},
        "total_power_w": None,
        "temperature_c": {},
        "gpu_load": None,
        "power_mode": None,
    }
