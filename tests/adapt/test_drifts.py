from __future__ import annotations

from typing import Literal

import numpy as np
import pytest

from edgetuner.adapt.drifts import Drifts
from edgetuner.drift.monitor import ABOUT, Finding, StreamKey
from edgetuner.store import Context

LEFT, RIGHT, THIRD = (StreamKey("w", name) for name in ("left", "right", "third"))


def found(
    kind: Literal["warn", "drift", "drift_over", "sensor_fault", "sensor_ok"],
    key: StreamKey,
    onset_seq: int,
    seq: int | None = None,
) -> Finding:
    return Finding(kind, "embedding", key, onset_seq + 4 if seq is None else seq, onset_seq)


def context() -> Context:
    """Windows 0 to 9 of two streams that arrive in turn, and none of a third."""
    n = 20
    none = np.zeros(n, np.int64)
    return Context(
        keys=(LEFT, RIGHT, THIRD),
        x=np.zeros((n, 1, 1), np.float32),
        y=none,
        predicted=none,
        served=none,
        confidence=np.zeros(n),
        row=100 + np.arange(n),
        stream=np.tile([0, 1], n // 2),
        seq=np.repeat(np.arange(n // 2), 2),
        t_ns=none,
        version=np.full(n, "v"),
        starts={LEFT: 0, RIGHT: 0, THIRD: 0},
    )


def test_a_drift_waits_until_it_is_answered() -> None:
    drifts = Drifts()
    assert not drifts and drifts.names == [] and drifts.reasons == ""
    assert drifts.note(found("drift", RIGHT, 10))
    assert drifts.note(found("drift", LEFT, 20))
    assert drifts and drifts.names == ["w/left", "w/right"]
    assert drifts.reasons == "embedding drift in w/right; embedding drift in w/left"
    assert drifts.alarms == {RIGHT: 14, LEFT: 24}
    drifts.answer(RIGHT)
    assert drifts.names == ["w/left"]
    drifts.answer(RIGHT)  # nobody minds
    drifts.answer_all()
    assert not drifts and drifts.alarms == {}


def test_the_latest_drift_of_a_stream_counts() -> None:
    drifts = Drifts()
    drifts.note(found("drift", LEFT, 10))
    drifts.note(found("drift", LEFT, 50))
    assert drifts.alarms == {LEFT: 54} and drifts.names == ["w/left"]


@pytest.mark.parametrize("onsets", [(10, 20), (20, 10)])
def test_of_two_detectors_at_the_same_window_the_earlier_onset_counts(
    onsets: tuple[int, int],
) -> None:
    drifts = Drifts()
    for onset_seq in onsets:
        drifts.note(found("drift", LEFT, onset_seq, seq=30))
    assert not drifts.note(found("sensor_fault", LEFT, 15 + ABOUT, seq=31))
    assert drifts


@pytest.mark.parametrize(
    ("kind", "key", "onset_seq", "taken_back"),
    [
        ("sensor_fault", LEFT, 9, True),
        ("sensor_fault", LEFT, 10, True),
        ("sensor_fault", LEFT, 10 + ABOUT, True),  # neither is known to the window
        ("sensor_fault", LEFT, 11 + ABOUT, False),  # it broke after the drift
        ("drift_over", LEFT, 60, True),  # whenever it passed
        ("drift_over", RIGHT, 60, False),
        ("sensor_fault", RIGHT, 9, False),
        ("sensor_ok", LEFT, 9, False),
        ("warn", LEFT, 9, False),
    ],
)
def test_its_end_takes_a_drift_back_and_so_does_a_sensor_that_broke_about_when_it_began(
    kind: Literal["warn", "drift_over", "sensor_fault", "sensor_ok"],
    key: StreamKey,
    onset_seq: int,
    taken_back: bool,
) -> None:
    drifts = Drifts()
    drifts.note(found("drift", LEFT, 10, seq=30))
    assert drifts.note(found(kind, key, onset_seq, seq=31)) == taken_back
    assert bool(drifts) != taken_back


def test_the_end_of_an_earlier_drift_does_not_take_a_later_one_back() -> None:
    drifts = Drifts()
    drifts.note(Finding("drift", "error", LEFT, 40, 30))
    assert not drifts.note(Finding("drift_over", "embedding", LEFT, 38, 38))
    assert drifts.note(Finding("drift_over", "error", LEFT, 60, 60)) and not drifts


def test_the_alarms_that_were_handed_out_do_not_change_with_what_is_found_later() -> None:
    drifts = Drifts()
    drifts.note(found("drift", LEFT, 10))
    for key in drifts.alarms:  # as the coordinator does it, with new findings in between
        drifts.note(found("drift", RIGHT, 10))
        drifts.answer(key)
    assert drifts.names == ["w/right"]


def test_the_present_begins_with_the_first_window_of_a_stream_that_drifted() -> None:
    drifts, whole = Drifts(), context()
    assert len(drifts.present(whole)) == 20, "nothing has drifted: all of it is"
    later = whole.take((whole.stream == 0) | (whole.seq >= 6))  # the right one drifted at 6
    drifts.note(found("drift", RIGHT, 6))
    present = drifts.present(later)
    assert present.row.min() == later.row[later.stream == 1].min() == 113
    assert present.seq[present.stream == 0].tolist() == [7, 8, 9]
    assert present.seq[present.stream == 1].tolist() == [6, 7, 8, 9]


def test_a_stream_that_drifted_and_shows_nothing_cuts_nothing_off() -> None:
    drifts = Drifts()
    drifts.note(found("drift", THIRD, 6))
    assert len(drifts.present(context())) == 20
    drifts.answer_all()
    drifts.note(found("drift", StreamKey("w", "unheard of"), 6))
    assert len(drifts.present(context())) == 20
