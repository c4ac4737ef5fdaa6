from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetuner.drift.summary import Summary
from edgetuner.drift.usual import Bout, Usual
from tests.drift import walkers


@pytest.fixture
def usual() -> Usual:
    return walkers.usual()


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


@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(0, 9))
def test_a_young_bout_is_the_mean_of_its_windows(parts: list[int], seed: int) -> None:
    usual = walkers.usual()
    some = walkers.recording(3, sum(parts), seed=seed)
    features = Summary.of(some).features(usual.floor)[: sum(parts)]
    bout, first = Bout(features[0], usual), 1
    for count in parts:
        if len(features[first : first + count]):
            bout.add(features[first : first + count])
        first += count
    assert bout.count == len(features)
    np.testing.assert_allclose(bout.mean, features.mean(0), rtol=1e-3, atol=1e-3)


def test_the_more_is_known_the_more_a_step_counts(usual: Usual) -> None:
    features = Summary.of(walkers.recording(3, 10, seed=1)).features(usual.floor)
    young, old = Bout(features[0], usual), Bout(features[0], usual)
    old.add(np.repeat(features[:1], 9, axis=0))
    assert (old.precision(1) > young.precision(1)).all()
    assert (young.precision(5) > young.precision(1)).all()


def test_another_activity_does_not_fit_a_bout(usual: Usual) -> None:
    features = Summary.of(walkers.recording(3, 20, seed=1)).features(usual.floor)
    other = Summary.of(walkers.recording(4, 5, seed=1)).features(usual.floor)
    bout = Bout(features[0], usual)
    bout.add(features[1:12])
    assert bout.misfit(features[12:].mean(0), 8) < usual.limit < bout.misfit(other.mean(0), 5)


def test_of_very_many_windows_the_last_are_remembered(usual: Usual) -> None:
    features = Summary.of(walkers.recording(3, 40, seed=1)).features(usual.floor)
    bout = Bout(features[0], usual)
    bout.add(features[1:])
    assert np.abs(bout.mean - features.mean(0)).max() < np.abs(features).max()
    assert bout.misfit(features.mean(0), 12) < usual.limit


def test_channels_that_are_copies_are_told_apart_from_nothing() -> None:
    x, recordings = walkers.source()
    x[:, 1:] = x[:, :1]
    twins = Usual.fit(Summary.of(x), recordings, (), ())
    assert twins is not None and np.isfinite(twins.limit) and (twins.spread > 0).all()
