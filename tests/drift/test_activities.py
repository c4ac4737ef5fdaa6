from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from edgetuner.drift.activities import KNOWN, Activities
from edgetuner.drift.summary import Floats, Summary
from edgetuner.drift.usual import Bout, Usual
from tests.drift import walkers


@pytest.fixture
def usual() -> Usual:
    return walkers.usual()


def features(usual: Usual, activity: int, count: int, seed: int = 1) -> Floats:
    return Summary.of(walkers.recording(activity, count, seed=seed)).features(usual.floor)


def met(usual: Usual, *activities: int, most: int = 8, count: int = 6) -> Activities:
    known = Activities(usual, most)
    for activity in activities:
        known.meet(features(usual, activity, count), activity)
    return known


def test_each_activity_is_nearest_to_itself(usual: Usual) -> None:
    known = met(usual, 1, 2, 3, 4)
    assert len(known) == 4
    for index, activity in enumerate((1, 2, 3, 4)):
        nearest, distance = known.nearest(features(usual, activity, 5, seed=2))
        assert nearest.tolist() == [index] * 5
        assert distance.shape == (5, len(usual.spread))


def test_what_is_met_again_is_not_known_twice(usual: Usual) -> None:
    known = met(usual, 1, 2, 1)
    assert len(known) == 2
    assert (known.bouts[0].count, known.latest) == (12, 0)


def test_the_one_not_seen_for_longest_makes_room(usual: Usual) -> None:
    known = met(usual, 1, 2, 3, most=3)
    known.learn(0, features(usual, 1, 2))
    known.meet(features(usual, 4, 6), 4)
    assert known.latest == 1, "in place of the second"
    for activity, index in ((1, 0), (4, 1), (3, 2)):
        assert known.nearest(features(usual, activity, 1, seed=2))[0].tolist() == [index]


def test_what_is_hardly_known_makes_room_first(usual: Usual) -> None:
    known = met(usual, 1, 2, most=3)
    known.meet(features(usual, 3, KNOWN - 1), 3)
    known.learn(0, features(usual, 1, 2))
    assert known.well_known().tolist() == [0, 1]
    known.meet(features(usual, 4, 6), 4)
    assert known.latest == 2
    assert known.well_known().tolist() == [2, 0, 1], "the latest first"


def test_side_by_side_is_the_same_as_one_by_one(usual: Usual) -> None:
    known, alone = met(usual, 1, 3), []
    for activity in (1, 3):
        rows = features(usual, activity, 6)
        bout = Bout(rows[0], usual)
        bout.add(rows[1:])
        alone.append(bout)
    mean: NDArray[np.float32] = features(usual, 4, 5).mean(0)
    expected = [float(bout.misfit(mean, 5)) for bout in alone]
    np.testing.assert_allclose(known.misfits(mean, 5), expected, rtol=1e-4)


def test_nothing_is_known_any_more(usual: Usual) -> None:
    known = met(usual, 1, 2)
    known.forget()
    assert len(known) == 0
    assert known.well_known().tolist() == []
    known.meet(features(usual, 3, 6), 3)
    assert len(known) == 1


def test_what_was_met_lately_can_be_doubted(usual: Usual) -> None:
    known = met(usual, 1, 3, 4, 2)  # at 1, 3, 4 and 2
    known.doubt(3)
    assert (len(known), known.latest) == (2, 1)
    for activity, index in ((1, 0), (2, 1)):
        assert known.nearest(features(usual, activity, 2, seed=2))[0].tolist() == [index] * 2
    known.doubt(0)
    assert len(known) == 0
