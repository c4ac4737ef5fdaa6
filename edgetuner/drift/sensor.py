"""A broken sensor, told apart from a changed world: no training repairs a loose cable.

Many faults show in a single window: in its values here, in their fine structure (`grain`), or in
sizes that nobody can change (`magnitude`). Others only show beside the windows before
(`distortion`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgetuner.drift.distortion import Distortion, DistortionSettings, Usual
from edgetuner.drift.grain import Grain, extreme_share, held_share, is_coarse
from edgetuner.drift.magnitude import CALIBRATION, Magnitude
from edgetuner.drift.summary import Floats, Summary
from edgetuner.errors import DriftError

FLAT, CLIPPED, RANGE, RATE = "flat_line", "clipping", "range", "rate"


@dataclass(frozen=True)
class SensorSettings:
    """What counts as a fault.

    Attributes:
        persistence: windows in a row before a fault is reported, and good ones before it is over.
        patience: the same for a fault whose name may still become known.
        range_margin: how far outside the source's range is insane, in widths of that range.
        clipped_fraction: share of a window's samples that sit exactly on its highest or lowest
            value ...
        clipped_swing: ... while the channel swings by at least this share of the source's range;
            only where it is not known how coarse the source's steps are.
        rate_tolerance: relative deviation of the rate, or of the time between windows, that is a
            fault.
        hop: samples from one window's start to the next; None if unknown: then time stamps are not
            checked.
        distortion: when a leap within a stream is a fault.
    """

    persistence: int = 3
    patience: int = 8
    range_margin: float = 1.0
    clipped_fraction: float = 0.07
    clipped_swing: float = 0.5
    rate_tolerance: float = 0.25
    hop: int | None = None
    distortion: DistortionSettings = field(default_factory=DistortionSettings)


class Reading(NamedTuple):
    """What one window says of its sensor.

    Attributes:
        fault: what is wrong with it, or None.
        channel: where; None if everywhere, or if it cannot be told.
        features: what it is compared by with the windows before (F,); None if it is not.
    """

    fault: str | None = None
    channel: int | None = None
    features: Floats | None = None


@dataclass(frozen=True, eq=False)
class SensorProfile:
    """What the sensor of the source can do.

    Attributes:
        low: lowest value of each channel in the source, physical units (C,).
        high: highest value (C,).
        hz: sampling rate.
        grain, magnitude, usual: what further checks need; None where a bundle was made without.
    """

    low: NDArray[np.float32]
    high: NDArray[np.float32]
    hz: float
    grain: Grain | None = None
    magnitude: Magnitude | None = None
    usual: Usual | None = None

    @classmethod
    def fit(
        cls,
        x: ArrayLike,
        hz: float,
        *,
        triads: Sequence[int] = (),
        accelerometers: Sequence[int] = (),
        recordings: Sequence[NDArray[np.int64]] = (),
    ) -> SensorProfile:
        """The profile of source windows x (N, C, T).

        Args:
            triads: first channel of each sensor of three axes, where known: gravity and exchanged
                axes are looked for in these alone.
            accelerometers: those of them that are; gravity shows most of them by itself.
            recordings: rows of each recording of one activity, in time order, where known: without
                them no window is compared with those before.

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
        if windows.shape[2] < 2:
            return cls(low, high, float(hz))
        summaries = Summary.of(windows)
        magnitude = Magnitude.fit(summaries, triads)
        polar = {*accelerometers, *magnitude.triads}
        return cls(
            low,
            high,
            float(hz),
            Grain.fit(windows, summaries),
            magnitude,
            Usual.fit(summaries, recordings, triads, sorted(polar)),
        )

    def inspect(self, x: ArrayLike, settings: SensorSettings) -> list[Reading]:
        """What each of the windows x (N, C, T) says of the sensor, by itself."""
        windows = np.asarray(x, np.float32)
        with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is a fault
            summaries = Summary.of(windows)
            found, channels = self._faults(windows, summaries, settings)
            features = summaries.features(self.usual.floor) if self.usual else None
        readings = []
        for i, (fault, channel) in enumerate(zip(found, channels, strict=True)):
            if features is None or fault not in (None, CALIBRATION):
                readings.append(Reading(fault, channel))
            else:
                readings.append(Reading(fault, channel, features[i]))
        return readings

    def _faults(
        self, x: NDArray[np.float32], summaries: Summary, settings: SensorSettings
    ) -> tuple[list[str | None], list[int | None]]:
        """The fault of each window and its channel; the first that applies."""
        low, high = x.min(2), x.max(2)  # (N, C)
        span = self.high - self.low
        swing, margin = high - low, settings.range_margin * span
        # negated, so that NaN is a fault too
        insane = ~((low >= self.low - margin) & (high <= self.high + margin))
        flat = swing == 0
        moving = swing >= settings.clipped_swing * span
        held = np.zeros(len(x), np.float32)
        tests = [(RANGE, insane), (FLAT, flat), (CLIPPED, moving)]
        if self.grain is not None:
            deviation = np.sqrt(summaries.variance)
            flat |= self.grain.dead(x, deviation)
            moving[:] = deviation > 1.5 * self.grain.coarse
            held = held_share(x)
            tests.insert(2, (FLAT, self.grain.interrupted(x, held)[:, None]))
        if moving.any():
            share = np.maximum(extreme_share(x, high), extreme_share(x, low))
            moving &= share >= settings.clipped_fraction
            for i, channel in np.argwhere(moving):
                moving[i, channel] = not is_coarse(x[i, channel])
            # A value that all channels hold, and only some of them as their highest, is no rail.
            moving &= (held < settings.clipped_fraction)[:, None] | moving.all(1, keepdims=True)
        if self.magnitude is not None:
            tests.append((CALIBRATION, self.magnitude.inspect(summaries)[:, None]))
        faults: list[str | None] = [None] * len(x)
        channels: list[int | None] = [None] * len(x)
        for name, where in tests:
            for i in np.flatnonzero(where.any(1)):
                if faults[i] is None:
                    faults[i] = name
                    if where.shape[1] > 1:
                        channels[i] = int(where[i].argmax())
        return faults, channels

    def to_arrays(self) -> dict[str, NDArray[np.float32]]:
        """The profile as numeric arrays, for a safetensors file."""
        arrays = {"low": self.low, "high": self.high, "hz": np.array([self.hz], np.float32)}
        for part in (self.grain, self.magnitude, self.usual):
            if part is not None:
                arrays |= part.to_arrays()
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.float32]]) -> SensorProfile:
        """The profile that `to_arrays` described.

        What later checks need may be absent: an older bundle then goes without them.

        Raises:
            DriftError: an array is missing.
        """
        try:
            low, high, hz = arrays["low"], arrays["high"], float(arrays["hz"][0])
        except (KeyError, IndexError) as error:
            raise DriftError(
                "sensor profile is incomplete",
                field="sensor",
                value=str(error),
                remedy="create the bundle again",
            ) from error
        parts = Grain.from_arrays(arrays), Magnitude.from_arrays(arrays), Usual.from_arrays(arrays)
        return cls(low, high, hz, *parts)


class SensorCheck:
    """The health of one stream's sensor; one bad window is not yet a fault.

    Attributes:
        fault: the fault that stands, or None.
        channel: the channel it was seen on; None where it is not one alone.
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
        self._run_seq = 0  # the first of them
        self._last: tuple[int, int] | None = None  # seq, t_ns
        self._distortion = (
            Distortion(profile.usual, self.settings.distortion) if profile.usual else None
        )

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
        reading: Reading,
        *,
        seq: int = 0,
        t_ns: int | None = None,
        hz: float | None = None,
    ) -> str | None:
        """As `update`, for a window that `SensorProfile.inspect` has already looked at."""
        bad, channel = reading.fault, reading.channel
        if self._wrong_rate(seq, t_ns, hz) and bad in (None, CALIBRATION):
            bad, channel = RATE, None
        distortion = self._distortion
        if distortion is not None and reading.features is not None:
            before = distortion.fault
            distorted = distortion.update(reading.features, seq)
            if distorted != before:
                return self._told(distorted, distortion, bad)
            if bad in (None, CALIBRATION) and distorted is not None:
                bad, channel = distorted, distortion.channel
        return self._persist(bad, channel, seq)

    def _told(self, name: str | None, distortion: Distortion, bad: str | None) -> str | None:
        """A leap that is a fault, or its end: judged over several windows already."""
        self.fault, self.channel, self._run = name, distortion.channel, 0
        self.since_seq = distortion.since_seq
        self.suspect = name is not None or bad is not None
        return self.fault

    def _persist(self, bad: str | None, channel: int | None, seq: int) -> str | None:
        self.suspect = bad is not None or self.fault is not None
        if (bad is None) == (self.fault is None):
            self._run = 0
            return self.fault
        if self._run == 0:
            self._run_seq = seq
        self._run += 1
        waits = CALIBRATION in (bad, self.fault)
        if self._run >= (self.settings.patience if waits else self.settings.persistence):
            self.fault, self.channel, self._run = bad, channel, 0
            self.since_seq = self._run_seq
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
