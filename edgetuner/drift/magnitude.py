"""Sizes that no wearer can change: gravity, and where a channel's mean may lie.

At rest an accelerometer measures g, whichever way it lies. In motion the mean square of what it
measures stays above g^2 (Jensen's inequality: over seconds its mean in the world's frame is g, for
nobody gains speed for long). A gyroscope's mean is next to nothing, for nobody turns for long.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgetuner.drift.summary import Floats, Summary

CALIBRATION = "calibration"  # a gain or an offset, which of the two is not told

_CALM = 0.05  # standard deviation over mean: at rest
_MIN_CALM = 20  # windows at rest, to know what gravity measures
_STEADY = 0.1  # relative spread of the norm at rest that an accelerometer may show in the source
_TOLERANCE = 0.15  # relative deviation of the norm that is a fault
_MARGIN = 0.5  # beyond the largest mean in the source, whichever way the sensor lies


@dataclass(frozen=True, eq=False)
class Magnitude:
    """What the sizes were in the source.

    Attributes:
        triads: first channel of each accelerometer of three axes (A,).
        gravity: what each of them measures at rest, physical units (A,).
        reach: largest absolute mean of each channel over a window; within a triad that of its norm
            (C,).
    """

    triads: tuple[int, ...]
    gravity: NDArray[np.float32]
    reach: NDArray[np.float32]

    @classmethod
    def fit(cls, summaries: Summary, triads: Sequence[int] = ()) -> Magnitude:
        """From the source's N windows.

        Args:
            summaries: of the windows.
            triads: first channel of each sensor of three axes; those that measure the same
                whichever way they lie are accelerometers.
        """
        known, gravity = [], []
        for first in triads:
            norm, square = _norms(summaries, first)
            at_rest = norm[square - norm**2 < (_CALM * norm) ** 2]
            if len(at_rest) >= _MIN_CALM:
                lowest, middle, highest = np.quantile(at_rest, [0.02, 0.5, 0.98])
                if highest - lowest < _STEADY * middle:
                    known.append(first)
                    gravity.append(middle)
        reach = np.abs(summaries.mean).max(0)
        for first in triads:  # whichever way the sensor lies
            reach[first : first + 3] = _norms(summaries, first)[0].max()
        return cls(tuple(known), np.array(gravity, np.float32), reach.astype(np.float32))

    def inspect(self, summaries: Summary) -> NDArray[np.bool_]:
        """Which of N windows are impossible (N,)."""
        size = np.abs(summaries.mean)
        impossible: NDArray[np.bool_] = np.logical_or.reduce(size > (1 + _MARGIN) * self.reach, 1)
        for first, gravity in zip(self.triads, self.gravity.tolist(), strict=True):
            norm, square = _norms(summaries, first)
            impossible |= square < ((1 - _TOLERANCE) * gravity) ** 2
            large = norm > (1 + _TOLERANCE) * gravity
            if large.any():  # in motion it may be
                impossible |= large & (square < (1 + _CALM**2) * norm * norm)
        return impossible

    def to_arrays(self) -> dict[str, NDArray[np.float32]]:
        """As numeric arrays, for a safetensors file."""
        return {
            "accelerometers": np.array(self.triads, np.float32),
            "gravity": self.gravity,
            "mean_reach": self.reach,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.float32]]) -> Magnitude | None:
        """What `to_arrays` described; None where a bundle was made without it."""
        try:
            triads = tuple(int(first) for first in arrays["accelerometers"])
            return cls(triads, arrays["gravity"], arrays["mean_reach"])
        except KeyError:
            return None


def _norms(summaries: Summary, first: int) -> tuple[Floats, Floats]:
    """Norm of the mean, and mean square of the norm, of a triad over each window (N,), (N,)."""
    axes = slice(first, first + 3)
    mean = summaries.mean[:, axes]
    square = np.add.reduce(mean * mean, 1)
    return np.sqrt(square), square + np.add.reduce(summaries.variance[:, axes], 1)
