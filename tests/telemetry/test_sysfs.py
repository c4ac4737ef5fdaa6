"""A whole board from a fake root."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edgetuner.errors import TelemetryError
from edgetuner.telemetry.source import Options
from edgetuner.telemetry.sysfs import Sysfs

from .conftest import HWMON, Clock, write


def test_an_orin_nano(board: Path, clock: Clock) -> None:
    sample = Sysfs(Options(sysroot=board, clock=clock)).read()
    assert sample.power_w == {"VDD_IN": 5.0, "VDD_CPU_GPU_CV": 0.992}
    assert sample.total_power_w == 5.0
    assert sample.temperature_c == {"cpu": 48.5}
    assert sample.passive_trip_c == {"cpu": 95.0}
    assert sample.gpu_load == 0.125
    assert sample.power_mode == "25W"
    assert sample.over_current == ("VDD_CPU_GPU_CV",)
    assert sample.memory_available_bytes == 4 * 1024**3
    assert sample.monotonic_s == 1000.0


def test_rails_that_nobody_may_read_leave_the_rest(board: Path) -> None:
    for name in ("curr1_input", "curr2_input"):
        (board / HWMON / name).unlink()
    sample = Sysfs(Options(sysroot=board)).read()
    assert sample.power_w == {}
    assert sample.total_power_w is None
    assert sample.gpu_load == 0.125


def test_hwmon_that_is_numbered_anew_is_found_again(board: Path) -> None:
    source = Sysfs(Options(sysroot=board))
    shutil.move(board / HWMON, (board / HWMON).with_name("hwmon9"))
    assert source.read().total_power_w == 5.0


def test_a_driver_loaded_late_is_found(computer: Path, board: Path) -> None:
    source = Sysfs(Options(sysroot=computer))
    with pytest.raises(TelemetryError, match=r"telemetry\.sysfs: no INA3221.*host"):
        source.read()
    shutil.copytree(board, computer, dirs_exist_ok=True)
    assert source.read().total_power_w == 5.0


@pytest.mark.parametrize(
    ("status", "mode"),
    [("pmode:0000", "15W"), ("pmode:0007", "7"), ("", None), ("pmode:", None)],
)
def test_the_power_mode_has_a_name_a_number_or_is_absent(
    board: Path, status: str, mode: str | None
) -> None:
    write(board, {"var/lib/nvpmodel/status": status})
    assert Sysfs(Options(sysroot=board)).read().power_mode == mode


@pytest.mark.parametrize("load", ["", "1001", "-1", "many"])
def test_an_absurd_gpu_load_is_absent(board: Path, load: str) -> None:
    write(board, {"sys/class/devfreq/17000000.gpu/device/load": load})
    assert Sysfs(Options(sysroot=board)).read().gpu_load is None


def test_a_gpu_is_known_by_the_name_of_its_chip(board: Path) -> None:
    devfreq = board / "sys/class/devfreq"
    shutil.rmtree(devfreq / "17000000.gpu")
    assert Sysfs(Options(sysroot=board)).read().gpu_load is None  # vic is no GPU
    write(devfreq, {"17000000.ga10b/device/load": 400})
    assert Sysfs(Options(sysroot=board)).read().gpu_load == 0.4
