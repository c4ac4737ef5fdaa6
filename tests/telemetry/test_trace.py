"""A recording, played in a loop and marked as simulated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgetuner.errors import TelemetryError
from edgetuner.telemetry.simulated import Simulated
from edgetuner.telemetry.source import Options
from edgetuner.telemetry.trace import Trace

from .conftest import Clock

ROWS = [
    {"source": "jtop", "t": 100.0, "age_s": 0.1, "total_power_w": 5.0, "over_current": []},
    {"source": "jtop", "t": 102.0, "total_power_w": 9.0, "memory_available_bytes": 1024},
    {"source": "jtop", "t": 104.0, "temperature_c": {"tj": 90.0}},
]


def trace_file(folder: Path, content: object) -> Path:
    path = folder / "trace.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_samples_hold_until_the_next_and_begin_anew(tmp_path: Path) -> None:
    trace = Trace.load(trace_file(tmp_path, ROWS))
    powers = [trace.at(seconds).total_power_w for seconds in (0.0, 1.9, 2.0, 4.0, 5.9, 6.0, 8.0)]
    assert powers == [5.0, 5.0, 9.0, None, None, 5.0, 9.0]


def test_one_sample_holds_for_ever(tmp_path: Path) -> None:
    assert Trace.load(trace_file(tmp_path, ROWS[:1])).at(1e6).total_power_w == 5.0


def test_the_simulated_board_plays_it_now_and_never_as_the_recorder(tmp_path: Path) -> None:
    clock = Clock()
    trace = Trace.load(trace_file(tmp_path, ROWS))
    board = Simulated(Options(sysroot=tmp_path, trace=trace, clock=clock))
    clock.advance(2.5)
    sample = board.read()
    assert (sample.source, sample.total_power_w, sample.monotonic_s) == ("simulated", 9.0, 1002.5)
    assert sample.memory_available_bytes == 1024
    assert sample.t > 1e9  # not the time of the recording


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "telemetry.trace: is not JSON"),
        ("[]", "telemetry.trace: is not a list of objects"),
        ("[1]", "telemetry.trace: is not a list of objects"),
        ([{}], r"telemetry.trace\[0\].t: no number"),
        ([ROWS[1], ROWS[0]], "telemetry.trace: t does not increase"),
        ([{"t": 1, "watts": 3}], r"telemetry.trace\[0\].watts"),
        ([{"t": 1, "gpu_load": 3}], r"telemetry.trace\[0\].gpu_load.*got 3"),
    ],
)
def test_a_bad_trace_names_the_entry(tmp_path: Path, content: object, complaint: str) -> None:
    with pytest.raises(TelemetryError, match=complaint):
        Trace.load(trace_file(tmp_path, content))


def test_a_missing_trace(tmp_path: Path) -> None:
    with pytest.raises(TelemetryError, match=r"cannot be read.*nowhere\.json.*JSON list"):
        Trace.load(tmp_path / "nowhere.json")
