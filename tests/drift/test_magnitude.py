from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgetuner.drift.magnitude import Magnitude
from edgetuner.drift.summary import Summary
from tests.drift import walkers


def impossible(known: Magnitude, x: NDArray[np.float32]) -> NDArray[np.bool_]:
    summaries = Summary.of(x)
    return known.inspect(summaries.mean, summaries.variance)


@pytest.fixture(scope="module")
def known() -> Magnitude:
    return Magnitude.fit(Summary.of(walkers.source()[0]), walkers.TRIADS)


def test_gravity_shows_which_sensor_is_an_accelerometer(known: Magnitude) -> None:
    assert known.accelerometers == (0,)
    np.testing.assert_allclose(known.rest[0], walkers.GRAVITY, rtol=0.01)


@given(st.integers(0, 2**32 - 1), st.integers(0, 5))
def test_nobody_can_turn_the_sensor_into_a_fault(seed: int, activity: int) -> None:
    known = Magnitude.fit(Summary.of(walkers.source()[0]), walkers.TRIADS)
    turn, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((3, 3)))
    x = walkers.recording(activity, 5, seed=1)
    x[:, :3] = turn @ x[:, :3]
    assert not impossible(known, x).any()


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_gravity_of_another_size_is_a_fault(known: Magnitude, factor: float) -> None:
    assert impossible(known, factor * walkers.recording(0, 5, seed=1)).all()


def test_half_of_gravity_is_a_fault_in_motion_too(known: Magnitude) -> None:
    assert impossible(known, 0.5 * walkers.recording(1, 5, seed=1)).all()


def test_a_gyroscope_that_turns_for_ever_is_a_fault(known: Magnitude) -> None:
    x = walkers.recording(2, 5, seed=1)
    x[:, 4] += 5
    assert impossible(known, x).all()


def test_an_offset_of_an_accelerometer_is_more_than_motion_explains(known: Magnitude) -> None:
    x = walkers.recording(1, 5, seed=1)
    assert not impossible(known, x).any()
    x[:, 1] += 1.5 * walkers.GRAVITY
    assert impossible(known, x).all()


def test_a_slow_turn_that_never_ends_is_an_offset_at_rest(known: Magnitude) -> None:
    """In motion it may be that of somebody who walks in circles."""
    for activity, fault in ((0, True), (2, False)):
        x = walkers.recording(activity, 5, seed=1)
        x[:, 4] += 0.7
        assert impossible(known, x).all() == fault


def test_whoever_is_driven_round_a_bend_has_a_sound_gyroscope(known: Magnitude) -> None:
    x = walkers.recording(0, 5, seed=1)
    x[:, 4] += 0.2  # rad/s
    assert not impossible(known, x).any()


def test_an_accelerometer_by_name_may_measure_gravity_badly() -> None:
    rng = np.random.default_rng(0)
    x = walkers.source()[0]
    x[:, :3] *= rng.uniform(0.92, 1.08, (len(x), 1, 1)).astype(np.float32)
    summaries = Summary.of(x)
    assert Magnitude.fit(summaries, walkers.TRIADS).accelerometers == ()
    known = Magnitude.fit(summaries, walkers.TRIADS, accelerometers=(0,))
    assert known.accelerometers == (0,)
    assert known.least[0] < walkers.GRAVITY < known.rest[0]
    assert not impossible(known, x).any()
    assert impossible(known, 0.5 * x[:40]).all()


def test_a_triad_with_a_mean_of_its_own_is_none_that_hovers_about_nothing() -> None:
    """A magnetometer among metal: neither as large wherever it points, nor next to nothing."""
    x = walkers.source()[0]
    rng = np.random.default_rng(0)
    x[:, 3:] += rng.uniform(20, 60, (len(x), 3, 1)).astype(np.float32)
    known = Magnitude.fit(Summary.of(x), walkers.TRIADS)
    assert known.triads == (0,)


def test_it_comes_back_from_arrays(known: Magnitude) -> None:
    found = Magnitude.from_arrays(known.to_arrays())
    assert found is not None and found.triads == known.triads
    np.testing.assert_array_equal(found.pull, known.pull)
    assert Magnitude.from_arrays({"mean_reach": known.reach}) is None


def test_a_bundle_made_before_motion_was_asked_is_checked_for_gravity(known: Magnitude) -> None:
    before = {
        "accelerometers": np.zeros(1, np.float32),
        "gravity": known.rest[:1],
        "mean_reach": known.reach,
    }
    found = Magnitude.from_arrays(before)
    assert found is not None
    for factor, fault in ((0.5, True), (1.0, False), (2.0, True)):
        assert impossible(found, factor * walkers.recording(0, 5, seed=1)).all() == fault


def test_what_always_turns_alike_is_no_accelerometer_where_another_is_named() -> None:
    x = walkers.source()[0]
    x[:, 3:] *= 0.01
    x[:, 5] += 2
    summaries = Summary.of(x)
    assert Magnitude.fit(summaries, walkers.TRIADS).accelerometers == (0, 3)
    assert Magnitude.fit(summaries, walkers.TRIADS, (0,)).accelerometers == (0,)


def test_without_sensors_of_three_axes_nothing_is_assumed() -> None:
    known = Magnitude.fit(Summary.of(walkers.source()[0]))
    assert not impossible(known, 0.5 * walkers.recording(0, 5, seed=1)).any()
