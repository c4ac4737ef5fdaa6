from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from benchmarks.faults import FAULTS, NAMES, WORN
from edgetuner.drift.distortion import WORN as NO_FAULT
from edgetuner.drift.distortion import Distortion, DistortionSettings, Usual, axis_maps
from edgetuner.drift.summary import Summary
from tests.drift import walkers

Change = Callable[..., NDArray[np.float32]]
BEFORE = 12


@pytest.fixture(scope="module")
def usual() -> Usual:
    x, recordings = walkers.source()
    found = Usual.fit(Summary.of(x), recordings, walkers.TRIADS, (0,))
    assert found is not None
    return found


def play(usual: Usual, *parts: NDArray[np.float32], watch: Distortion | None = None) -> Distortion:
    watch = watch or Distortion(usual)
    for seq, features in enumerate(Summary.of(np.concatenate(parts)).features(usual.floor)):
        watch.update(features, seq)
    return watch


@given(st.lists(st.integers(1, 12), min_size=1, max_size=20), st.integers(0, 50))
def test_some_windows_at_once_are_the_same_as_one_by_one(parts: list[int], seed: int) -> None:
    x, recordings = walkers.source()
    usual = Usual.fit(Summary.of(x), recordings, walkers.TRIADS, (0,))
    assert usual is not None
    walking, rowing = walkers.recording(3, 40, seed=seed), walkers.recording(4, 20, seed=seed)
    broken = FAULTS["turned_axis"](walking[20:], np.random.default_rng(0))
    windows = np.concatenate([walking[:20], rowing, broken, rowing]).astype(np.float32)
    features = Summary.of(windows).features(usual.floor)
    alone, some = Distortion(usual), Distortion(usual)
    expected = [alone.update(one, seq) for seq, one in enumerate(features)]
    seen, first = [], 0
    for count in [*parts, len(features)]:
        seqs = range(len(features))[first : first + count]
        seen += some.update_many(features[first : first + count], seqs)
        first += count
    assert [leap.fault for leap in seen] == expected
    before = [None, *expected[:-1]]
    assert [leap.new for leap in seen] == [a != b for a, b in zip(before, expected, strict=True)]
    assert (some.since_seq, some.channel) == (alone.since_seq, alone.channel)


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


@given(st.lists(st.integers(0, 5), min_size=2, max_size=5), st.integers(0, 50))
def test_one_activity_after_another_is_no_fault(activities: list[int], seed: int) -> None:
    x, recordings = walkers.source()
    usual = Usual.fit(Summary.of(x), recordings, walkers.TRIADS, (0,))
    assert usual is not None
    assert play(usual, *(walkers.recording(a, 10, seed=seed) for a in activities)).fault is None


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


@pytest.mark.parametrize(("triads", "polar"), [((0,), (0,)), ((0, 3), (0,)), ((0, 3, 6), (0,))])
def test_maps_are_signed_permutations_and_all_differ(
    triads: tuple[int, ...], polar: tuple[int, ...]
) -> None:
    maps = axis_maps(9, triads, polar)
    features = np.random.default_rng(0).standard_normal(9 * 14 // 2)
    mapped = maps(features)
    assert (np.sort(np.abs(mapped)) == np.sort(np.abs(features))).all()
    assert len(np.unique(mapped, axis=0)) == len(maps.name)
    for index, one in enumerate(mapped):
        np.testing.assert_allclose(maps.inverse(index)(one)[0], features)


def test_what_a_map_does_to_features_it_does_to_windows() -> None:
    x, floor = walkers.recording(3, 5, seed=1), np.full(6, 1e-6, np.float32)
    rng, maps = np.random.default_rng(0), axis_maps(6, (0, 3), (0,))
    before = Summary.of(x).features(floor)
    for fault in ("swapped_accelerometer", "swapped_axes", "turned_axis", "turned_gyroscope"):
        after = Summary.of(FAULTS[fault](x, rng)).features(floor)
        pairs = zip(before, after, strict=True)
        same = [np.isclose(maps(one), other, atol=1e-3).all(1) for one, other in pairs]
        assert np.all(same, axis=0).sum() == 1


def test_one_sensor_alone_can_always_be_worn_so() -> None:
    """Without a second sensor beside it, every exchange of axes is a turn or a mirror image."""
    assert set(axis_maps(3, (0,), (0,)).name) == {NO_FAULT}


def test_usual_round_trip(usual: Usual) -> None:
    again = Usual.from_arrays(usual.to_arrays())
    assert again is not None
    assert (again.triads, again.polar) == (usual.triads, usual.polar)
    np.testing.assert_array_equal(again.spread, usual.spread)
    assert np.isclose(again.limit, usual.limit)
    assert Usual.from_arrays({}) is None


def test_short_recordings_tell_nothing() -> None:
    x, _ = walkers.source(count=4)
    assert Usual.fit(Summary.of(x), [np.arange(4)], walkers.TRIADS) is None
    assert Usual.fit(Summary.of(x), [], walkers.TRIADS) is None


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
