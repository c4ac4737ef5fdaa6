from __future__ import annotations

from typing import Literal

import numpy as np

from edgetuner.adapt.faults import Faults
from edgetuner.drift.monitor import Finding, StreamKey
from edgetuner.store import Context

LEFT, RIGHT = StreamKey("w", "left"), StreamKey("w", "right")


def found(kind: Literal["drift", "sensor_fault", "sensor_ok"], key: StreamKey, seq: int) -> Finding:
    return Finding(kind, "flat_line", key, 100 * seq + 2, 100 * seq)


def context() -> Context:
    """Every hundredth window of both streams, up to the ninth hundred."""
    seq, none = 100 * np.tile(np.arange(10), 2), np.zeros(20, np.int64)
    return Context(
        keys=(LEFT, RIGHT),
        x=np.zeros((20, 1, 1), np.float32),
        y=none,
        predicted=none,
        served=none,
        confidence=np.zeros(20),
        row=np.arange(20),
        stream=np.repeat([0, 1], 10),
        seq=seq,
        t_ns=none,
        version=np.full(20, "v"),
        starts={LEFT: 0, RIGHT: 0},
    )


def covered(faults: Faults) -> dict[StreamKey, list[int]]:
    """In hundreds."""
    bad = faults.cover(context())
    seqs = context().seq // 100
    return {LEFT: seqs[:10][bad[:10]].tolist(), RIGHT: seqs[10:][bad[10:]].tolist()}


def test_the_time_of_a_fault_is_covered_in_its_stream_alone() -> None:
    faults = Faults()
    faults.note(found("sensor_fault", LEFT, 3))
    assert faults.standing() == ["w/left"]
    assert covered(faults) == {LEFT: list(range(3, 10)), RIGHT: []}
    faults.note(found("sensor_ok", LEFT, 6))
    assert faults.standing() == []
    assert covered(faults) == {LEFT: [3, 4, 5, 6], RIGHT: []}, "and the first one after it"
    faults.note(found("sensor_fault", LEFT, 8))
    faults.note(found("sensor_fault", RIGHT, 9))
    assert faults.standing() == ["w/left", "w/right"]
    assert covered(faults) == {LEFT: [3, 4, 5, 6, 8, 9], RIGHT: [9]}


def test_a_fault_that_gives_way_to_another_is_over_with_it() -> None:
    faults = Faults()
    faults.note(found("sensor_fault", LEFT, 3))
    faults.note(found("sensor_fault", LEFT, 5))
    assert covered(faults)[LEFT] == list(range(3, 10))
    faults.note(found("sensor_ok", LEFT, 7))
    assert faults.standing() == []
    assert covered(faults)[LEFT] == [3, 4, 5, 6, 7]


def test_of_very_many_faults_the_oldest_become_one() -> None:
    faults = Faults()
    for start in range(0, 10_000, 2):
        faults.note(found("sensor_fault", LEFT, start))
        faults.note(found("sensor_ok", LEFT, start + 1))
    assert len(faults._ranges[LEFT]) <= 64
    assert covered(faults)[LEFT] == list(range(10)), "and what was between them"
    faults.note(found("sensor_fault", LEFT, 10_000))
    assert faults.standing() == ["w/left"]


def test_other_findings_do_not_matter() -> None:
    faults = Faults()
    faults.note(found("drift", LEFT, 1))
    faults.note(found("sensor_ok", LEFT, 1))  # its fault was seen by an earlier life
    assert faults.standing() == []
    assert covered(faults) == {LEFT: [], RIGHT: []}


def test_what_is_near_a_fault_is_covered_too() -> None:
    faults = Faults()
    faults.note(Finding("sensor_fault", "flat_line", LEFT, 262, 260))
    faults.note(Finding("sensor_ok", "flat_line", LEFT, 343, 341))
    assert covered(faults)[LEFT] == [2, 3, 4], "sixty before, sixty after"
    faults = Faults()
    faults.note(Finding("sensor_fault", "flat_line", LEFT, 263, 261))
    faults.note(Finding("sensor_ok", "flat_line", LEFT, 342, 340))
    assert covered(faults)[LEFT] == [3]
