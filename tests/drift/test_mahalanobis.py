from __future__ import annotations

import numpy as np
import pytest

from edgetuner.drift import mahalanobis
from edgetuner.drift.mahalanobis import ClassDistance
from edgetuner.errors import DriftError


def test_many_windows_give_the_textbook_distance() -> None:
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(6, 6))
    y = rng.integers(2, size=20_000)
    embedding = rng.normal(size=(20_000, 6)) @ mix + 5 * y[:, None]
    distance = ClassDistance.fit(embedding, y, ("a", "b"))
    offset = embedding[:50] - 5  # to class b, whatever the class is
    expected = np.sqrt(np.einsum("nd,nd->n", offset @ np.linalg.inv(mix.T @ mix), offset))
    found = distance(embedding[:50], np.ones(50, int))
    np.testing.assert_allclose(found, expected, rtol=0.05)


def test_wide_embeddings_keep_few_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a sphere outside the kept directions, keeping some is the same as keeping all."""
    rng = np.random.default_rng(0)
    scale = np.r_[10 * np.ones(4), np.ones(36)]
    y = rng.integers(2, size=20_000)
    embedding = rng.normal(size=(20_000, 40)) * scale
    full = ClassDistance.fit(embedding, y, ("a", "b"))
    monkeypatch.setattr(mahalanobis, "MAX_DIRECTIONS", 4)
    narrow = ClassDistance.fit(embedding, y, ("a", "b"))
    assert narrow.whitening.shape == (40, 4)
    np.testing.assert_allclose(narrow(embedding, y), full(embedding, y), rtol=0.05)


def test_fewer_windows_than_dimensions_and_dead_units() -> None:
    rng = np.random.default_rng(0)
    embedding = np.maximum(rng.normal(size=(40, 300)), 0)
    embedding[:, :100] = 0
    y = np.arange(40) % 2
    found = ClassDistance.fit(embedding, y, ("a", "b"))(embedding, y)
    assert np.isfinite(found).all()
    assert (found > 0).all()


def test_an_embedding_at_the_mean_has_no_distance() -> None:
    rng = np.random.default_rng(0)
    distance = ClassDistance.fit(rng.normal(size=(100, 300)), np.arange(100) % 2, ("a", "b"))
    np.testing.assert_array_equal(distance(distance.means, np.array([0, 1])), 0)


def test_constant_embeddings_are_named() -> None:
    with pytest.raises(DriftError, match="constant within every class"):
        ClassDistance.fit(np.ones((10, 3)), np.arange(10) % 2, ("a", "b"))


def test_a_class_without_windows_is_named() -> None:
    with pytest.raises(DriftError, match=r"'sit' has too few windows.*got 0"):
        ClassDistance.fit(np.eye(5), np.zeros(5, int), ("walk", "sit"))
