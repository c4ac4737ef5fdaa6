from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgetuner.data import load
from edgetuner.drift.handedness import ENOUGH, Handedness, Mirror
from tests.drift import turners

PAIR = Handedness(0, 3, turners.HZ, 1.0)
FLIP = np.diag([1.0, -1.0, 1.0])


def fit(x: turners.Windows) -> Handedness | None:
    rows = np.arange(len(x))
    return Handedness.fit(x, [rows], turners.TRIADS, turners.POLAR, turners.HZ)


def rotation(seed: int) -> NDArray[np.float64]:
    """Any orthogonal matrix, of determinant 1."""
    matrix, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((3, 3)))
    turn: NDArray[np.float64] = matrix * np.linalg.det(matrix)
    return turn


def test_gravity_turns_the_other_way_in_a_sound_sensor() -> None:
    evidence = PAIR.evidence(turners.recording(40))
    assert evidence.mean() < -1
    assert np.quantile(evidence, 0.9) < 0


@given(st.integers(0, 2**32 - 1))
def test_however_it_is_worn_it_tells_the_same(seed: int) -> None:
    x = turners.recording(4)
    worn = PAIR.evidence(turners.turned(x, rotation(seed)))
    np.testing.assert_allclose(worn, PAIR.evidence(x), atol=0.02)


@given(st.integers(0, 2**32 - 1))
def test_mirrored_axes_tell_the_opposite(seed: int) -> None:
    x = turners.recording(4)
    mirrored = PAIR.evidence(turners.turned(x, rotation(seed) @ FLIP))
    np.testing.assert_allclose(mirrored, -PAIR.evidence(x), atol=0.02)


def test_rest_tells_nothing() -> None:
    x = np.broadcast_to(np.float32([0, 0, 9.81, 0, 0, 0])[:, None], (3, 6, turners.LENGTH))
    np.testing.assert_allclose(PAIR.evidence(x), 0, atol=0.05)


def test_the_source_tells_the_unit_of_turning() -> None:
    x = turners.recording(40)
    assert fit(x) == PAIR
    x[:, 3:] *= 180 / np.pi
    found = fit(x)
    assert found is not None
    assert found.unit == pytest.approx(np.pi / 180)


def test_a_source_that_does_not_tell_is_not_asked() -> None:
    x = turners.recording(40)
    x[:, 3:] = np.random.default_rng(0).standard_normal(x[:, 3:].shape)
    assert fit(x) is None
    assert fit(turners.turned(turners.recording(40), FLIP)) is None, "or mirrored itself"
    rows, hz = [np.arange(len(x))], turners.HZ
    assert Handedness.fit(x, rows, (0,), (0,), hz) is None, "no gyroscope"
    assert Handedness.fit(x, rows, (0, 3), (0, 3), hz) is None, "two accelerometers"
    assert Handedness.fit(x, [], (0, 3), (0,), hz) is None


def test_it_comes_back_from_arrays() -> None:
    assert Handedness.from_arrays(PAIR.to_arrays()) == PAIR
    assert Handedness.from_arrays({}) is None
    assert Handedness.from_arrays({"handedness": np.zeros(3, np.float32)}) is None


def play(mirror: Mirror, gains: list[float], seq: int = 0) -> list[bool]:
    return [mirror.update(gain, seq + i) for i, gain in enumerate(gains)]


def noisy(mean: float, count: int, seed: int = 0) -> list[float]:
    gains: list[float] = (mean + 0.1 * np.random.default_rng(seed).standard_normal(count)).tolist()
    return gains


def test_it_is_known_when_axes_are_mirrored_and_since_when() -> None:
    mirror = Mirror()
    assert not any(play(mirror, noisy(-1.2, 30)))
    told = play(mirror, noisy(1.2, 20, seed=1), seq=30)
    assert told.index(True) < ENOUGH / 0.9 + 1
    assert mirror.since_seq == 30
    assert not play(mirror, noisy(-1.2, 20, seed=2), seq=50)[-1]
    assert mirror.since_seq == 50


def test_what_is_neither_this_nor_that_changes_nothing() -> None:
    assert not any(play(Mirror(), noisy(0.1, 500)))


def test_the_same_window_again_tells_nothing_new() -> None:
    mirror = Mirror()
    assert not any(play(mirror, [2.0] * 12))
    assert mirror.latest() == 2.0


def test_what_is_no_number_tells_nothing() -> None:
    mirror = Mirror()
    play(mirror, [float("nan"), float("inf")])
    assert any(play(mirror, noisy(1.2, 20), seq=2))


def test_what_may_turn_is_foreseen() -> None:
    rng = np.random.default_rng(0)
    for mean in (0.5, -0.5):
        mirror = Mirror()
        for seq in range(0, 400, 8):
            gains, before = (mean + rng.standard_normal(8)).tolist(), mirror.mirrored
            foreseen = mirror.may_turn(gains)
            turned = any(told != before for told in play(mirror, gains, seq))
            assert foreseen or not turned


def test_what_is_accepted_is_how_things_should_be() -> None:
    mirror = Mirror()
    play(mirror, noisy(1.2, 20))
    assert mirror.mirrored
    mirror.accept()
    assert not any(play(mirror, noisy(1.2, 20, seed=1), seq=20))
    assert any(play(mirror, noisy(-1.2, 20, seed=2), seq=40))


def test_people_tell_it_at_any_place_that_a_sensor_is_worn_at(
    recordings: Callable[[str], Path],
) -> None:
    """Nine thousand windows of eight people at each of three places, as they are and mirrored."""
    windows, named = load(recordings("dsads")), list[bool]()
    for place in ("right_arm", "torso", "left_leg"):
        worn = windows.select(position=place)
        evidence = Handedness(0, 3, windows.hz, 1.0).evidence(worn.x)
        mirror = Mirror()
        for row in np.concatenate(worn.recordings()).tolist():
            assert not mirror.update(float(evidence[row]), row)
        for rows in worn.recordings():
            for some in np.split(rows, np.arange(20, len(rows), 20)):
                mirror = Mirror()
                named.append(any(mirror.update(-float(evidence[row]), row) for row in some))
    assert np.mean(named) > 0.5
