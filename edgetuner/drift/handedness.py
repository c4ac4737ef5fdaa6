"""Whether a sensor's axes are mirrored: its gyroscope tells which way gravity has to turn.

Seen from a sensor that turns by w, gravity turns the other way: da/dt = a x w. A rate of turn is an
axial vector, so where an axis is reversed, or two are exchanged, the same turn seems to go the
other way, da/dt = -(a x w), however the sensor is worn and whatever its wearer does. What he does
adds to `a`, though: a limb that swings is pulled about as it turns, the faster the more. So slow
turns tell most, and no single window is sure.

Noise makes derivatives useless. The relation is tested in its weak form: multiplied by functions f
that are 0 at both ends of a window, and integrated by parts, it is

    y + z = 0    with    y = integral of f' a dt,    z = integral of f (a x w) dt.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from edgetuner.drift.summary import Floats

_SLOW_HZ = 0.55  # limbs that swing do so faster
_LEAST = 2  # functions f
_MOST = 3.0  # evidence that a window counts for
_PRICE = 0.3  # what is taken off the evidence of each; of no activity is it as much
ENOUGH = 7.0  # evidence for the other hand that settles it
_CLEAR = 0.5  # least mean evidence of the source's windows, else nothing is told
_LATEST = 16  # windows whose evidence is remembered
_NEVER = 0.75  # share of that which no recording of the source may come to
_UNITS = 1.0, np.pi / 180  # of the rate of turn: radians, degrees
_TINY = 1e-12


@dataclass(frozen=True)
class Handedness:
    """A pair of sensors of three axes each, side by side.

    Attributes:
        accelerometer, gyroscope: the first channel of each.
        hz: sampling rate.
        unit: radians in a unit of the rate of turn.
    """

    accelerometer: int
    gyroscope: int
    hz: float
    unit: float

    @classmethod
    def fit(
        cls,
        x: NDArray[np.float32],
        recordings: Sequence[NDArray[np.int64]],
        triads: Sequence[int],
        accelerometers: Sequence[int],
        hz: float,
    ) -> Handedness | None:
        """From the source's windows x (N, C, T); None where they do not tell one hand from the
        other, as where limbs only swing.

        Args:
            recordings: rows of each recording of one activity, in time order.
            triads: first channel of each sensor of three axes: of two, one an accelerometer.
            accelerometers: those of them that are.
            hz: sampling rate.
        """
        others = [first for first in triads if first not in accelerometers]
        if len(accelerometers) != 1 or len(others) != 1 or not recordings:
            return None
        pairs = [cls(accelerometers[0], others[0], hz, unit) for unit in _UNITS]
        told = [(float(pair.evidence(x).clip(-_MOST, _MOST).mean()), pair) for pair in pairs]
        mean, best = min(told, key=lambda of: of[0])
        if mean > -_CLEAR:
            return None
        evidence, mirror = best.evidence(x), Mirror()
        for row in np.concatenate(recordings).tolist():
            if mirror.update(evidence[row], row) or mirror.most > _NEVER * ENOUGH:
                return None
        return best

    def evidence(self, x: NDArray[np.float32]) -> Floats:
        """How much likelier each of the windows x (N, C, T) is if an axis is mirrored (N,)."""
        f, slope = _tests(x.shape[2], self.hz)
        a = x[:, self.accelerometer : self.accelerometer + 3]
        w = x[:, self.gyroscope : self.gyroscope + 3]
        turn = np.empty_like(a)
        for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
            np.multiply(a[:, j], w[:, k], out=turn[:, i])
            turn[:, i] -= a[:, k] * w[:, j]
        y, z = a @ slope, turn @ (self.unit * f)
        sound, mirrored = y + z, y - z
        evidence: Floats = np.log(_square(sound) / _square(mirrored))
        return evidence

    def to_arrays(self) -> dict[str, NDArray[np.float32]]:
        """As numeric arrays, for a safetensors file."""
        pair = (self.accelerometer, self.gyroscope, self.hz, self.unit)
        return {"handedness": np.array(pair, np.float32)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.float32]]) -> Handedness | None:
        """What `to_arrays` described; None where a bundle was made without it."""
        pair = arrays.get("handedness")
        if pair is None or pair.shape != (4,):
            return None
        return cls(int(pair[0]), int(pair[1]), float(pair[2]), float(pair[3]))


class Mirror:
    """Watches one stream for the other hand: a CUSUM to and fro.

    Attributes:
        mirrored: whether the axes are mirrored now.
        since_seq: first window of the run that led to the present state.
        count: windows of that run.
        seq: of the latest window.
        most: evidence for a change so far, at most.
    """

    def __init__(self) -> None:
        self.mirrored = False
        self.since_seq = self.count = self.seq = 0
        self.most = 0.0
        self._hand = 1  # which is expected: 1 is the source's
        self._sum = 0.0
        self._begun = self._count = 0  # the present run
        self._gains: deque[float] = deque(maxlen=_LATEST)
        self._told: deque[float] = deque(maxlen=_LATEST)  # what they counted for

    def update(self, gain: float, seq: int) -> bool:
        """Takes the evidence of the next window; whether the axes are mirrored after it."""
        self.seq = seq
        # What is repeated to the bit, by a driver or a replay, tells nothing new.
        new = isfinite(gain) and gain not in self._gains
        told = self._hand * min(max(gain, -_MOST), _MOST) if new else 0.0
        self._gains.append(gain)
        self._told.append(told)
        if not new:
            return self.mirrored
        if self._sum <= 0:
            self._sum, self._begun, self._count = 0.0, seq, 0
        self._sum += (-told if self.mirrored else told) - _PRICE
        self._count += 1
        if self._sum > self.most:
            self.most = self._sum
            if self._sum > ENOUGH:
                self.since_seq, self.count = self._begun, self._count
                self.mirrored, self._sum, self.most = not self.mirrored, 0.0, 0.0
        return self.mirrored

    def may_turn(self, gains: Sequence[float]) -> bool:
        """Whether so much evidence might bring about another state."""
        sign = -self._hand if self.mirrored else self._hand
        rise = sum(min(sign * gain, _MOST) - _PRICE for gain in gains if sign * gain > _PRICE)
        return max(self._sum, 0.0) + rise > ENOUGH

    def latest(self, count: int = _LATEST) -> float:
        """The evidence of the latest windows, of so many at most, for the other hand."""
        return sum(list(self._told)[-count:])

    def accept(self) -> None:
        """Mirrored is how the axes are from now on."""
        self._hand = -self._hand
        self._told.clear()
        self.forget()

    def forget(self) -> None:
        """It is known from elsewhere that the axes are as they should be."""
        self.mirrored, self._sum, self.most = False, 0.0, 0.0


def _square(residual: Floats) -> Floats:
    """What is left of the relation in windows (N, 3, K), squared (N,)."""
    square: Floats = np.einsum("nck,nck->n", residual, residual) + _TINY
    return square


@lru_cache
def _tests(length: int, hz: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The functions f and their slopes, each sample's share of the integral (T, K)."""
    share = np.pi * (np.arange(length)[:, None] + 0.5) / length
    waves = np.arange(1, max(_LEAST, int(2 * _SLOW_HZ * length / hz) - 1) + 1)
    # Flat at both ends, where a sine alone would have an edge, and fast swings show through it.
    f = np.sin(share) * np.sin(waves * share)
    slope = np.cos(share) * np.sin(waves * share) + waves * np.sin(share) * np.cos(waves * share)
    return (f / hz).astype(np.float32), (np.pi * slope / length).astype(np.float32)
