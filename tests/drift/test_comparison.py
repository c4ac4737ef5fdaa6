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
