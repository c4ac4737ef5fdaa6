from __future__ import annotations

import numpy as np
import pytest

from benchmarks.faults import FAULTS
from edgetuner.drift.maps import SOUND, axis_maps
from edgetuner.drift.summary import Summary
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


def test_one_sensor_alone_can_always_be_worn_so() -> None:
    """Without a second sensor beside it, every exchange of axes is a turn or a mirror image."""
    assert set(axis_maps(3, (0,), (0,)).name) == {SOUND}
