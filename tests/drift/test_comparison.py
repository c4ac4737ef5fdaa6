from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from benchmarks.faults import FAULTS
from edgetuner.drift.comparison import Comparison
from edgetuner.drift.distortion import DistortionSettings, Leap
from edgetuner.drift.handedness import Handedness
from edgetuner.drift.magnitude import Magnitude
from edgetuner.drift.maps import AXES
from edgetuner.drift.summary import Summary
from edgetuner.drift.usual import Usual
from tests.drift import turners, walkers

PAIR = Handedness(0, 3, turners.HZ, 1.0)
FLIP = np.diag([1.0, -1.0, 1.0])
SOUND, MIRRORED = -1.2, 1.2  # evidence of a window


def play(
    comparison: Comparison, x: NDArray[np.float32], gain: float | None = None, seq: int = 0
) -> list[Leap]:
    """What is told of windows, with their own evidence for mirrored axes or with some about it."""
    usual = walkers.usual()
    features = Summary.of(x).features(usual.floor)
    if gain is None:
        evidence = PAIR.evidence(x)
    else:
        evidence = gain + 0.1 * np.random.default_rng(seq).standard_normal(len(x))
    told = list[Leap]()
    for i in range(len(x)):
        told += comparison.update_many(
            features[i : i + 1], [seq + i], [False], evidence[i : i + 1].astype(np.float32)
        )
    return told


def at_once(
    comparison: Comparison, x: NDArray[np.float32], gain: float, seq: int = 0
) -> list[Leap]:
    """The same, of all windows in one call."""
    evidence = gain + 0.1 * np.random.default_rng(seq).standard_normal(len(x))
    features = Summary.of(x).features(walkers.usual().floor)
    seqs = range(seq, seq + len(x))
    return comparison.update_many(features, seqs, [False] * len(x), evidence.astype(np.float32))


@pytest.fixture
def usual() -> Usual:
    return walkers.usual()


def test_axes_mirrored_from_the_first_window_are_named(usual: Usual) -> None:
    x = turners.turned(turners.recording(30), FLIP)
    told = play(Comparison(usual, handedness=PAIR), x)
    assert told[-1].fault == AXES
    assert next(leap for leap in told if leap.new).since_seq <= 3
    assert Comparison(usual).fault is None


def test_a_sound_sensor_is_sound(usual: Usual) -> None:
    told = play(Comparison(usual, handedness=PAIR), turners.recording(60))
    assert not any(leap.new for leap in told)


def test_it_is_over_when_they_turn_as_they_should(usual: Usual) -> None:
    comparison = Comparison(usual, handedness=PAIR)
    play(comparison, turners.turned(turners.recording(30), FLIP))
    assert comparison.fault == AXES
    told = play(comparison, turners.recording(30, seed=1), seq=30)
    assert comparison.fault is None
    assert next(leap for leap in told if leap.new).since_seq in range(29, 34)


def test_what_was_mirrored_is_not_what_a_stream_is_known_by(usual: Usual) -> None:
    walking, comparison = walkers.recording(3, 60, seed=7), Comparison(usual, handedness=PAIR)
    broken = FAULTS["turned_axis"](walking[:30], np.random.default_rng(0))
    play(comparison, broken, MIRRORED)
    assert comparison.fault == AXES
    told = play(comparison, walking[30:], SOUND, seq=30)
    assert [leap.fault for leap in told if leap.new] == [None]


def test_a_leap_to_axes_that_turn_as_they_should_is_the_end_of_one_before(usual: Usual) -> None:
    walking = walkers.recording(3, 40, seed=7)
    broken = FAULTS["turned_axis"](walking[:12], np.random.default_rng(0))
    without, beside = Comparison(usual), Comparison(usual, handedness=PAIR)
    for comparison in (without, beside):
        play(comparison, broken, 0.0)  # he does not turn enough to tell
        play(comparison, walking[12:], SOUND, seq=12)
    assert without.fault == AXES
    assert beside.fault is None


def test_a_gyroscope_with_one_axis_turned_may_still_turn_as_it_should(usual: Usual) -> None:
    """Two axes of three agree with the accelerometer: that is no reason to doubt the leap."""
    walking = walkers.recording(3, 40, seed=7)
    broken = walking[12:].copy()
    broken[:, 5] *= -1
    comparison = Comparison(usual, handedness=PAIR)
    play(comparison, walking[:12], SOUND)
    play(comparison, broken, SOUND / 3, seq=12)
    assert comparison.fault == AXES


def test_mirrored_axes_that_last_are_how_things_are_from_now_on(usual: Usual) -> None:
    comparison = Comparison(usual, None, PAIR, DistortionSettings(lasting=25))
    told = play(comparison, turners.turned(turners.recording(60), FLIP))
    assert [leap.fault for leap in told if leap.new] == [AXES, None]
    told = play(comparison, turners.recording(20, seed=1), seq=60)
    assert told[-1].fault == AXES, "and as they were is mirrored"


@pytest.mark.parametrize("gain", [SOUND, 0.0, MIRRORED])
def test_a_leap_there_and_back_among_windows_that_come_at_once(usual: Usual, gain: float) -> None:
    walking = walkers.recording(3, 60, seed=7)
    walking[20:40] = FAULTS["turned_axis"](walking[20:40], np.random.default_rng(0))
    comparison = Comparison(usual, handedness=PAIR)
    at_once(comparison, walking[:20], SOUND)
    told = at_once(comparison, walking[20:], gain, seq=20)
    assert len(told) == 40
    at_once(comparison, walkers.recording(3, 30, seed=8), SOUND, seq=60)
    assert comparison.fault is None


@pytest.mark.parametrize("together", [1, 8, 16, 64])
def test_it_is_told_once_when_it_begins_and_when_it_ends(usual: Usual, together: int) -> None:
    walking = walkers.recording(3, 120, seed=7)
    walking[40:60] = FAULTS["turned_axis"](walking[40:60], np.random.default_rng(0))
    gains = np.where((np.arange(120) >= 40) & (np.arange(120) < 60), MIRRORED, SOUND)
    gains = (gains + 0.1 * np.random.default_rng(0).standard_normal(120)).astype(np.float32)
    features = Summary.of(walking).features(usual.floor)
    comparison, told = Comparison(usual, handedness=PAIR), list[Leap]()
    for at in range(0, 120, together):
        some, seqs = slice(at, at + together), range(120)[at : at + together]
        told += comparison.update_many(features[some], seqs, [False] * len(seqs), gains[some])
    changes = [(leap.fault, leap.since_seq) for leap in told if leap.new]
    assert [fault for fault, _ in changes] == [AXES, None]
    assert [since for _, since in changes] == pytest.approx([40, 60], abs=3)


@pytest.mark.parametrize("length", range(9, 17))
def test_nothing_of_a_mirrored_beginning_is_left_behind(usual: Usual, length: int) -> None:
    for seed in range(5):
        walking = walkers.recording(3, 60, seed=seed)
        walking[:length] = FAULTS["turned_axis"](walking[:length], np.random.default_rng(seed))
        comparison, told = Comparison(usual, handedness=PAIR), list[Leap]()
        for at in range(0, length, 8):
            told += at_once(comparison, walking[at : min(at + 8, length)], MIRRORED, at)
        for at in range(length, 60, 8):
            told += at_once(comparison, walking[at : at + 8], SOUND, at)
        assert [leap.fault for leap in told if leap.new] in ([AXES, None], [])


def test_rest_is_no_reason_to_take_mirrored_axes_for_the_way_things_are(usual: Usual) -> None:
    comparison = Comparison(usual, None, PAIR, DistortionSettings(lasting=40))
    play(comparison, turners.turned(turners.recording(15), FLIP))
    assert comparison.fault == AXES
    play(comparison, turners.turned(walkers.recording(0, 60, seed=3), FLIP), 0.0, seq=15)
    told = play(comparison, turners.recording(30, seed=1), seq=75)
    assert [leap.fault for leap in told if leap.new] == [None]


def test_a_fault_beside_mirrored_axes_goes_on_when_these_are_over(usual: Usual) -> None:
    walking = walkers.recording(3, 80, seed=7)
    walking[20:, :3] *= 0.5
    comparison = Comparison(usual, handedness=PAIR)
    play(comparison, walking[:30], SOUND)
    assert comparison.fault == "gain"
    broken = FAULTS["turned_axis"](walking[30:50], np.random.default_rng(0))
    play(comparison, broken, MIRRORED, seq=30)
    assert comparison.fault == AXES
    told = play(comparison, walking[50:], SOUND, seq=50)
    assert [leap.fault for leap in told if leap.new] == ["gain"]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["", *FAULTS]), st.integers(1, 20), st.sampled_from([-1.2, 0, 1.2])
        )
    )
)
@settings(max_examples=30)
def test_each_window_is_told_of_whatever_happens(
    parts: list[tuple[str, int, float]],
) -> None:
    known = Magnitude.fit(Summary.of(walkers.source()[0]), walkers.TRIADS)
    comparison = Comparison(walkers.usual(), known, PAIR)
    seq, fault, rng = 0, None, np.random.default_rng(0)
    for name, count, gain in parts:
        windows = walkers.recording(3, count, seed=seq)
        broken = FAULTS[name](windows, rng).astype(np.float32) if name else windows
        told = at_once(comparison, broken, gain, seq)
        assert len(told) == count
        assert all(leap.since_seq < seq + count for leap in told)
        seq, fault = seq + count, told[-1].fault
    assert fault == comparison.fault
