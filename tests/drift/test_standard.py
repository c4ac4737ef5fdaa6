from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgetuner.drift.standard import HIGH, LOW, Scale, tail


def home(
    seed: int, between: float, within: float, bouts: int = 400, length: int = 20
) -> tuple[Scale, NDArray[np.float64]]:
    """A scale of two classes, far apart and of different width, and its held-out scores."""
    rng = np.random.default_rng(seed)
    effect = rng.normal(0, np.sqrt(between), (bouts, 1))
    noise = effect + rng.normal(0, np.sqrt(within), (bouts, length))
    predicted = np.repeat(np.arange(bouts) % 2, length)
    scores = (noise.ravel() + 10.0 * predicted) * np.where(predicted, 3.0, 1.0)
    bout = np.repeat(np.arange(bouts), length)
    return Scale.fit(scores, predicted, bout, 2), np.stack([scores, predicted])


@given(st.integers(0, 1000))
@settings(max_examples=10)
def test_every_class_is_standard(seed: int) -> None:
    scale, (scores, predicted) = home(seed, between=0.3, within=0.7)
    standard = scale(scores, predicted.astype(np.int64))
    for k in (0, 1):
        assert standard[predicted == k].mean() == pytest.approx(0, abs=0.15)
        assert standard[predicted == k].std() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("between", [0.2, 0.5, 0.8])
def test_variance_components_are_those_that_made_it(between: float) -> None:
    scale, _ = home(1, between, 1 - between)
    assert scale.spread.between == pytest.approx(between, abs=0.15)
    assert scale.spread.within == pytest.approx(1 - between, abs=0.1)


def test_no_window_says_everything() -> None:
    scale, _ = home(1, 0.3, 0.7)
    assert scale(np.array([-1e9, 1e9]), np.array([0, 0])).tolist() == [LOW, HIGH]


def test_half_of_the_windows_are_stranger_than_an_ordinary_one() -> None:
    found = tail(np.array([-2.0, 0.0, 1.6449, 2.3263]))
    np.testing.assert_allclose(found, [0.9772, 0.5, 0.05, 0.01], atol=1e-4)


def test_a_class_without_windows_is_like_all() -> None:
    rng = np.random.default_rng(0)
    scores, predicted = rng.normal(size=100), np.zeros(100, np.int64)
    scale = Scale.fit(scores, predicted, np.arange(100) // 10, 3)
    assert scale.location[2] == pytest.approx(np.median(scores))
    assert scale.scale[2] == pytest.approx(scale.scale[0], rel=0.1)


def test_bouts_of_one_window_still_have_a_spread() -> None:
    scores = np.random.default_rng(0).normal(size=50)
    spread = Scale.fit(scores, np.zeros(50, np.int64), np.arange(50), 1).spread
    assert spread.between > 0
    assert spread.within > 0
