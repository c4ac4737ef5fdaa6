"""Memory in bytes; load only between two readings."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgetuner.telemetry.proc import Proc

from .conftest import write


def test_kilobytes_become_bytes(computer: Path) -> None:
    reading = Proc(computer).read()
    assert reading["memory_total_bytes"] == 7_802_880 * 1024
    assert reading["memory_available_bytes"] == 4 * 1024**3
    assert reading["swap_used_bytes"] == 100 * 1024
    assert reading["process_rss_bytes"] == 1024**2


def test_load_is_the_busy_share_since_the_last_reading(computer: Path) -> None:
    proc = Proc(computer)
    assert proc.read()["cpu_load"] is None  # no time has passed
    write(
        computer, {"proc/stat": "cpu  120 0 60 850 70 0 0 0 500 0"}
    )  # 30 busy, 70 idle or waiting
    assert proc.read()["cpu_load"] == pytest.approx(0.3)


@pytest.mark.parametrize(
    "stat", ["", "cpu", "cpu  90 0 50 800 50 0 0 0", "cpu a b c d e f", "intr 1"]
)
def test_a_load_that_means_nothing_is_absent(computer: Path, stat: str) -> None:
    proc = Proc(computer)
    write(computer, {"proc/stat": stat})
    assert proc.read()["cpu_load"] is None


def test_without_proc_everything_is_absent(tmp_path: Path) -> None:
    assert set(Proc(tmp_path).read().values()) == {None}


def test_the_computer_this_runs_on() -> None:
    reading = Proc(Path("/")).read()
    assert reading["memory_total_bytes"] is not None
    assert reading["memory_available_bytes"] is not None
    assert 0 < reading["memory_available_bytes"] <= reading["memory_total_bytes"]
