from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from benchmarks.faults import FAULTS, NAMES, WORN
from edgetuner.drift.distortion import Distortion, DistortionSettings, Leap
from edgetuner.drift.magnitude import Magnitude
from edgetuner.drift.monitor import ABOUT
from edgetuner.drift.summary import Summary
from edgetuner.drift.usual import Usual
from tests.drift import walkers

Change = Callable[..., NDArray[np.float32]]
BEFORE = 12


@pytest.fixture
def usual() -> Usual:
    return walkers.usual()


def play(usual: Usual, *parts: NDArray[np.float32], watch: Distortion | None = None) -> Distortion:
    watch = watch or Distortion(usual)
    for seq, features in enumerate(Summary.of(np.concatenate(parts)).features(usual.floor)):
        watch.update(features, seq)
    return watch


@given(st.lists(st.integers(1, 12), min_size=1, max_size=20), st.integers(0, 50))
def test_each_of_some_windows_is_told_of(parts: list[int], seed: int) -> None:
    usual = walkers.usual()
    walking, rowing = walkers.recording(3, 40, seed=seed), walkers.recording(4, 20, seed=seed)
    broken = FAULTS["turned_axis"](walking[20:], np.random.default_rng(0))
    windows = np.concatenate([walking[:20], rowing, broken, rowing]).astype(np.float32)
    features = Summary.of(windows).features(usual.floor)
    watch, told, first = Distortion(usual), list[Leap](), 0
    for count in [*parts, len(features)]:
        seqs = range(len(features))[first : first + count]
        told += watch.update_many(features[first : first + count], seqs)
        first += count
    assert len(told) == len(features)
    assert told[-1][:3] == (watch.fault, watch.channel, watch.since_seq)
    before = [None, *(leap.fault for leap in told[:-1])]
    assert [leap.new for leap in told] == [a.fault != b for a, b in zip(told, before, strict=True)]


@pytest.mark.parametrize("step", [1, 2, 3, 5, 8, 40])
def test_some_windows_at_once_are_as_good_as_one_by_one(usual: Usual, step: int) -> None:
    x = walkers.recording(3, 40, seed=7)
    x[12:24] = FAULTS["turned_axis"](x[12:24], np.random.default_rng(0))
    features, watch, told = Summary.of(x).features(usual.floor), Distortion(usual), list[Leap]()
    for first in range(0, len(x), step):
        told += watch.update_many(features[first : first + step], range(len(x))[first:])
    begun, over = (leap for leap in told if leap.new)
    assert (begun.fault, begun.since_seq, over.fault) == ("axis_swap", 12, None)
    assert 24 <= over.since_seq <= 24 + ABOUT


KNOWN_BY_A_LEAP = (
    *("swapped_accelerometer", "swapped_axes", "turned_axis"),
    *("gain_of_all", "gain_of_accelerometer"),
)


@pytest.mark.parametrize("name", KNOWN_BY_A_LEAP)
def test_a_fault_is_named_and_its_beginning_known(usual: Usual, name: str) -> None:
    rng = np.random.default_rng(3)
    x = walkers.recording(3, BEFORE + 8, seed=7)
    watch = play(usual, x[:BEFORE], FAULTS[name](x[BEFORE:], rng).astype(np.float32))
    assert watch.fault in NAMES[name]
    assert watch.since_seq == BEFORE


@pytest.mark.parametrize("change", WORN.values(), ids=WORN)
@pytest.mark.parametrize("activity", [0, 1, 3, 4])
def test_what_a_wearer_can_do_is_no_fault(usual: Usual, change: Change, activity: int) -> None:
    x = walkers.recording(activity, BEFORE + 8, seed=7)
    rng = np.random.default_rng(activity)
    assert play(usual, x[:BEFORE], change(x[BEFORE:], rng)).fault is None


def test_one_activity_after_another_is_hardly_ever_a_fault(usual: Usual) -> None:
    rng, broken = np.random.default_rng(0), 0
    for seed in range(200):
        watch = Distortion(usual)
        parts = [walkers.recording(a, 10, seed=seed) for a in rng.integers(6, size=4).tolist()]
        features = Summary.of(np.concatenate(parts)).features(usual.floor)
        broken += any(leap.new for leap in watch.update_many(features, range(len(features))))
    assert broken <= 2


def test_a_fault_is_over_when_it_is_undone(usual: Usual) -> None:
    x = walkers.recording(3, 40, seed=7)
    broken = FAULTS["turned_axis"](x[12:24], np.random.default_rng(0))
    watch = play(usual, x[:12], broken)
    assert watch.fault == "axis_swap"
    play(usual, x[24:], watch=watch)
    assert watch.fault is None


def test_a_fault_is_over_when_an_activity_comes_again_as_it_was(usual: Usual) -> None:
    walking, rowing = walkers.recording(3, 40, seed=7), walkers.recording(4, 24, seed=7)
    broken = FAULTS["turned_axis"](rowing[12:], np.random.default_rng(0))
    watch = play(usual, walking[:12], rowing[:12], broken)
    assert watch.fault == "axis_swap"
    play(usual, walking[12:], watch=watch)
    assert watch.fault is None


def test_a_stay_of_one_window_is_no_leap(usual: Usual) -> None:
    x, odd = walkers.recording(3, 30, seed=7), walkers.recording(1, 1, seed=7)
    watch = play(usual, x[:12], odd, x[12:])
    assert watch.fault is None


def test_a_fault_that_lasts_is_how_things_are_from_now_on(usual: Usual) -> None:
    x = walkers.recording(3, 40, seed=7)
    broken = FAULTS["turned_axis"](x[12:], np.random.default_rng(0)).astype(np.float32)
    watch = Distortion(usual, DistortionSettings(lasting=15))
    play(usual, x[:12], broken[:12], watch=watch)
    assert watch.fault == "axis_swap"
    play(usual, broken[12:20], watch=watch)
    assert watch.fault is None, "a model can learn it"
    play(usual, broken[20:], watch=watch)
    assert watch.fault is None, "and nothing is compared with what was before"


def test_a_machine_under_load_is_no_gain() -> None:
    """Without gravity nothing tells a gain of all channels from more of what there was."""
    rng = np.random.default_rng(0)

    def running(count: int, load: float) -> NDArray[np.float32]:
        t = np.arange(walkers.LENGTH) / walkers.HZ
        turn = np.sin(2 * np.pi * 5 * t + rng.uniform(0, 6, (count, 1, 1)))
        size = (
            load * np.array([[1.0], [0.6], [0.3]]) * (1 + 0.03 * rng.standard_normal((count, 1, 1)))
        )
        return (size * turn + 0.02 * rng.standard_normal((count, 3, len(t)))).astype(np.float32)

    source = running(60, 1)
    for triads in ((), (0,)):  # three channels of their own, or one sensor
        usual = Usual.fit(Summary.of(source), [np.arange(60)], triads)
        assert usual is not None
        watch = play(usual, running(BEFORE, 1), running(20, 2))
        assert watch.fault is None


def test_what_was_done_long_ago_is_still_known(usual: Usual) -> None:
    """Half a minute of something else between, and of something else again."""
    x = walkers.recording(3, 30, seed=7)
    others = [walkers.recording(activity, 12, seed=7) for activity in (1, 4, 2, 5)]
    broken = FAULTS["turned_axis"](x[12:20], np.random.default_rng(0)).astype(np.float32)
    watch = play(usual, x[:12], *others)
    assert watch.fault is None
    play(usual, broken, watch=watch)
    assert watch.fault == "axis_swap"


def test_a_fault_is_named_soon_after_another_activity_began(usual: Usual) -> None:
    x, other = walkers.recording(3, 20, seed=7), walkers.recording(4, 12, seed=7)
    broken = FAULTS["turned_axis"](x[6:], np.random.default_rng(0)).astype(np.float32)
    assert play(usual, other, x[:6], broken).fault == "axis_swap"


def test_a_fault_after_much_unrest_began_when_it_began(usual: Usual) -> None:
    """Windows of which no two are alike: none of them is where a later fault began."""
    x = walkers.recording(3, 32, seed=7)
    restless = np.concatenate([walkers.recording(n % 6, 1, seed=100 + n) for n in range(20)])
    restless *= np.random.default_rng(0).uniform(0.3, 3, (20, 1, 1)).astype(np.float32)
    broken = FAULTS["turned_axis"](x[12:], np.random.default_rng(0)).astype(np.float32)
    watch = play(usual, x[:12], restless, broken)
    assert watch.fault == "axis_swap"
    assert watch.since_seq >= 12 + 20 - ABOUT


@pytest.mark.parametrize("looks", [(2,), (5,), (2, 3), (2, 5, 9, 12)])
def test_whatever_the_looks_a_new_activity_becomes_known(
    usual: Usual, looks: tuple[int, ...]
) -> None:
    watch = Distortion(usual, DistortionSettings(looks=looks))
    for activity in (1, 2, 3, 4):
        play(usual, walkers.recording(activity, 30, seed=7), watch=watch)
    assert len(watch._known) >= 4
    assert len(watch._after) <= looks[-1]


@pytest.mark.parametrize("step", [1, 3, 8])
@pytest.mark.parametrize("name", ["turned_axis", "swapped_axes", "gain_of_accelerometer"])
def test_a_fault_that_stands_is_not_over(usual: Usual, name: str, step: int) -> None:
    for activity in (1, 2, 3, 4):
        x = walkers.recording(activity, 90, seed=7)
        x[20:] = FAULTS[name](x[20:], np.random.default_rng(0))
        features = Summary.of(x).features(usual.floor)
        watch, told = Distortion(usual), list[Leap]()
        for first in range(0, len(x), step):
            told += watch.update_many(features[first : first + step], range(len(x))[first:])
        news = [leap.fault for leap in told if leap.new]
        assert news in ([], [told[-1].fault]), (activity, news)


@pytest.mark.parametrize("count", range(12, 26))
def test_a_stream_is_not_known_by_windows_of_a_broken_sensor(usual: Usual, count: int) -> None:
    x = walkers.recording(3, 40, seed=7)
    broken = FAULTS["turned_axis"](x[:count], np.random.default_rng(0))
    features = Summary.of(np.concatenate([broken, x[count:]])).features(usual.floor)
    for known, fault in ((False, "axis_swap"), (True, None)):
        watch = Distortion(usual)
        watch.update_many(features[:count], range(count), [known] * count)
        told = watch.update_many(features[count:], range(count, 40))
        assert [leap.fault for leap in told if leap.new] == ([fault] if fault else [])


def test_undoing_what_cannot_be_repairs_nothing(usual: Usual) -> None:
    """Half of gravity before, and what would lead back to it: it was broken before."""
    x = walkers.recording(3, 40, seed=7)
    x[:20, :3] *= 0.5
    features = Summary.of(x).features(usual.floor)
    magnitude = Magnitude.fit(Summary.of(walkers.source()[0]), walkers.TRIADS)
    for known, fault in ((None, "gain"), (magnitude, None)):
        watch = Distortion(usual, magnitude=known)
        watch.update_many(features, range(40))
        assert watch.fault == fault


def test_a_gain_is_over_when_undoing_it_leads_to_what_cannot_be(usual: Usual) -> None:
    """Whatever is done then, known or not."""
    walking, stranger = walkers.recording(3, 24, seed=7), walkers.recording(0, 12, seed=1)
    walking[12:, :3] *= 2
    magnitude = Magnitude.fit(Summary.of(walkers.source()[0]), walkers.TRIADS)
    for known, fault in ((None, "gain"), (magnitude, None)):
        watch = Distortion(usual, magnitude=known)
        play(usual, walking, watch=watch)
        assert watch.fault == "gain"
        play(usual, stranger, watch=watch)
        assert watch.fault == fault
