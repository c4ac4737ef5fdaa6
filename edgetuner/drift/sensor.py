"""A broken sensor, told apart from a changed world: no training repairs a loose cable.

Many faults show in a single window: in its values here, in their fine structure (`grain`), or in
sizes that nobody can change (`magnitude`). Others only show beside the windows before
(`distortion`).

Every window is glanced at. As long as nothing is suspect, six of a stream are inspected together:
numpy takes hardly longer for six than for one, and a fault lasts longer than that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgetuner.drift.distortion import Distortion, DistortionSettings, Usual
from edgetuner.drift.grain import Grain, extreme_share, held_share, is_coarse
from edgetuner.drift.magnitude import CALIBRATION, Magnitude
from edgetuner.drift.summary import Floats, Summary
from edgetuner.errors import DriftError

_TOGETHER = 6  # windows of a sound stream that are inspected at once

FLAT, CLIPPED, RANGE, RATE = "flat_line", "clipping", "range", "rate"
_PLAIN = (FLAT, CLIPPED, RANGE)  # seen in a single window, whatever else may be wrong with it


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


class Seen(NamedTuple):
    """A window that was inspected, for `SensorCheck.observe`.

    Attributes:
        reading: what it says.
        seq: its sequence number.
        wrong_rate: whether the rate that is stated, or the time since the window before, is wrong.
    """

    reading: Reading
    seq: int
    wrong_rate: bool


class _Window(NamedTuple):
    """A window that waits to be inspected."""

    x: NDArray[np.float32]
    seq: int
    wrong_rate: bool


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

    def glance(self, x: ArrayLike, settings: SensorSettings) -> list[bool]:
        """Which of the windows x (N, C, T) are so odd that they should be inspected at once."""
        low, high, insane = self._limits(np.asarray(x, np.float32), settings)
        odd: list[bool] = np.logical_or.reduce(insane | (low == high), 1).tolist()
        return odd

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

    def _limits(
        self, x: NDArray[np.float32], settings: SensorSettings
    ) -> tuple[Floats, Floats, NDArray[np.bool_]]:
        """Lowest and highest value, and whether that is out of range, of each channel (N, C)."""
        low, high = np.minimum.reduce(x, 2), np.maximum.reduce(x, 2)
        margin = settings.range_margin * self._span
        # negated, so that NaN is a fault too
        return low, high, ~((low >= self.low - margin) & (high <= self.high + margin))

    @cached_property
    def _span(self) -> NDArray[np.float32]:
        return self.high - self.low

    def _faults(
        self, x: NDArray[np.float32], summaries: Summary, settings: SensorSettings
    ) -> tuple[list[str | None], list[int | None]]:
        """The fault of each window and its channel; the first that applies."""
        low, high, insane = self._limits(x, settings)
        swing = high - low
        flat = swing == 0
        moving = swing >= settings.clipped_swing * self._span
        tests = [(RANGE, insane), (FLAT, flat), (CLIPPED, moving)]
        if self.grain is not None:
            deviation = np.sqrt(summaries.variance)
            flat |= self.grain.dead(x, deviation)
            moving[:] = deviation > 1.5 * self.grain.coarse
            if self.grain.may_be_interrupted(x):
                tests.insert(2, (FLAT, self.grain.interrupted(x, held_share(x))[:, None]))
        if moving.any():  # at either of its extremes: few go on to the dearer looks
            moving &= extreme_share(x, low, high) >= settings.clipped_fraction
        if moving.any():
            share = np.maximum(extreme_share(x, low), extreme_share(x, high))
            moving &= share >= settings.clipped_fraction
        for i, channel in zip(*moving.nonzero(), strict=True):
            moving[i, channel] = not is_coarse(x[i, channel])
        if self.grain is not None and moving.any():
            # A value that all channels hold, and only some of them as their highest, is no rail.
            held = held_share(x) >= settings.clipped_fraction
            moving &= ~held[:, None] | moving.all(1, keepdims=True)
        if self.magnitude is not None:
            tests.append((CALIBRATION, self.magnitude.inspect(summaries)[:, None]))
        faults: list[str | None] = [None] * len(x)
        channels: list[int | None] = [None] * len(x)
        for name, where in tests:
            if not where.any():
                continue
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
        self._waiting: list[_Window] = []
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
        wrong_rate = self._wrong_rate(seq, t_ns, hz)
        return self.observe(
            self.profile.inspect(np.asarray(x)[None], self.settings)[0], seq, wrong_rate
        )

    @classmethod
    def take(
        cls,
        checks: Sequence[SensorCheck],
        x: ArrayLike,
        seqs: Sequence[int],
        t_ns: Sequence[int | None] | None = None,
        hz: Sequence[float | None] | None = None,
    ) -> list[list[Seen]]:
        """Takes N windows x (N, C, T), of any streams with the same profile, in order within each.

        Args:
            checks: of each window's stream; the rest as for `update`.

        Returns:
            What each of the checks should then `observe`: nothing while its window waits to be
            inspected together with the next ones, and later what has waited as well.
        """
        seen: list[list[Seen]] = [[] for _ in checks]
        if not checks:
            return seen
        windows = np.asarray(x, np.float32)
        profile, settings = checks[0].profile, checks[0].settings
        hurried: set[SensorCheck] = set()
        came: dict[SensorCheck, list[int]] = {}
        for i, odd in enumerate(profile.glance(windows, settings)):
            check = checks[i]
            wrong_rate = check._wrong_rate(
                seqs[i], t_ns[i] if t_ns else None, hz[i] if hz else None
            )
            # A copy, lest it keep all of the others in memory.
            check._waiting.append(_Window(windows[i].copy(), seqs[i], wrong_rate))
            came.setdefault(check, []).append(i)
            if odd or wrong_rate or check.suspect or len(check._waiting) >= _TOGETHER:
                hurried.add(check)
        due = [(check, window) for check in hurried for window in check._waiting]
        if not due:
            return seen
        readings = iter(profile.inspect(np.array([window.x for _, window in due]), settings))
        for check in hurried:
            waited, check._waiting = check._waiting, []
            late = len(waited) - len(came[check])
            for i, window in zip([came[check][0]] * late + came[check], waited, strict=True):
                seen[i].append(Seen(next(readings), window.seq, window.wrong_rate))
        return seen

    def observe(self, reading: Reading, seq: int = 0, wrong_rate: bool = False) -> str | None:
        """As `update`, for a window that `SensorProfile.inspect` has already looked at."""
        bad, channel = reading.fault, reading.channel
        if wrong_rate and bad in (None, CALIBRATION):
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
        plainer = bad in _PLAIN and self.fault not in _PLAIN
        if not plainer and (bad is None) == (self.fault is None):
            self._run = 0
            return self.fault
        if self._run == 0:
            self._run_seq = seq
        self._run += 1
        waits = CALIBRATION in (bad, self.fault) and not plainer
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
