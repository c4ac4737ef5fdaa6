from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetuner.drift.error import ErrorRate, LabelledError


@given(st.integers(0, 50), st.integers(1, 500))
def test_few_windows_prove_little(errors: int, more: int) -> None:
    """The rate is never below the share seen (within its bounds), and comes down to it."""
    windows = errors + more
    rate = ErrorRate(errors, windows).rate
    assert rate >= min(errors / windows, 0.9)
    assert ErrorRate(errors * 20, windows * 20).rate <= rate


def test_errors_of_a_model_that_is_mostly_wrong_are_no_news() -> None:
    assert ErrorRate(2, 100).tells
    assert not ErrorRate(60, 100).tells


def test_errors_as_at_home_are_no_drift() -> None:
    rng = np.random.default_rng(0)
    detector = LabelledError(ErrorRate(10, 100), threshold=8.0)
    for wrong in rng.random(2000) < 0.1:
        detector.update(bool(wrong), int(rng.integers(4)))
        assert not detector.drift_detected


def test_a_change_of_meaning_is_found() -> None:
    detector = LabelledError(ErrorRate(10, 100), threshold=8.0)
    for i in range(40):
        detector.update(True, i % 4)
    assert detector.drift_detected


def test_one_class_alone_is_not_a_hundred_errors() -> None:
    few, many = (LabelledError(ErrorRate(10, 100), threshold=20.0) for _ in range(2))
    for _ in range(10):
        few.update(True, 0)
    for _ in range(1000):
        many.update(True, 0)
    assert not many.drift_detected
    assert many.cusum.statistic == pytest.approx(few.cusum.statistic, rel=0.3)
