"""What a fault may do to all windows alike: axes exchanged or turned, a gain, an offset, a rate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations, product

import numpy as np
from numpy.typing import NDArray

from edgetuner.drift.summary import Floats, pairs
from edgetuner.drift.usual import Usual

AXES, GAIN, OFFSET, RATE = "axis_swap", "gain", "offset", "rate"
SOUND = ""  # no fault: the sensor is worn otherwise, or as before

_MIN_SHIFT = 0.15  # of the range of a channel's means in the source
_MIN_GAIN = np.log(1.25)
_MIN_RATE, _MAX_RATE = np.log(1.4), np.log(2.2)  # of the channel that shows it most
_ALL_RATES = 0.15  # least mean over the channels: a rate is that of all of them


@dataclass(frozen=True, eq=False)
class Maps:
    """K candidates for what undoes a fault.

    Each exchanges channels, turns, scales or shifts them, or stretches time. So what they do to a
    window is known from its features alone, and is the same at every call: no window has to be
    measured anew. (The floor of the features apart, which is taken as alike for channels that are
    exchanged.)

    Attributes:
        name: the fault of each.
        channel: where it affects one channel only, else None.
        source: which feature becomes which (K, F).
        factor: what it is multiplied with (K, F).
        shift: what is added then (K, F).
    """

    name: tuple[str, ...]
    channel: tuple[int | None, ...]
    source: NDArray[np.int64]
    factor: Floats
    shift: Floats

    def __call__(self, features: Floats) -> Floats:
        """Features (F,) under each of the maps (K, F)."""
        mapped: Floats = self.factor * features[self.source] + self.shift
        return mapped

    def undo(self, features: Floats) -> Floats:
        """Windows (N, F) under the one map that there is (N, F)."""
        undone: Floats = self.factor[0] * features[:, self.source[0]] + self.shift[0]
        return undone

    def agreement(self, polar: int, axial: int) -> float:
        """How far the one map that there is leaves the axes of two sensors side by side: 3 if it
        turns both alike, -3 if it mirrors one against the other, in between if it turns some.

        Args:
            polar: first channel of one that measures vectors.
            axial: first channel of one that measures axial vectors.
        """
        matrices = []
        for first in (polar, axial):
            rows = slice(first, first + 3)
            matrix = np.zeros((3, 3))
            matrix[range(3), self.source[0, rows] - first] = self.factor[0, rows]
            matrices.append(matrix)
        a, w = matrices
        return float(np.linalg.det(a) * np.trace(a.T @ w))

    def __getitem__(self, index: int) -> Maps:
        """One of them alone."""
        row = slice(index, index + 1)
        return Maps(
            self.name[row], self.channel[row], self.source[row], self.factor[row], self.shift[row]
        )


@lru_cache
def axis_maps(channels: int, triads: tuple[int, ...], polar: tuple[int, ...]) -> Maps:
    """Axes exchanged, or their signs turned: in one sensor, in all of them alike, or as a wearer
    would do it, which is no fault and has the name "".

    Worn otherwise, all sensors turn by the same rotation. On the other side of the body, vectors
    are mirrored, and axial vectors such as a rate of turn are mirrored and reversed.

    Args:
        channels: C.
        triads: first channel of each sensor of three axes.
        polar: those that measure vectors (accelerometers), not axial vectors.
    """
    plain = [np.eye(3)[list(order)] for order in permutations(range(3)) if order != (0, 1, 2)]
    plain += [np.diag(signs) for signs in product((1.0, -1.0), repeat=3) if min(signs) < 0]
    found: dict[bytes, tuple[str, Floats]] = {}

    def add(name: str, axes: Mapping[int, Floats]) -> None:
        matrix = np.eye(channels)
        for first, block in axes.items():
            matrix[first : first + 3, first : first + 3] = block
        matrix = matrix + 0.0  # no -0.0, which has other bytes
        found.setdefault(matrix.tobytes(), (name, matrix))

    for axes in plain:
        mirrored = np.linalg.det(axes) < 0
        reversed_ = -axes if mirrored else axes
        add(SOUND, {first: axes if first in polar else reversed_ for first in triads})
    for axes in plain:
        for first in triads:
            add(AXES, {first: axes})
        add(AXES, dict.fromkeys(triads, axes))
    names = tuple(name for name, _ in found.values())
    stacked = np.reshape([matrix for _, matrix in found.values()], (-1, channels, channels))
    order, sign = np.abs(stacked).argmax(2), stacked.sum(2).astype(np.float32)  # (K, C)
    rows, columns = pairs(channels)
    pair = np.zeros((channels, channels), np.int64)
    pair[rows, columns] = pair[columns, rows] = np.arange(len(rows))
    levels, correlations, roughness, _ = np.cumsum([channels, channels, len(rows), channels])
    source = [
        *(order, levels + order),
        *(correlations + pair[order[:, rows], order[:, columns]], roughness + order),
    ]
    one = np.ones_like(sign)
    factor = np.concatenate([sign, one, sign[:, rows] * sign[:, columns], one], axis=1)
    count = len(names)
    return Maps(
        names, (None,) * count, np.concatenate(source, axis=1), factor, np.zeros_like(factor)
    )


@lru_cache
def _groups(
    channels: int, triads: tuple[int, ...], alone: bool, weighed: bool
) -> NDArray[np.float32]:
    """Which channels a gain may affect together: each, those of a sensor, or all (G, C).

    All of them only where one has gravity to tell a gain from: else it is what a machine under load
    does, and somebody who hurries.
    """
    groups = [np.arange(channels) == c for c in range(channels)] if alone else []
    groups += [np.isin(np.arange(channels), range(first, first + 3)) for first in triads]
    groups = [*groups, np.ones(channels, bool)]
    found = np.unique(groups, axis=0).astype(np.float32)
    return found if weighed else found[found.sum(1) < channels]


def other_maps(features: Floats, before: Floats, usual: Usual, *, alone: bool) -> Maps:
    """Gain, offset and rate that would lead back from the windows after to those before.

    Args:
        features: mean features of the windows after (F,).
        before: those of the bout (F,).
        alone: whether one channel by itself may be off.
    """
    channels = len(usual.floor)
    groups = _groups(channels, usual.triads, alone, bool(usual.polar))
    mean, step = features[:channels], before - features
    leapt = np.abs(step[:channels]) > _MIN_SHIFT * usual.reach
    by_spread = groups @ step[channels : 2 * channels] / groups.sum(1)
    # The least squares of a factor; no factor makes up for a mean that changed its sign.
    ratio = groups @ (before[:channels] * mean) / np.maximum(groups @ (mean * mean), 1e-12)
    by_level = np.log(np.maximum(ratio, 1e-12)) * ((ratio > 0) & (groups @ leapt > 0))
    gain = np.concatenate([by_spread, by_level])
    chosen = (np.abs(gain) > _MIN_GAIN).nonzero()[0]
    where = groups[chosen % len(groups)]
    shifted = leapt.nonzero()[0] if alone else np.empty(0, np.int64)
    # Of one sensor alone, a machine that turns faster shows the same.
    pace = _pace(step[-channels:]) if len(usual.triads) > 1 else None
    faster = pace is not None
    gains, offsets = len(where), len(shifted)
    shape = gains + offsets + faster, len(features)

    factor, shift = np.ones(shape, np.float32), np.zeros(shape, np.float32)
    scaled = where * gain[chosen, None]
    shift[:gains, channels : 2 * channels] = scaled
    factor[:gains, :channels] = np.exp(scaled)
    shift[range(gains, gains + offsets), shifted] = step[shifted]
    if pace is not None:
        shift[-1, -channels:] = pace
    only = [group.index(1) if group.count(1) == 1 else None for group in where.tolist()]
    return Maps(
        (GAIN,) * gains + (OFFSET,) * offsets + (RATE,) * faster,
        (*only, *shifted.tolist(), *(None,) * faster),
        np.zeros(shape, np.int64) + np.arange(len(features)),
        factor,
        shift,
    )


def _pace(step: Floats) -> Floats | None:
    """What a rate would have done to the roughness of each channel (C,), given how far that is from
    before (C,); None if no rate did.

    Noise is as rough at any rate, and what swings slowly is not, so that each channel shows of the
    rate what it has of the latter.
    """
    sign = float(np.sign(step.sum()))
    pace: Floats = np.clip(sign * step, 0, _MAX_RATE)
    if pace.max() < _MIN_RATE or abs(step.mean()) < _ALL_RATES:
        return None
    paced: Floats = sign * pace
    return paced
