"""Channels of the power monitor: connected rails alone."""

from __future__ import annotations

from pathlib import Path

from edgetuner.telemetry import ina3221

from .conftest import HWMON, write


def test_unconnected_channels_the_shunt_sum_and_other_chips_are_no_rails(board: Path) -> None:
    rails = ina3221.rails(board)
    assert set(rails) == {"VDD_IN", "VDD_CPU_GPU_CV"}
    assert rails["VDD_IN"].power_w() == 5.0  # 5000 mV x 1000 mA
    assert rails["VDD_CPU_GPU_CV"].power_w() == 0.992


def test_the_address_and_the_number_are_searched(tmp_path: Path) -> None:
    hwmon = "sys/bus/i2c/devices/7-0041/hwmon/hwmon12"
    files = {"name": "ina3221x", "in2_label": "VIN_SYS_5V0", "in2_input": 5000, "curr2_input": 500}
    write(tmp_path, {f"{hwmon}/{name}": content for name, content in files.items()})
    assert ina3221.rails(tmp_path)["VIN_SYS_5V0"].power_w() == 2.5


def test_two_chips_with_one_label_are_two_rails(board: Path) -> None:
    hwmon = "sys/bus/i2c/devices/1-0041/hwmon/hwmon4"
    files = {"name": "ina3221", "in1_label": "VDD_IN", "in1_input": 1000, "curr1_input": 1000}
    write(board, {f"{hwmon}/{name}": content for name, content in files.items()})
    assert set(ina3221.rails(board)) == {"VDD_IN", "VDD_CPU_GPU_CV", "VDD_IN 1-0041"}


def test_a_channel_that_cannot_be_read_has_no_power(board: Path) -> None:
    (board / HWMON / "curr1_input").unlink()
    write(board, {f"{HWMON}/in2_input": ""})
    assert [rail.power_w() for rail in ina3221.rails(board).values()] == [None, None]


def test_an_alarm_is_raised_not_raised_or_unknown(board: Path) -> None:
    rails = ina3221.rails(board)
    assert rails["VDD_CPU_GPU_CV"].over_current() is True
    assert rails["VDD_IN"].over_current() is False
    (board / HWMON / "curr1_max_alarm").unlink()
    (board / HWMON / "curr1_crit_alarm").unlink()
    assert rails["VDD_IN"].over_current() is None
