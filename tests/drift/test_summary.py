from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgetuner.drift.summary import Summary


@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_a_summary_of_mapped_windows_is_the_mapped_summary(seed: int, channels: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((3, channels, 40)).astype(np.float32)
    matrix, shift = rng.standard_normal((channels, channels)), rng.standard_normal(channels)
    plain, mapped = Summary.of(x), Summary.of(matrix @ x + shift[:, None])
    np.testing.assert_allclose(plain.mean @ matrix.T + shift, mapped.mean, atol=1e-4)
    np.testing.assert_allclose(
        matrix @ plain.covariance @ matrix.T, mapped.covariance, atol=1e-3, rtol=1e-3
    )


@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_features_of_any_window_are_finite(seed: int, channels: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((4, channels, 30)).astype(np.float32)
    x[0] = 1.0  # constant
    x[1] = x[1, 0]  # all channels alike
    features = Summary.of(x).features(np.full(channels, 1e-6))
    assert features.shape == (4, channels * (channels + 5) // 2)
    assert np.isfinite(features).all()


def test_roughness_is_a_frequency() -> None:
    t = np.arange(200) / 50
    x = np.sin(2 * np.pi * np.array([1.0, 2.0])[:, None, None] * t).astype(np.float32)
    features = Summary.of(x).features(np.full(1, 1e-9))
    assert np.isclose(features[1, -1] - features[0, -1], np.log(2), atol=0.02)
