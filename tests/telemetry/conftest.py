"""A fake board below a folder, a clock that stands still, and a fake jtop for the child process."""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import edgetuner

PATIENCE_S = 60  # for another process to do its part; never part of an assertion


class Clock:
    """Monotonic seconds that pass when told to."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s

    def advance(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def write(root: Path, files: dict[str, object]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")


HWMON = "sys/bus/i2c/devices/1-0040/hwmon/hwmon3"

PROC = {
    "proc/meminfo": "MemTotal:  7802880 kB\nMemFree: 900 kB\nMemAvailable:  4194304 kB\n"
    "SwapTotal: 3901436 kB\nSwapFree: 3901336 kB\nHugePages_Total: 0",
    "proc/stat": "cpu  100 0 50 800 50 0 0 0 0 0\ncpu0 100 0 50 800 50 0 0 0 0 0",
    "proc/self/status": "Name:\tedgetuner\nVmRSS:\t  1024 kB\nThreads:\t4",
}

JETSON = PROC | {
    f"{HWMON}/name": "ina3221",
    f"{HWMON}/in1_label": "VDD_IN",
    f"{HWMON}/in1_input": 5000,
    f"{HWMON}/curr1_input": 1000,
    f"{HWMON}/curr1_max_alarm": 0,
    f"{HWMON}/curr1_crit_alarm": 0,
    f"{HWMON}/in2_label": "VDD_CPU_GPU_CV",
    f"{HWMON}/in2_input": 4960,
    f"{HWMON}/curr2_input": 200,
    f"{HWMON}/curr2_max_alarm": 1,
    f"{HWMON}/curr2_crit_alarm": 0,
    f"{HWMON}/in3_label": "NC",
    f"{HWMON}/in3_input": 5000,
    f"{HWMON}/curr3_input": 9000,
    f"{HWMON}/in7_label": "sum of shunt voltages",
    f"{HWMON}/in7_input": 7,
    f"{HWMON}/curr7_input": 7,
    "sys/bus/i2c/devices/0-0050/name": "24c02",
    "sys/bus/i2c/devices/4-004c/hwmon/hwmon1/name": "tmp451",
    "sys/bus/i2c/devices/4-004c/hwmon/hwmon1/in1_label": "VDD_FAKE",
    "sys/bus/i2c/devices/4-004c/hwmon/hwmon1/in1_input": 1,
    "sys/bus/i2c/devices/4-004c/hwmon/hwmon1/curr1_input": 1,
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
    "sys/class/thermal/thermal_zone0/temp": 48500,
    "sys/class/thermal/thermal_zone0/trip_point_0_type": "critical",
    "sys/class/thermal/thermal_zone0/trip_point_0_temp": 104500,
    "sys/class/thermal/thermal_zone0/trip_point_1_type": "passive",
    "sys/class/thermal/thermal_zone0/trip_point_1_temp": 99000,
    "sys/class/thermal/thermal_zone0/trip_point_2_type": "passive",
    "sys/class/thermal/thermal_zone0/trip_point_2_temp": 95000,
    "sys/class/thermal/thermal_zone1/type": "cv0-thermal",
    "sys/class/thermal/thermal_zone1/temp": -256000,
    "sys/class/devfreq/15340000.vic/device/of_node/name": "vic",
    "sys/class/devfreq/15340000.vic/device/load": 999,
    "sys/class/devfreq/17000000.gpu/device/of_node/name": "gpu\0",
    "sys/class/devfreq/17000000.gpu/device/load": 125,
    "var/lib/nvpmodel/status": "pmode:0001 fmode:fan",
    "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=1 NAME=25W >",
}


@pytest.fixture
def board(tmp_path: Path) -> Path:
    """Root of an Orin Nano: an unconnected channel, the shunt sum, a zone that is off."""
    root = tmp_path / "board"
    write(root, JETSON)
    return root


@pytest.fixture
def computer(tmp_path: Path) -> Path:
    """Root of an ordinary computer with memory and nothing else."""
    root = tmp_path / "computer"
    write(root, PROC)
    return root


class FakeJtop:
    """Chooses how jtop behaves in children yet to start, and hears of every start."""

    def __init__(self, starts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        os.mkfifo(starts)
        self._starts = os.open(starts, os.O_RDWR)
        self._monkeypatch = monkeypatch
        folder = Path(__file__).parent / "fake_jtop"
        package = Path(edgetuner.__file__).parents[1]
        monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{package}")
        monkeypatch.setenv("FAKE_JTOP_STARTS", str(starts))

    def __call__(self, behaviour: str) -> None:
        self._monkeypatch.setenv("FAKE_JTOP", behaviour)

    def started(self) -> int:
        """Process id of the next child that called `start`."""
        assert select.select([self._starts], [], [], PATIENCE_S)[0], "no child has started"
        return int(os.read(self._starts, 64))

    def no_start_pending(self) -> bool:
        return not select.select([self._starts], [], [], 0)[0]

    def close(self) -> None:
        os.close(self._starts)


@pytest.fixture
def fake_jtop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeJtop]:
    fake = FakeJtop(tmp_path / "starts", monkeypatch)
    yield fake
    fake.close()


@pytest.fixture
def process_ends() -> Callable[[int], bool]:
    """Waits for a process that need not be our child."""

    def ends(pid: int) -> bool:
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            return True
        try:
            return bool(select.select([handle], [], [], PATIENCE_S)[0])
        finally:
            os.close(handle)

    return ends
