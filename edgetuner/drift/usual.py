"""How the windows of one activity differ, and an activity as it is known from some of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgetuner.drift.summary import Floats, Summary

_MEMORY = 12  # windows that a bout is remembered by
_PRIOR = 2.0  # windows that the source's variation counts for beside a bout's own
_WANDER = 0.25  # variance of a bout's slow changes, in units of that between neighbouring windows
_CAP = 8.0  # deviations beyond which a feature says no more: one odd feature is not everything
_FINEST = 1e-3  # least standard deviation between windows, where channels are copies of each other
_MIN_SOURCE = 20  # pairs of neighbouring windows, to know what is usual


@dataclass(frozen=True, eq=False)
class Usual:
    """How windows of one bout differ in the source.

    Attributes:
        floor: variance of each channel below which nothing is told apart (C,).
        spread: standard deviation between windows of a bout, of each feature (F,); that of means
            in units of the window's own standard deviation.
        reach: range of each channel's means in the source, physical units (C,).
        limit: misfit that three quarters of the source's bouts stay below.
        triads: first channel of each sensor of three axes.
        polar: those of them that are accelerometers.
    """

    floor: NDArray[np.float32]
    spread: NDArray[np.float32]
    reach: NDArray[np.float32]
    limit: float
    triads: tuple[int, ...] = ()
    polar: tuple[int, ...] = ()

    @classmethod
    def fit(
        cls,
        summaries: Summary,
        recordings: Sequence[NDArray[np.int64]],
        triads: Sequence[int] = (),
        polar: Sequence[int] = (),
    ) -> Usual | None:
        """From the source's N windows; None if its recordings are too short to tell.

        Args:
            summaries: of the windows.
            recordings: rows of each recording of one activity, in time order.
            triads: first channel of each sensor of three axes.
            polar: those of them that are accelerometers.
        """
        channels = summaries.mean.shape[1]
        deviation = np.sqrt(summaries.variance)
        floor = np.square(np.quantile(deviation, 0.02, axis=0) / 2) + 1e-12
        features = summaries.features(floor)
        steps = [np.diff(features[rows], axis=0) for rows in recordings]
        if sum(map(len, steps)) < _MIN_SOURCE:
            return None
        own = np.sqrt(summaries.variance + floor)
        for rows, step in zip(recordings, steps, strict=True):
            step[:, :channels] /= own[rows[1:]]
        # The 70 % quantile of |difference| / sqrt 2 is about a standard deviation, and robust.
        spread = np.quantile(np.abs(np.concatenate(steps)), 0.7, axis=0) / np.sqrt(2)
        for block in _blocks(channels):
            if spread[block].size:  # one channel correlates with none
                spread[block] = max(np.sqrt(np.square(spread[block]).mean()), _FINEST)
        lowest, highest = np.quantile(summaries.mean, [0.01, 0.99], axis=0)
        reach = highest - lowest
        usual = cls(_single(floor), _single(spread), _single(reach), np.inf)
        misfits = [m for rows in recordings for m in usual._misfits(features[rows])]
        if not misfits:
            return None
        limit = float(np.quantile(misfits, 0.75))
        return replace(usual, limit=limit, triads=tuple(triads), polar=tuple(polar))

    def _misfits(self, features: Floats) -> list[float]:
        """Misfits of three windows to the six before, all along a recording (n, F)."""
        found = []
        for start in range(0, len(features) - 8, 3):
            bout = Bout(features[start], self)
            for row in features[start + 1 : start + 6]:
                bout.add(row[None])
            after = features[start + 6 : start + 9].mean(0)
            found.append(float(bout.misfit(after, 3)))
        return found

    def to_arrays(self) -> dict[str, NDArray[np.float32]]:
        """As numeric arrays, for a safetensors file."""
        return {
            "usual_floor": self.floor,
            "usual_spread": self.spread,
            "usual_reach": self.reach,
            "usual_limit": np.array([self.limit], np.float32),
            "triads": np.array(self.triads, np.float32),
            "polar": np.array(self.polar, np.float32),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.float32]]) -> Usual | None:
        """What `to_arrays` described; None where a bundle was made without it."""
        try:
            limit = float(arrays["usual_limit"][0])
            triads, polar = (tuple(map(int, arrays[name])) for name in ("triads", "polar"))
            floor, spread, reach = (arrays[f"usual_{n}"] for n in ("floor", "spread", "reach"))
            return cls(floor, spread, reach, limit, triads, polar)
        except (KeyError, IndexError):
            return None


def _single(values: Floats) -> NDArray[np.float32]:
    return values.astype(np.float32)


def _blocks(channels: int) -> tuple[slice, ...]:
    """Means, levels, correlations and roughness within the features."""
    return (
        slice(channels),
        slice(channels, 2 * channels),
        slice(2 * channels, -channels),
        slice(-channels, None),
    )


def misfit(distance: Floats) -> Floats:
    """Negative log-likelihood of features at such a distance (..., F), each one's capped."""
    capped: Floats = 0.5 * np.add.reduce(np.minimum(distance, _CAP**2), -1)
    return capped


def precision(weight: Floats, known: Floats | int, count: int) -> Floats:
    """What a squared step of the means of `count` windows counts, from a bout of which so many are
    `known`: the variance of both means, and of what wanders between them (..., F).
    """
    precision: Floats = weight * ((_PRIOR + known) / (1 / known + 1 / count + _WANDER))
    return precision


class Bout:
    """Running mean and variance of the features of one activity's latest windows.

    Attributes:
        count: windows, of which no more are remembered than tell of the present.
        mean, variance: of their features (F,).
        weight: 1 over the sum of squares that is expected of so many (F,).
    """

    __slots__ = ("_prior", "_usual", "count", "mean", "variance", "weight")

    def __init__(self, features: Floats, usual: Usual) -> None:
        self._usual = usual
        self.count = 1
        self.mean = features
        self.variance = np.zeros_like(features)
        self._prior = self._expected()
        self.weight = 1 / self._prior

    def add(self, features: Floats) -> None:
        """Takes in some more windows (n, F), of which as many are remembered as it can."""
        features = features[-_MEMORY:]
        before, more = self.count, len(features)
        self.count = min(before + more, _MEMORY)
        step = features - self.mean
        square = step * step
        if more == 1:  # a sum of one takes as long as any
            total, squares = step[0], square[0]
        else:
            total, squares = np.add.reduce(step), np.add.reduce(square)
        self.mean = self.mean + total / self.count
        grown = squares - more * self.variance
        self.variance = self.variance + grown / self.count
        if before < 3 <= self.count or before < _MEMORY == self.count:
            self._prior = self._expected()
        self.weight = 1 / (self._prior + self.count * self.variance)

    def _expected(self) -> Floats:
        """What the variance should be after the source; that of means follows the level (F,)."""
        channels = len(self._usual.floor)
        variance: Floats = _PRIOR * self._usual.spread * self._usual.spread
        variance[:channels] *= np.exp(2 * self.mean[channels : 2 * channels])
        return variance

    def distance(self, features: Floats, count: int) -> Floats:
        """Squared distance of the means (..., F) of `count` windows, in units of the usual."""
        step = features - self.mean
        distance: Floats = step * step * self.precision(count)
        return distance

    def precision(self, count: int) -> Floats:
        """What a squared step of the means of `count` windows counts (F,)."""
        return precision(self.weight, self.count, count)

    def misfit(self, features: Floats, count: int) -> Floats:
        """Negative log-likelihood of the means (..., F) of `count` windows."""
        return misfit(self.distance(features, count))
