from __future__ import annotations

import doctest
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetuner.drift import cusum
from edgetuner.drift.cusum import Z_MAX, Cusum, normal_score


def alarms(detector: Cusum, scores: list[float]) -> list[int]:
    found = []
    for i, z in enumerate(scores):
        detector.update(z)
        if detector.drift_detected:
            found.append(i)
            detector.reset()
    return found


def test_examples_in_the_documentation() -> None:
    assert doctest.testmod(cusum).failed == 0


def test_golden_alarms() -> None:
    rng = np.random.default_rng(7)
    scores = np.concatenate([rng.normal(0, 1, 300), rng.normal(1.5, 1, 60)]).tolist()
    assert alarms(Cusum(6.0, 0.5), scores) == [305, 312, 321, 328, 336, 341, 347, 355]


def test_constant_ordinary_windows_never_alarm() -> None:
    detector = Cusum(threshold=0.001)
    for p in [1.0] * 1000 + [0.5] * 1000:
        detector.update(normal_score(p))
        assert not detector.drift_detected
        assert detector.statistic == 0
        assert detector.onset == 0


def test_onset_counts_since_zero() -> None:
    detector = Cusum(threshold=100, reference_value=0.5)
    for z in [2.0, -4.0, 1.0, 1.0, 0.0]:
        detector.update(z)
    assert (detector.statistic, detector.onset) == (0.5, 3)
    detector.reset()
    assert (detector.statistic, detector.onset) == (0.0, 0)


@pytest.mark.parametrize("p", [0.0, 1e-300, 1e-9])
def test_a_single_window_is_bounded(p: float) -> None:
    assert normal_score(p) == Z_MAX
    assert normal_score(1 - p) == -Z_MAX


@given(st.floats(1e-4, 1 - 1e-4))
def test_normal_score_inverts_the_normal_distribution(p: float) -> None:
    assert NormalDist().cdf(normal_score(p)) == pytest.approx(1 - p, abs=1e-9)


@given(st.lists(st.floats(-4, 4), max_size=50), st.floats(0, 2))
def test_statistic_is_the_largest_sum_of_a_recent_stretch(scores: list[float], k: float) -> None:
    detector = Cusum(1.0, k)
    for z in scores:
        detector.update(z)
    stretches = [sum(z - k for z in scores[i:]) for i in range(len(scores))]
    assert detector.statistic == pytest.approx(max([0.0, *stretches]), abs=1e-9)
