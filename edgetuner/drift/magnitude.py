"""Sizes that no wearer can change: gravity, and where a sensor's mean may lie.

At rest an accelerometer measures g, whichever way it lies. In motion the mean square of what it
measures stays above g^2 (Jensen's inequality: over seconds its mean in the world's frame is g, for
nobody gains speed for long). A gyroscope's mean is next to nothing, for nobody turns for long.

What a mean is beyond that it owes to motion: a limb that swings pulls its sensor towards the joint
all the time, and who turns round mostly moves (not in a car: so slow turns are never asked about).
More of it than motion brought about in the source is a gain or an offset.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from edgetuner.drift.summary import Floats, Summary

CALIBRATION = "calibration"  # a gain or an offset, which of the two is not told

_CALM = 0.1, 0.2, 0.3  # motion over mean: at rest, or as near to it as the source gets
_MIN_CALM = 20  # windows at rest, to know what gravity measures
_STEADY = 0.1  # relative spread of the norm at rest that tells an accelerometer which is not named
_TOLERANCE = 0.15  # relative deviation of the norm that is a fault
_MARGIN = 0.5  # beyond the largest mean in the source, whichever way the sensor lies
# Of what shows gravity, and of what does not:
_STILL = 0.05, 0.25  # motion that counts as none, in units of gravity; of the triad's usual motion
_LEAST_PULL = 0.5  # of a source that hardly moves one learns little
_TURNING = 0.5  # share of the source's largest mean that somebody who is driven about may turn by
_PULL = 2.0  # times what 99 of 100 of the source's windows stay below
_MOST_PULL = 2.0  # of a triad whose mean is of itself, such as a magnetometer's, it is more
_SIZES = "reach", "least", "rest", "still", "pull"


@dataclass(frozen=True, eq=False)
class Magnitude:
    """What the sizes were in the source; motion is the standard deviation of all three axes of a
    triad together.

    Attributes:
        reach: largest absolute mean of each channel over a window; within a triad that of its norm
            (C,).
        triads: first channel of each sensor of three axes whose mean is known at rest (A,).
        least, rest: norm of that mean, physical units: gravity as it measures it, from one
            orientation to another; 0 of what is no accelerometer (A,).
        still: motion that counts as none, physical units (A,).
        pull: how far beyond rest the norm may be, in units of motion and `still` (A,).
    """

    reach: NDArray[np.float32]
    triads: tuple[int, ...]
    least: NDArray[np.float32]
    rest: NDArray[np.float32]
    still: NDArray[np.float32]
    pull: NDArray[np.float32]

    @classmethod
    def fit(
        cls, summaries: Summary, triads: Sequence[int] = (), accelerometers: Sequence[int] = ()
    ) -> Magnitude:
        """From the source's N windows.

        Args:
            summaries: of the windows.
            triads: first channel of each sensor of three axes; those that measure the same
                whichever way they lie are accelerometers.
            accelerometers: those that are by name, even if they measure it badly.
        """
        reach = np.abs(summaries.mean).max(0)
        known = []
        for first in triads:
            both = _norms(summaries.mean, summaries.variance, _axes([first]))
            norm, motion = (column[:, 0] for column in both)
            reach[first : first + 3] = norm.max()  # whichever way the sensor lies
            named = first in accelerometers
            least, rest = (0.0, 0.0)
            if named or not accelerometers:
                least, rest = _gravity(norm, motion, named)
            still = _STILL[0] * rest if rest else _STILL[1] * float(np.median(motion))
            usual = np.quantile((norm - rest) / (motion + still + 1e-12), 0.99)
            pull = max(_PULL * float(usual), _LEAST_PULL)
            if rest or pull < _MOST_PULL:
                known.append((first, least, rest, still, pull))
        firsts, *sizes = zip(*known, strict=True) if known else [()] * 5
        return cls(reach.astype(np.float32), firsts, *(np.array(s, np.float32) for s in sizes))

    @property
    def accelerometers(self) -> tuple[int, ...]:
        """First channel of each sensor that shows gravity."""
        return tuple(first for first, rest in zip(self.triads, self.rest, strict=True) if rest)

    @cached_property
    def _axes(self) -> NDArray[np.int64]:
        return _axes(self.triads)

    @cached_property
    def _beyond(self) -> Floats:
        """Norm of a mean up to which nothing is asked (A,)."""
        turning = _TURNING * self.reach[list(self.triads)]
        return np.where(self.rest > 0, (1 + _TOLERANCE) * self.rest, turning)

    def inspect(self, mean: Floats, variance: Floats) -> NDArray[np.bool_]:
        """Which of N windows are impossible (N,), by mean and variance of each channel (N, C)."""
        far = np.abs(mean) > (1 + _MARGIN) * self.reach
        impossible: NDArray[np.bool_] = np.logical_or.reduce(far, 1)
        if self.triads:
            norm, motion = _norms(mean, variance, self._axes)
            far = norm - self.rest > self.pull * (motion + self.still)
            far &= norm > self._beyond
            far |= np.hypot(norm, motion) < (1 - _TOLERANCE) * self.least
            impossible |= np.logical_or.reduce(far, 1)
        return impossible

    def to_arrays(self) -> dict[str, NDArray[np.float32]]:
        """As numeric arrays, for a safetensors file."""
        return {
            "mean_reach": self.reach,
            "mean_triads": np.array(self.triads, np.float32),
            "mean_least": self.least,
            "mean_rest": self.rest,
            "mean_still": self.still,
            "mean_pull": self.pull,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.float32]]) -> Magnitude | None:
        """What `to_arrays` described; None where a bundle was made without it."""
        try:
            if "mean_triads" not in arrays:  # a bundle made before motion was asked
                triads = tuple(int(first) for first in arrays["accelerometers"])
                gravity = arrays["gravity"]
                still, pull = _STILL[0] * gravity, np.ones_like(gravity)
                return cls(arrays["mean_reach"], triads, gravity, gravity, still, pull)
            triads = tuple(int(first) for first in arrays["mean_triads"])
            reach, *sizes = (arrays[f"mean_{name}"] for name in _SIZES)
            return cls(reach, triads, *sizes)
        except KeyError:
            return None


def _axes(triads: Sequence[int]) -> NDArray[np.int64]:
    """The channels of each triad (A, 3)."""
    return np.add.outer(np.array(triads, np.int64), np.arange(3))


def _norms(mean: Floats, variance: Floats, axes: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Norm of the mean, and motion, of each triad over each window (N, A), (N, A)."""
    square = np.square(mean[:, axes])
    return np.sqrt(np.add.reduce(square, 2)), np.sqrt(np.add.reduce(variance[:, axes], 2))


def _gravity(norm: Floats, motion: Floats, named: bool) -> tuple[float, float]:
    """What a triad measures at rest, at least and at most; (0, 0) if it is no accelerometer."""
    for calm in _CALM:
        at_rest = norm[motion < calm * norm]
        if len(at_rest) >= _MIN_CALM:
            least, most = np.quantile(at_rest, [0.02, 0.98]).tolist()
            return (least, most) if named or most - least < _STEADY * most else (0.0, 0.0)
    return 0.0, 0.0
