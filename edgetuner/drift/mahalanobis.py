"""Distance of an embedding to the class that the model says it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgetuner.errors import DriftError

Floats = NDArray[np.floating]
Ints = NDArray[np.integer]

MAX_DIRECTIONS = 128  # above this many, keep the widest directions and treat the rest as one sphere
_MIN_WINDOWS_PER_CLASS = 2


@dataclass(frozen=True, eq=False)
class ClassDistance:
    """Mahalanobis distance to class means under one covariance for all classes (Lee et al., 2018).

    One tied covariance, since a class of a few dozen windows cannot support its own. In the kept
    directions it is whitened; what lies outside them (only if D > `MAX_DIRECTIONS`) is measured
    with one common variance, as in probabilistic PCA (Tipping and Bishop, 1999).

    Attributes:
        means: class means, float32 (K, D).
        whitening: eigenvectors over standard deviations, float32 (D, R).
        deviations: standard deviation in each kept direction, float32 (R,).
        rest_precision: 1 / variance outside the kept directions; 0 if there is no outside (R = D).
    """

    means: NDArray[np.float32]
    whitening: NDArray[np.float32]
    deviations: NDArray[np.float32]
    rest_precision: float

    @classmethod
    def fit(cls, embeddings: Floats, y: Ints, classes: tuple[str, ...]) -> ClassDistance:
        """Means and shrunk tied covariance of embeddings (N, D) with labels y (N,).

        Raises:
            DriftError: a class with fewer than two windows, or embeddings that do not vary within
                classes.
        """
        means = np.stack([_class_mean(embeddings, y, k, name) for k, name in enumerate(classes)])
        variances, directions = _shrunk_spectrum(embeddings - means[y])
        kept, outside = variances[:MAX_DIRECTIONS], variances[MAX_DIRECTIONS:]
        deviations = np.sqrt(kept)
        return cls(
            means=means.astype(np.float32),
            whitening=(directions[:, : len(kept)] / deviations).astype(np.float32),
            deviations=deviations.astype(np.float32),
            rest_precision=float(1 / outside.mean()) if len(outside) else 0.0,
        )

    def places(self, embedding: Floats) -> NDArray[np.float32]:
        """Embedding (N, D) in units in which two windows of a class are 1 apart in the mean square:
        whitened, over sqrt(2 R) -> (N, R).
        """
        white = np.asarray(embedding, np.float32) @ self.whitening
        places: NDArray[np.float32] = white / np.float32(np.sqrt(2 * white.shape[1]))
        return places

    def __call__(self, embedding: Floats, predicted: Ints) -> NDArray[np.float64]:
        """Distance of embedding (N, D) to its predicted class (N,), in standard deviations (N,)."""
        offset = np.asarray(embedding, np.float32) - self.means[predicted]  # (N, D)
        white = offset @ self.whitening  # (N, R)
        squared = np.einsum("nr,nr->n", white, white, dtype=np.float64)
        if self.rest_precision:
            inside = white * self.deviations
            rest = np.einsum("nd,nd->n", offset, offset) - np.einsum("nr,nr->n", inside, inside)
            squared += self.rest_precision * np.maximum(
                rest, 0
            )  # rounding may leave a tiny negative
        distance: NDArray[np.float64] = np.sqrt(squared)
        return distance


def _class_mean(embeddings: Floats, y: Ints, k: int, name: str) -> NDArray[np.float64]:
    members = embeddings[y == k]
    if len(members) < _MIN_WINDOWS_PER_CLASS:
        raise DriftError(
            f"class {name!r} has too few windows for a drift reference",
            field="embeddings",
            value=len(members),
            remedy=f"give at least {_MIN_WINDOWS_PER_CLASS} windows of every class",
        )
    return np.asarray(members.mean(0), np.float64)


def _shrunk_spectrum(centred: Floats) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Variances, largest first, and directions (D, D) of the covariance, shrunk towards a sphere.

    The amount of shrinkage is Ledoit and Wolf's (2004, lemma 3.2-3.4): no parameter to choose, and
    the result can be inverted even where units are dead or windows are fewer than dimensions.
    """
    n, dimensions = centred.shape
    covariance = centred.T @ centred / n
    sphere = np.trace(covariance) / dimensions
    if sphere <= np.finfo(np.float32).tiny:
        raise DriftError(
            "embeddings are constant within every class",
            field="embeddings",
            value=float(sphere),
            remedy="check that the model is trained and that embeddings are the input of its head",
        )
    norm = float(np.sum(covariance**2))
    dispersion = norm - dimensions * sphere**2  # squared distance of the covariance to the sphere
    error = (float(np.mean(np.sum(centred**2, axis=1) ** 2)) - norm) / n
    shrinkage = min(error / dispersion, 1.0) if dispersion > 0 else 1.0
    variances, directions = np.linalg.eigh(covariance)
    shrunk = shrinkage * sphere + (1 - shrinkage) * np.maximum(variances, 0)
    return shrunk[::-1], directions[:, ::-1]
