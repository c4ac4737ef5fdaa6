from __future__ import annotations

import numpy as np
import pytest

from benchmarks.faults import FAULTS
from edgetuner.drift.maps import RATE, SOUND, axis_maps, other_maps
from edgetuner.drift.summary import Floats, Summary
from tests.drift import walkers


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
        np.testing.assert_array_equal(maps[index].undo(np.stack([features, features])), [one, one])


def test_what_a_map_does_to_features_it_does_to_windows() -> None:
    x, floor = walkers.recording(3, 5, seed=1), np.full(6, 1e-6, np.float32)
    rng, maps = np.random.default_rng(0), axis_maps(6, (0, 3), (0,))
    before = Summary.of(x).features(floor)
    for fault in ("swapped_accelerometer", "swapped_axes", "turned_axis", "turned_gyroscope"):
        after = Summary.of(FAULTS[fault](x, rng)).features(floor)
        pairs = zip(before, after, strict=True)
        same = [np.isclose(maps(one), other, atol=1e-3).all(1) for one, other in pairs]
        assert np.all(same, axis=0).sum() == 1


def test_maps_turn_axes_alike_or_against_each_other() -> None:
    maps = axis_maps(6, (0, 3), (0,))
    for index, name in enumerate(maps.name):
        agreement = maps[index].agreement(0, 3)
        assert agreement in (-3, -1, 0, 1, 3)
        assert (agreement == 3) == (name == SOUND), "what a wearer does turns both alike"


@pytest.mark.parametrize(
    ("fault", "agreement"),
    [
        ("turned_axis", -3),
        ("swapped_axes", -3),
        ("swapped_accelerometer", -1),
        ("turned_gyroscope", 1),
    ],
)
def test_a_fault_tells_how_far_axes_agree(fault: str, agreement: int) -> None:
    x, maps = walkers.recording(3, 5, seed=1), axis_maps(6, (0, 3), (0,))
    floor = np.full(6, 1e-6, np.float32)
    before = Summary.of(x).features(floor)
    after = Summary.of(FAULTS[fault](x, np.random.default_rng(0))).features(floor)
    pairs = zip(before, after, strict=True)
    same = [np.isclose(maps(one), other, atol=1e-3).all(1) for one, other in pairs]
    [index] = np.flatnonzero(np.all(same, axis=0))
    assert maps[int(index)].agreement(0, 3) == agreement


def test_one_sensor_alone_can_always_be_worn_so() -> None:
    """Without a second sensor beside it, every exchange of axes is a turn or a mirror image."""
    assert set(axis_maps(3, (0,), (0,)).name) == {SOUND}


def rates(step: list[float]) -> Floats | None:
    """The rate that would undo such a step of the roughness of each channel; None if none would."""
    usual = walkers.usual()
    before = Summary.of(walkers.source()[0][:1]).features(usual.floor)[0]
    after = before.copy()
    after[-6:] -= np.array(step, np.float32)
    maps = other_maps(after, before, usual, alone=True)
    if RATE not in maps.name:
        return None
    undone: Floats = maps[maps.name.index(RATE)].undo(after[None])[0] - before
    assert (undone[:-6] == 0).all(), "a rate does nothing but that"
    return undone[-6:]


def test_a_rate_shows_in_each_channel_as_far_as_it_swings() -> None:
    for step in ([np.log(2)] * 6, [0.0, 0.6, 0.3, 0.0, 0.69, 0.5], [-0.6, -0.1, 0, 0, -0.4, -0.5]):
        undone = rates(step)
        assert undone is not None
        np.testing.assert_allclose(undone, 0, atol=1e-5)


def test_what_no_rate_does_is_left() -> None:
    undone = rates([0.6, 0.6, -0.2, 0.5, 2.0, 0.6])
    assert undone is not None
    np.testing.assert_allclose(undone, [0, 0, 0.2, 0, np.log(2.2) - 2, 0], atol=1e-5)


@pytest.mark.parametrize("step", [[0.2] * 6, [0.6, 0, 0, 0, 0, 0], [0.6, -0.6, 0.5, -0.6, 0, 0]])
def test_what_hardly_shows_or_not_in_all_is_no_rate(step: list[float]) -> None:
    assert rates(step) is None
