"""A broken sensor, told apart from a changed world: no training repairs a loose cable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgetuner.errors import DriftError

FLAT, CLIPPED, RANGE, RATE = "flat_line", "clipping", "range", "rate"


@dataclass(frozen=True)
class SensorSettings:
    """What counts as a fault.

    Attributes:
        persistence: windows in a row before a fault is reported, and good ones before it is over.
        range_margin: how far outside the source's range is insane, in widths of that range.
        clipped_fraction: share of a window's samples that sit exactly on its highest or lowest
            value ...
        clipped_swing: ... while the channel swings by at least this share of the source's range.
        rate_tolerance: relative deviation of the rate, or of the time between windows, that is a
            fault.
        hop: samples from one window's start to the next; None if unknown: then time stamps are not
            checked.
    """

    persistence: int = 3
    range_margin: float = 1.0
    clipped_fraction: float = 0.1
    clipped_swing: float = 0.5
    rate_tolerance: float = 0.25
    hop: int | None = None


@dataclass(frozen=True, eq=False)
class SensorProfile:
    """What the sensor of the source can do.

    Attributes:
        low: lowest value of each channel in the source, physical units (C,).
        high: highest value (C,).
        hz: sampling rate.
    """

    low: NDArray[np.float32]
    high: NDArray[np.float32]
    hz: float

    @classmethod
    def fit(cls, x: ArrayLike, hz: float) -> SensorProfile:
        """The profile of source windows x (N, C, T).

        Raises:
            DriftError: no windows, or a channel that never moves.
        """
        windows = np.asarray(x, np.float32)
        if windows.ndim != 3 or 0 in windows.shape:
            raise DriftError(
                "not a set of windows", field="x", value=windows.shape, remedy="give (N, C, T)"
            )
        low, high = windows.min((0, 2)), windows.max((0, 2))
        if not (low < high).all():
            raise DriftError(
                "a channel is constant in all source windows, or not finite",
                field="x",
                value=[int(c) for c in np.flatnonzero(~(low < high))],
                remedy="leave these channels out",
            )
        return cls(low, high, float(hz))

    def inspect(self, x: ArrayLike, settings: SensorSettings) -> list[tuple[str, int] | None]:
        """For each of the windows x (N, C, T): None, or which fault and on which channel."""
        windows = np.asarray(x, np.float32)
        low, high = windows.min(2), windows.max(2)  # (N, C)
        span = self.high - self.low
        swing, margin = high - low, settings.range_margin * span
        # negated, so that NaN is a fault too
        insane = ~((low >= self.low - margin) & (high <= self.high + margin))
        flat = swing == 0
        clipped = swing >= settings.clipped_swing * span
        if clipped.any():  # counting is the dear part, and most windows of most lives are calm
            stuck = (windows == high[..., None]).sum(2), (windows == low[..., None]).sum(2)
            clipped &= np.maximum(*stuck) >= settings.clipped_fraction * windows.shape[2]
        if not (insane | flat | clipped).any():
            return [None] * len(windows)
        return [_first(row) for row in zip(insane, flat, clipped, strict=True)]

    def to_arrays(self) -> dict[str, NDArray[np.float32]]:
        """The profile as numeric arrays, for a safetensors file."""
        return {"low": self.low, "high": self.high, "hz": np.array([self.hz], np.float32)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.float32]]) -> SensorProfile:
        """The profile that `to_arrays` described.

        Raises:
            DriftError: an array is missing.
        """
        try:
            return cls(arrays["low"], arrays["high"], float(arrays["hz"][0]))
        except (KeyError, IndexError) as error:
            raise DriftError(
                "sensor profile is incomplete",
                field="sensor",
                value=str(error),
                remedy="create the bundle again",
            ) from error


def _first(found: tuple[NDArray[np.bool_], ...]) -> tuple[str, int] | None:
    for fault, channels in zip((RANGE, FLAT, CLIPPED), found, strict=True):
        if channels.any():
            return fault, int(channels.argmax())
    return None


class SensorCheck:
    """The health of one stream's sensor; one bad window is not yet a fault.

    Attributes:
        fault: the fault that stands, or None.
        channel: the channel it was seen on; None for a fault of the rate.
        suspect: whether the latest window is bad or a fault stands: not to be used for drift or
            training.
        since_seq: first window of the run that led to the present fault, or to its end.
    """

    def __init__(self, profile: SensorProfile, settings: SensorSettings | None = None) -> None:
        self.profile = profile
        self.settings = settings or SensorSettings()
        self.fault: str | None = None
        self.channel: int | None = None
        self.suspect = False
        self.since_seq = 0
        self._run = 0  # windows in a row that contradict `fault`
        self._last: tuple[int, int] | None = None  # seq, t_ns

    def update(
        self, x: ArrayLike, *, seq: int = 0, t_ns: int | None = None, hz: float | None = None
    ) -> str | None:
        """Take a window x (C, T); the fault that stands after it, or None.

        Args:
            x: raw values in physical units.
            seq: its sequence number.
            t_ns: its time stamp; None if the sensor gives none.
            hz: the rate that the sender states; None if it states none.
        """
        return self.observe(
            self.profile.inspect(np.asarray(x)[None], self.settings)[0], seq=seq, t_ns=t_ns, hz=hz
        )

    def observe(
        self,
        seen: tuple[str, int] | None,
        *,
        seq: int = 0,
        t_ns: int | None = None,
        hz: float | None = None,
    ) -> str | None:
        """As `update`, for a window that `SensorProfile.inspect` has already looked at."""
        wrong_rate = self._wrong_rate(seq, t_ns, hz)
        bad, channel = seen if seen else (RATE if wrong_rate else None, None)
        self.suspect = bad is not None or self.fault is not None
        if (bad is None) == (self.fault is None):
            self._run = 0
            return self.fault
        if self._run == 0:
            self.since_seq = seq
        self._run += 1
        if self._run >= self.settings.persistence:
            self.fault, self.channel, self._run = bad, channel, 0
            self.suspect = bad is not None
        return self.fault

    def _wrong_rate(self, seq: int, t_ns: int | None, hz: float | None) -> bool:
        tolerance = self.settings.rate_tolerance
        if hz is not None and not abs(hz / self.profile.hz - 1) <= tolerance:
            return True
        if t_ns is None or self.settings.hop is None:
            return False
        last, self._last = self._last, (seq, t_ns)
        if last is None or seq <= last[0]:
            return False
        expected_ns = (seq - last[0]) * self.settings.hop / self.profile.hz * 1e9
        return not abs((t_ns - last[1]) / expected_ns - 1) <= tolerance
