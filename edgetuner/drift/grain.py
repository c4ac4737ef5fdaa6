"""How finely a sensor speaks: what share of its samples repeat, and how still its channels get."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgetuner.drift.summary import Floats, Summary

_RARE = 0.001  # share of the source's windows that may be odder than what counts as usual
_MARGIN = 0.1  # above the share of repeated samples in the source
_HELD = 0.3  # least share of samples that repeat on all channels at once
_DEAD = 0.5  # of the source's stillest ...
_FAINT = 0.1  # ... and of what it usually is: of a machine that never rests all is about as loud
_FEW = 8  # values that a window takes: at rest, in steps of the sensor's resolution
_CHANCE = 0.01  # share of the windows that are often on an extreme value and not at rest
_OFTEN = 0.04  # share of a window on its extreme value at which a channel may be at rest


@dataclass(frozen=True, eq=False)
class Grain:
    """What the source's samples look like, from nearby.

    Attributes:
        held: share of samples that repeat the one before on all channels at once.
        coarse: standard deviation below which a channel may often sit on its extreme value, because
            its steps are coarse (C,).
        quiet: least standard deviation of each channel (C,).
        relative: the same, in units of the other channels' geometric mean (C,).
        usual: median standard deviation of each channel (C,); infinite where a bundle was made
            without it.
    """

    held: float
    coarse: NDArray[np.float32]
    quiet: NDArray[np.float32]
    relative: NDArray[np.float32]
    usual: NDArray[np.float32]

    @classmethod
    def fit(cls, x: NDArray[np.float32], summaries: Summary) -> Grain:
        """From source windows x (N, C, T) and their summaries."""
        deviation = np.sqrt(summaries.variance)
        held = held_share(x)
        often = np.maximum(extreme_share(x, x.max(2)), extreme_share(x, x.min(2))) >= _OFTEN
        often &= held[:, None] < _MARGIN  # the source has its loose cables, too
        moving = deviation.min(1) > 0
        some = moving if moving.any() else np.ones(len(x), bool)
        return cls(
            float(np.quantile(held, 1 - _RARE)),
            _coarse(deviation, often),
            np.quantile(deviation[some], _RARE, axis=0).astype(np.float32),
            np.quantile(_relative(deviation[some]), _RARE, axis=0).astype(np.float32),
            np.median(deviation[some], axis=0).astype(np.float32),
        )

    def dead(self, x: NDArray[np.float32], deviation: Floats) -> NDArray[np.bool_]:
        """Which channels of windows x (N, C, T) are far stiller than any ever was, by themselves or
        beside the others, and than they usually are (N, C); `deviation` is their standard deviation
        (N, C). What is damped by another place to be at is not dead.
        """
        still: NDArray[np.bool_] = deviation < np.minimum(self.quiet, _FAINT * self.usual)
        if not still.any():
            return still
        dead: NDArray[np.bool_] = (deviation < _DEAD * self.quiet) & still
        if deviation.shape[1] > 1:
            dead |= (_relative(deviation) < _DEAD * self.relative) & still
        for i, channel in np.argwhere(dead):
            dead[i, channel] = not is_coarse(x[i, channel])
        return dead

    def may_be_interrupted(self, x: NDArray[np.float32]) -> bool:
        """Whether that is worth a look: the first channel alone, of all windows, repeats itself as
        often as one window's may."""
        first = x[:, 0]
        repeats = np.count_nonzero(first[:, 1:] == first[:, :-1])
        return bool(repeats > self._limit * (x.shape[2] - 1))

    @property
    def _limit(self) -> float:
        return max(_HELD, self.held + _MARGIN)

    def interrupted(self, x: NDArray[np.float32], held: Floats) -> NDArray[np.bool_]:
        """In which of N windows all channels hold their value for too long (N,); `held` is the
        share of such samples (N,)."""
        interrupted: NDArray[np.bool_] = held > self._limit
        for i in np.flatnonzero(interrupted):  # all of them on their rails at once is clipping
            rails = (x[i] == x[i].max(1)[:, None]) | (x[i] == x[i].min(1)[:, None])
            still = held[i] - rails.all(0).mean() > self._limit
            interrupted[i] = still and not all(is_coarse(channel) for channel in x[i])
        return interrupted

    def to_arrays(self) -> dict[str, NDArray[np.float32]]:
        """As numeric arrays, for a safetensors file."""
        return {
            "held": np.array([self.held], np.float32),
            "coarse": self.coarse,
            "quiet": self.quiet,
            "relative": self.relative,
            "usual_deviation": self.usual,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.float32]]) -> Grain | None:
        """What `to_arrays` described; None where a bundle was made without it."""
        try:
            held = float(arrays["held"][0])
            quiet = arrays["quiet"]
            usual = arrays.get("usual_deviation", np.full_like(quiet, np.inf))
            return cls(held, arrays["coarse"], quiet, arrays["relative"], usual)
        except (KeyError, IndexError):
            return None


def _coarse(deviation: Floats, often: NDArray[np.bool_]) -> NDArray[np.float32]:
    """What nearly all windows stay below that are `often` on an extreme value (N, C); a few are so
    by chance, in full swing."""
    found = np.where(often, deviation, np.nan)
    found[:, ~often.any(0)] = 0
    return np.nanquantile(found, 1 - _CHANCE, axis=0).astype(np.float32)


def held_share(x: NDArray[np.float32]) -> Floats:
    """Share of samples of windows x (N, C, T) that repeat the one before on all channels (N,)."""
    same = x[..., 1:] == x[..., :-1]
    return _share(np.logical_and.reduce(same, 1))


def is_coarse(channel: NDArray[np.float32]) -> bool:
    """Whether a channel (T,) takes so few values that it repeats itself by chance."""
    return len(set(channel.tolist())) <= _FEW


def extreme_share(x: NDArray[np.float32], *extremes: Floats) -> Floats:
    """Share of samples of x (N, C, T) that equal one of some values of their window (N, C)."""
    equal = x == extremes[0][..., None]
    for other in extremes[1:]:
        equal |= x == other[..., None]
    return _share(equal)


def _share(holds: NDArray[np.bool_]) -> Floats:
    """Share of true ones along the last axis; a product of matrices is the quickest to count."""
    length = holds.shape[-1]
    share: Floats = holds.astype(np.float32) @ np.full(length, 1 / length, np.float32)
    return share


def _relative(deviation: Floats) -> Floats:
    level = np.log(np.maximum(deviation, 1e-12))
    others = (level.sum(1, keepdims=True) - level) / max(1, level.shape[1] - 1)
    relative: Floats = np.exp(level - others)
    return relative
