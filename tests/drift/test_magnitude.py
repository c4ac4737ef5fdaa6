from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetuner.drift.magnitude import Magnitude
from edgetuner.drift.summary import Summary
from tests.drift import walkers


@pytest.fixture(scope="module")
def known() -> Magnitude:
    return Magnitude.fit(Summary.of(walkers.source()[0]), walkers.TRIADS)


def test_gravity_shows_which_sensor_is_an_accelerometer(known: Magnitude) -> None:
    assert known.triads == (0,)
    np.testing.assert_allclose(known.gravity, walkers.GRAVITY, rtol=0.01)


@given(st.integers(0, 2**32 - 1), st.integers(0, 5))
def test_nobody_can_turn_the_sensor_into_a_fault(seed: int, activity: int) -> None:
    known = Magnitude.fit(Summary.of(walkers.source()[0]), walkers.TRIADS)
    turn, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((3, 3)))
    x = walkers.recording(activity, 5, seed=1)
    x[:, :3] = turn @ x[:, :3]
    assert not known.inspect(Summary.of(x)).any()


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_gravity_of_another_size_is_a_fault(known: Magnitude, factor: float) -> None:
    assert known.inspect(Summary.of(factor * walkers.recording(0, 5, seed=1))).all()


def test_half_of_gravity_is_a_fault_in_motion_too(known: Magnitude) -> None:
    assert known.inspect(Summary.of(0.5 * walkers.recording(1, 5, seed=1))).all()


def test_a_gyroscope_that_turns_for_ever_is_a_fault(known: Magnitude) -> None:
    x = walkers.recording(2, 5, seed=1)
    x[:, 4] += 5
    assert known.inspect(Summary.of(x)).all()


def test_without_sensors_of_three_axes_nothing_is_assumed() -> None:
    known = Magnitude.fit(Summary.of(walkers.source()[0]))
    assert not known.inspect(Summary.of(0.5 * walkers.recording(0, 5, seed=1))).any()
