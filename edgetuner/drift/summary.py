"""What remains of a window when phase and order are left out: mean, covariance, roughness."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.floating]
_CLOSE = 0.995  # correlations beyond it are all alike: their transform would run to infinity


@dataclass(frozen=True, eq=False, slots=True)
class Summary:
    """Statistics of one window, or of N of them along the first axis.

    Where a sensor's channels go wrong by a linear map `A x + b`, so do these: `A mean + b`,
    `A covariance A'`. That is why they are kept, and not features that one would have to measure
    anew.

    Attributes:
        mean: of each channel, physical units (..., C).
        covariance: of the channels, over the window's samples (..., C, C).
        roughness: mean square of the step from one sample to the next (..., C).
    """

    mean: Floats
    covariance: Floats
    roughness: Floats

    @classmethod
    def of(cls, x: ArrayLike) -> Summary:
        """The summaries of windows x (N, C, T), T > 1."""
        windows = np.asarray(x, np.float32)
        length = windows.shape[2]
        mean = np.add.reduce(windows, 2) * np.float32(1 / length)
        centred = windows - mean[..., None]
        step = windows[..., 1:] - windows[..., :-1]
        return cls(
            mean,
            centred @ centred.transpose(0, 2, 1) * np.float32(1 / length),
            np.einsum("nct,nct->nc", step, step) * np.float32(1 / (length - 1)),
        )

    def __getitem__(self, rows: int | slice | NDArray[np.int64]) -> Summary:
        return Summary(self.mean[rows], self.covariance[rows], self.roughness[rows])

    @property
    def variance(self) -> Floats:
        """Of each channel (..., C)."""
        variance: Floats = self.covariance.diagonal(axis1=-2, axis2=-1)
        return variance

    def features(self, floor: Floats) -> Floats:
        """What windows are compared by, (..., F) with F = C (C + 5) / 2.

        Means; logarithms of the standard deviations; correlations in Fisher's transform; and the
        logarithm of roughness over variance, which is a frequency.

        Args:
            floor: variance of each channel below which nothing is worth telling apart (C,).
        """
        channels = self.mean.shape[-1]
        rows, columns = pairs(channels)
        variance = self.variance + floor
        level = 0.5 * np.log(variance)
        scale = 1 / np.sqrt(variance)
        correlation = self.covariance[..., rows, columns] * scale[..., rows] * scale[..., columns]
        roughness = 0.5 * np.log(self.roughness + 0.5 * floor) - level
        correlation = np.arctanh(np.minimum(np.maximum(correlation, -_CLOSE), _CLOSE))
        return np.concatenate([self.mean, level, correlation, roughness], axis=-1)


@lru_cache
def pairs(channels: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns of the correlations among the features."""
    return np.triu_indices(channels, 1)
