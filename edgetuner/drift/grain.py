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
_DEAD = 0.5  # of the source's stillest
_FEW = 8  # values that a window takes: at rest, in steps of the sensor's resolution
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
    """

    held: float
    coarse: NDArray[np.float32]
    quiet: NDArray[np.float32]
    relative: NDArray[np.float32]

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
            np.where(often, deviation, 0).max(0).astype(np.float32),
            np.quantile(deviation[some], _RARE, axis=0).astype(np.float32),
            np.quantile(_relative(deviation[some]), _RARE, axis=0).astype(np.float32),
        )

    def dead(self, x: NDArray[np.float32], deviation: Floats) -> NDArray[np.bool_]:
        """Which channels of windows x (N, C, T) are far stiller than any ever was, by themselves or
        beside the others (N, C); `deviation` is their standard deviation (N, C)."""
        dead: NDArray[np.bool_] = deviation < _DEAD * self.quiet
        if deviation.shape[1] > 1:
            dead |= (_relative(deviation) < _DEAD * self.relative) & (deviation < self.quiet)
        for i, channel in np.argwhere(dead):
            dead[i, channel] = not is_coarse(x[i, channel])
        return dead

    def interrupted(self, x: NDArray[np.float32], held: Floats) -> NDArray[np.bool_]:
        """In which of N windows all channels hold their value for too long (N,); `held` is the
        share of such samples (N,)."""
        limit = max(_HELD, self.held + _MARGIN)
        interrupted: NDArray[np.bool_] = held > limit
        for i in np.flatnonzero(interrupted):  # all of them on their rails at once is clipping
            rails = (x[i] == x[i].max(1)[:, None]) | (x[i] == x[i].min(1)[:, None])
            still = held[i] - rails.all(0).mean() > limit
            interrupted[i] = still and not all(is_coarse(channel) for channel in x[i])
        return interrupted

    def to_arrays(self) -> dict[str, NDArray[np.float32]]:
        """As numeric arrays, for a safetensors file."""
        return {
            "held": np.array([self.held], np.float32),
            "coarse": self.coarse,
            "quiet": self.quiet,
            "relative": self.relative,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.float32]]) -> Grain | None:
        """What `to_arrays` described; None where a bundle was made without it."""
        try:
            held = float(arrays["held"][0])
            return cls(held, arrays["coarse"], arrays["quiet"], arrays["relative"])
        except (KeyError, IndexError):
            return None


def held_share(x: NDArray[np.float32]) -> Floats:
    """Share of samples of windows x (N, C, T) that repeat the one before on all channels (N,)."""
    share: Floats = (x[..., 1:] == x[..., :-1]).all(1).sum(1) / (x.shape[2] - 1)
    return share


def is_coarse(channel: NDArray[np.float32]) -> bool:
    """Whether a channel (T,) takes so few values that it repeats itself by chance."""
    return len(np.unique(channel)) <= _FEW


def extreme_share(x: NDArray[np.float32], extreme: Floats) -> Floats:
    """Share of samples of x (N, C, T) that equal a value of their window (N, C)."""
    share: Floats = (x == extreme[..., None]).sum(2) / x.shape[2]
    return share


def _relative(deviation: Floats) -> Floats:
    level = np.log(np.maximum(deviation, 1e-12))
    others = (level.sum(1, keepdims=True) - level) / max(1, level.shape[1] - 1)
    relative: Floats = np.exp(level - others)
    return relative
