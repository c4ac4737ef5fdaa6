"""Scores of every class on one scale: 0 is ordinary for the class, 1 a standard deviation above."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import erfc, sqrt

import numpy as np
from numpy.typing import NDArray

from edgetuner.drift.cusum import Spread

Scores = NDArray[np.float64]
Ints = NDArray[np.int64]

LOW, HIGH = -3.0, 3.0  # standard scores end here, so that no single window can say everything
# A class of few windows is taken to be like all: windows that its own location and spread weigh as
# much as.
_PRIOR_LOCATION, _PRIOR_SCALE = 3, 10
_LEAST_BETWEEN = 0.05  # effects of bouts always differ, however few of them were seen


@dataclass(frozen=True, eq=False)
class Scale:
    """Where the scores of each class lie at home, and how they vary.

    Attributes:
        location: median by class, drawn to that of all where windows are few (K,).
        scale: standard deviation by class, likewise (K,).
        spread: variances of standard scores between and within bouts.
    """

    location: Scores
    scale: Scores
    spread: Spread

    @classmethod
    def fit(cls, scores: Scores, predicted: Ints, bout: Ints, classes: int) -> Scale:
        """The scale of held-out scores (M,), their predicted class (M,) and bout (M,)."""
        overall = float(np.median(scores))
        location = np.full(classes, overall)
        for k in set(predicted.tolist()):
            own = scores[predicted == k]
            location[k] = (np.median(own) * len(own) + overall * _PRIOR_LOCATION) / (
                len(own) + _PRIOR_LOCATION
            )
        offset = scores - location[predicted]
        common = float(np.mean(offset**2))
        squares = np.bincount(predicted, offset**2, classes)
        windows = np.bincount(predicted, minlength=classes)
        scale = np.sqrt((squares + common * _PRIOR_SCALE) / (windows + _PRIOR_SCALE))
        standard = offset / scale[predicted] if common > 0 else offset
        return cls(location, scale, _spread(standard.clip(LOW, HIGH), bout))

    def at_least(self, between: float) -> Scale:
        """The same scale, on which bouts differ by at least this variance."""
        return replace(self, spread=replace(self.spread, between=max(self.spread.between, between)))

    def __call__(self, scores: Scores, predicted: NDArray[np.integer]) -> Scores:
        """Standard scores (N,) of scores (N,) of predicted classes (N,), between LOW and HIGH."""
        standard: Scores = (scores - self.location[predicted]) / self.scale[predicted]
        return standard.clip(LOW, HIGH)


def tail(standard: Scores) -> Scores:
    """How much of the normal distribution lies above standard scores (N,) -> (N,)."""
    return np.array([0.5 * erfc(z / sqrt(2)) for z in standard.tolist()])


def _spread(standard: Scores, bout: Ints) -> Spread:
    """Variance components by the analysis of variance of the one-way layout."""
    _, group, sizes = np.unique(bout, return_inverse=True, return_counts=True)
    means = np.bincount(group, standard) / sizes
    freedom = len(standard) - len(sizes)
    if freedom == 0:  # bouts of one window each
        return Spread(max(float(means.var()) / 2, _LEAST_BETWEEN), float(means.var()) / 2)
    within = float(((standard - means[group]) ** 2).sum() / freedom)
    between = float(means.var() - np.mean(within / sizes))
    return Spread(max(between, _LEAST_BETWEEN), max(within, _LEAST_BETWEEN))
