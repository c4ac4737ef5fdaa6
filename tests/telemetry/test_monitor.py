"""Every source keeps the contract; the monitor reads the best of them."""

from __future__ import annotations

import json
import shutil
import threading
from contextlib import closing
from pathlib import Path

import pytest

from edgetuner.errors import ConfigError, TelemetryError
from edgetuner.telemetry import SOURCES, Sample, open_telemetry
from edgetuner.telemetry.source import Options

from .conftest import PATIENCE_S, Clock, FakeJtop, write


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_reads_a_board_and_closes_twice(
    name: str, board: Path, clock: Clock, fake_jtop: FakeJtop
) -> None:
    fake_jtop("works")
    source = SOURCES[name](
        Options(interval_s=0.01, sysroot=board, clock=clock, settle_s=PATIENCE_S)
    )
    with closing(source):
        for _ in range(3):
            sample = source.read()
            assert isinstance(sample, Sample)
            assert sample.source == name
            assert sample.memory_total_bytes == 7_802_880 * 1024
            wire = json.loads(json.dumps(sample.to_wire(), allow_nan=False))
            assert None not in wire.values()
    source.close()


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_on_an_empty_machine_says_what_to_do_or_leaves_things_out(
    name: str, tmp_path: Path, clock: Clock, fake_jtop: FakeJtop
) -> None:
    fake_jtop("absent")
    with closing(SOURCES[name](Options(sysroot=tmp_path / "empty", clock=clock))) as source:
        try:
            sample = source.read()
        except TelemetryError as error:
            assert error.field == f"telemetry.{name}"
            assert error.remedy
        else:
            assert sample.simulated
            assert sample.memory_total_bytes is None
            assert sample.cpu_load is None


def test_no_telemetry_anywhere_is_absent(tmp_path: Path, fake_jtop: FakeJtop) -> None:
    fake_jtop("absent")
    with open_telemetry(["jtop", "sysfs", "host"], 1.0, sysroot=tmp_path / "empty") as telemetry:
        assert telemetry.read() is None
        assert telemetry.source is None
        assert list(telemetry.skipped) == ["jtop", "sysfs", "host"]
        assert telemetry.energy_j() == {}


def test_no_source_is_telemetry_turned_off() -> None:
    with open_telemetry([], 1.0) as telemetry:
        assert telemetry.read() is None
        assert telemetry.skipped == {}


def test_the_first_that_is_available_in_the_order_given(board: Path, clock: Clock) -> None:
    with open_telemetry(["host", "sysfs"], 1.0, sysroot=board, clock=clock) as telemetry:
        assert telemetry.source == "host"
    with open_telemetry(["sysfs", "host"], 1.0, sysroot=board, clock=clock) as telemetry:
        assert telemetry.source == "sysfs"
        assert telemetry.skipped == {}


def test_the_next_stands_in_for_one_that_dies_until_it_is_back(
    board: Path, clock: Clock, fake_jtop: FakeJtop
) -> None:
    fake_jtop("stale")
    with open_telemetry(
        ["jtop", "sysfs", "host"],
        0.01,
        sysroot=board,
        settle_s=PATIENCE_S,
        clock=clock,
    ) as telemetry:
        assert telemetry.source == "jtop"
        clock.advance(1)
        sample = telemetry.read()
        assert sample is not None and sample.source == telemetry.source == "sysfs"
        assert "old data" in telemetry.skipped["jtop"]
        fake_jtop("works")
        clock.advance(6)
        telemetry.read()
        telemetry._open["jtop"]._child.wait(PATIENCE_S)  # type: ignore[attr-defined]
        telemetry.read()
        assert telemetry.source == "jtop"
        assert telemetry.skipped == {}
        assert list(telemetry._open) == ["jtop"]  # the stand-in is closed


def test_a_source_that_fails_falls_to_the_next(board: Path, clock: Clock) -> None:
    with open_telemetry(["sysfs", "host"], 1.0, sysroot=board, clock=clock) as telemetry:
        assert telemetry.source == "sysfs"
        shutil.rmtree(board / "sys")
        telemetry.read()
        assert telemetry.source == "host"
        assert "no INA3221" in telemetry.skipped["sysfs"]


def test_energy_by_phase(board: Path, clock: Clock) -> None:
    with open_telemetry(
        ["sysfs"], 1.0, sysroot=board, clock=clock, phase="infer"
    ) as telemetry:  # 5 W
        clock.advance(1)
        telemetry.read()
        telemetry.phase("train")
        clock.advance(2)
        telemetry.read()
        assert telemetry.energy_j() == {"infer": 5.0, "train": 10.0}


def test_simulated_joules_show_only_while_the_board_is_simulated(board: Path, clock: Clock) -> None:
    with open_telemetry(["sysfs", "simulated"], 1.0, sysroot=board, clock=clock) as telemetry:
        clock.advance(1)
        telemetry.read()
        assert telemetry.energy_j() == {"idle": 5.0}
        shutil.rmtree(board / "sys")
        for _ in range(2):
            clock.advance(1)
            telemetry.read()
        assert telemetry.source == "simulated"
        assert telemetry.energy_j()["idle"] != 5.0
        assert telemetry.energy_j()["idle"] < 6.0  # one second of its own


def test_the_phase_drives_the_simulated_board(computer: Path, clock: Clock) -> None:
    with open_telemetry(["simulated"], 1.0, sysroot=computer, clock=clock) as telemetry:
        idle = telemetry.read()
        telemetry.phase("train")
        train = telemetry.read()
    assert idle is not None and train is not None
    assert idle.total_power_w is not None and train.total_power_w is not None
    assert train.total_power_w > 2 * idle.total_power_w


def test_a_phase_does_not_wait_for_a_reading(computer: Path, clock: Clock) -> None:
    with (
        open_telemetry(["host"], 1.0, sysroot=computer, clock=clock) as telemetry,
        telemetry._lock,  # a reading is under way
    ):
        switching = threading.Thread(target=telemetry.phase, args=("train",), daemon=True)
        switching.start()
        switching.join(PATIENCE_S)
        assert not switching.is_alive()


def test_after_closing_there_is_nothing(computer: Path, clock: Clock) -> None:
    telemetry = open_telemetry(["host"], 1.0, sysroot=computer, clock=clock)
    telemetry.close()
    telemetry.close()
    assert telemetry.read() is None


def test_the_reading_carries_its_age(board: Path, clock: Clock) -> None:
    with open_telemetry(["sysfs"], 1.0, sysroot=board, clock=clock) as telemetry:
        sample = telemetry.read()
    assert sample is not None
    assert sample.age_s == 0.0


def test_an_unknown_source_is_named_with_the_choice() -> None:
    with pytest.raises(ConfigError, match=r"telemetry.sources: .*'nvml'.*jtop, sysfs, host"):
        open_telemetry(["nvml"], 1.0)


@pytest.mark.parametrize("interval_s", [0.0, -1.0, float("nan"), float("inf")])
def test_an_interval_is_positive(interval_s: float) -> None:
    with pytest.raises(ConfigError, match=r"telemetry\.interval_s"):
        open_telemetry([], interval_s)


def test_a_bad_trace_is_an_error_and_not_a_skipped_source(tmp_path: Path) -> None:
    write(tmp_path, {"trace.json": "{}"})
    with pytest.raises(TelemetryError, match=r"telemetry\.trace"):
        open_telemetry(["simulated"], 1.0, trace=tmp_path / "trace.json")
