from __future__ import annotations

import doctest
from math import exp, log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetuner.drift import cusum
from edgetuner.drift.cusum import TOUCHED, Cusum, Cusums, Spread, statistics

SPREAD = Spread(between=0.5, within=0.5)


def fed(scores: list[float], kinds: list[int], threshold: float = 8.0) -> Cusum:
    detector = Cusum(threshold, SPREAD)
    for x, kind in zip(scores, kinds, strict=True):
        detector.update(x, kind)
    return detector


def test_examples_in_the_documentation() -> None:
    assert doctest.testmod(cusum).failed == 0


def test_ordinary_windows_never_move_it() -> None:
    detector = fed([0.0] * 1000, [0, 1] * 500, threshold=0.001)
    assert (detector.statistic, detector.onset, detector.drift_detected) == (0.0, 0, False)


def test_one_kind_is_worth_no_more_for_ever_than_its_mean_is() -> None:
    """Somebody who walks strangely for an hour: shift (m - shift / 2) / between, and no more."""
    bound = log(1 - TOUCHED + TOUCHED * exp(2 * (1.5 - 1) / SPREAD.between))
    some, many = (fed([1.5] * n, [0] * n).statistic for n in (5, 5000))
    assert some < many < bound
    assert many == pytest.approx(bound, rel=0.001)


def test_a_kind_that_is_not_touched_takes_back_little() -> None:
    strange = fed([3.0] * 3, [0] * 3)
    both = fed([3.0] * 3 + [-3.0] * 100, [0] * 3 + [1] * 100)
    assert both.statistic == pytest.approx(strange.statistic + log(1 - TOUCHED), abs=0.01)


def test_kinds_add_up() -> None:
    one, two = fed([1.5] * 10, [0] * 10), fed([1.5] * 20, [0] * 10 + [1] * 10)
    assert two.statistic == pytest.approx(2 * one.statistic)


def test_a_kind_that_turns_out_ordinary_takes_back_what_it_said() -> None:
    detector = fed([3.0] * 3, [0] * 3)
    before = detector.statistic
    for _ in range(3):
        detector.update(0.0, 0)
    assert 0 < detector.statistic < before / 2


def test_zero_forgets_every_kind() -> None:
    detector = fed([2.0] + [-3.0] * 9, [0] * 10)
    assert detector.statistic == 0
    detector.update(2.0, 0)
    assert detector.statistic == fed([2.0], [0]).statistic
    assert detector.onset == 1


def test_reset_forgets_everything() -> None:
    detector = fed([3.0] * 9, [0, 1, 2] * 3)
    assert detector.drift_detected
    detector.reset()
    assert (detector.statistic, detector.onset, detector.drift_detected) == (0.0, 0, False)


@given(st.integers(0, 10_000), st.floats(-0.5, 2), st.integers(1, 6))
def test_many_streams_at_once_are_the_same(seed: int, mean: float, kinds: int) -> None:
    rng = np.random.default_rng(seed)
    scores, kind = rng.normal(mean, 1, (3, 60)), rng.integers(0, kinds, (3, 60))
    together = statistics(scores, kind, SPREAD)
    for row in range(3):
        detector, path = Cusum(1.0, SPREAD), []
        for x, k in zip(scores[row].tolist(), kind[row].tolist(), strict=True):
            detector.update(x, k)
            path.append(detector.statistic)
        np.testing.assert_allclose(together[row], path, atol=1e-9)


@given(st.integers(0, 10_000), st.floats(-0.5, 2))
def test_effects_of_many_streams_at_once_are_the_same(seed: int, mean: float) -> None:
    rng = np.random.default_rng(seed)
    scores, kind = rng.normal(mean, 1, (60, 3)), rng.integers(0, 4, (60, 3))
    together, alone = Cusums(3, 4, SPREAD), [Cusum(1.0, SPREAD) for _ in range(3)]
    for x, k in zip(scores, kind, strict=True):
        together.update(x, k)
        for one, value, its in zip(alone, x.tolist(), k.tolist(), strict=True):
            one.update(value, its)
    chosen = np.array([True, False, True])
    expected = [[alone[row].effects().get(k, 0.0) for k in range(4)] for row in (0, 2)]
    np.testing.assert_allclose(together.effects(chosen), expected, atol=1e-9)


def test_effects_are_what_each_kind_was_strange_by_as_far_as_its_windows_tell() -> None:
    detector = Cusum(threshold=100.0, spread=Spread(between=1.0, within=0.5))
    for x, kind in [(2.0, 0), (3.0, 1), (3.0, 1), (-0.5, 2)]:
        detector.update(x, kind)
    assert detector.effects() == pytest.approx({0: 2 / 1.5, 1: 3 / 1.25})
    detector.reset()
    assert detector.effects() == {}
