"""A broken sensor, told apart from a changed world: no training repairs a loose cable.

Many faults show in a single window: in its values here, in their fine structure (`grain`), or in
sizes that nobody can change (`magnitude`). Mirrored axes show in what a few windows tell of turns
(`handedness`). Others only show beside the windows before (`distortion`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgetuner.drift.comparison import Comparison
from edgetuner.drift.distortion import DistortionSettings, Leap
from edgetuner.drift.grain import Grain, extreme_share, held_share, is_coarse
from edgetuner.drift.handedness import Handedness
from edgetuner.drift.magnitude import CALIBRATION, Magnitude
from edgetuner.drift.maps import AXES, GAIN, OFFSET
from edgetuner.drift.summary import Floats, Summary
from edgetuner.drift.usual import Usual
from edgetuner.errors import DriftError

FLAT, CLIPPED, RANGE, RATE = "flat_line", "clipping", "range", "rate"
_WRONG_SIZES = {CALIBRATION, GAIN, OFFSET}
# What a leap that stands explains of a window by itself: wrong sizes are another fault than axes.
_EXPLAINS: dict[str, tuple[str | None, ...]] = {AXES: (None,), RATE: (None,)}
_EXPLAINS |= dict.fromkeys((GAIN, OFFSET), (None, CALIBRATION))
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


class Readings(NamedTuple):
    """What each of N windows says of its sensor, by itself.

    Attributes:
        faults: what is wrong with it, or None.
        channels: where; None if everywhere, or if it cannot be told.
        features: what it is compared by with the windows before (N, F); None if it is not.
        mirrored: evidence for mirrored axes (N,); None if it is not known.
    """

    faults: list[str | None]
    channels: list[int | None]
    features: Floats | None = None
    mirrored: Floats | None = None


class Health(NamedTuple):
    """What is known of a sensor after a window.

    Attributes:
        fault: the fault that stands, or None.
        channel: the channel it was seen on; None where it is not one alone.
        since_seq: first window of the run that led to the present fault, or to its end.
        suspect: whether the window is bad or a fault stands: not to be used for drift or training.
    """

    fault: str | None = None
    channel: int | None = None
    since_seq: int = 0
    suspect: bool = False


@dataclass(frozen=True, eq=False)
class SensorProfile:
    """What the sensor of the source can do.

    Attributes:
        low: lowest value of each channel in the source, physical units (C,).
        high: highest value (C,).
        hz: sampling rate.
        grain, magnitude, usual, handedness: what further checks need; None where a bundle was made
            without, or where the source does not tell.
    """

    low: NDArray[np.float32]
    high: NDArray[np.float32]
    hz: float
    grain: Grain | None = None
    magnitude: Magnitude | None = None
    usual: Usual | None = None
    handedness: Handedness | None = None

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
        magnitude = Magnitude.fit(summaries, triads, accelerometers)
        polar = sorted({*accelerometers, *magnitude.accelerometers})
        usual = Usual.fit(summaries, recordings, triads, polar)
        known = usual and Handedness.fit(windows, recordings, triads, polar, hz)
        return cls(
            low, high, float(hz), Grain.fit(windows, summaries), magnitude, usual, known or None
        )

    def inspect(self, x: ArrayLike, settings: SensorSettings) -> Readings:
        """What each of the windows x (N, C, T) says of the sensor, by itself."""
        windows = np.asarray(x, np.float32)
        with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is a fault
            summaries = Summary.of(windows)
            faults, channels = self._faults(windows, summaries, settings)
            features = summaries.features(self.usual.floor) if self.usual else None
            mirrored = self.handedness.evidence(windows) if self.handedness else None
        return Readings(faults, channels, features, mirrored)

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
            tests.append(
                (CALIBRATION, self.magnitude.inspect(summaries.mean, summaries.variance)[:, None])
            )
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
        for part in (self.grain, self.magnitude, self.usual, self.handedness):
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
        return cls(
            low,
            high,
            hz,
            Grain.from_arrays(arrays),
            Magnitude.from_arrays(arrays),
            Usual.from_arrays(arrays),
            Handedness.from_arrays(arrays),
        )


class SensorCheck:
    """The health of one stream's sensor; one bad window is not yet a fault.

    Attributes:
        health: after the latest window.
    """

    def __init__(self, profile: SensorProfile, settings: SensorSettings | None = None) -> None:
        self.profile = profile
        self.settings = settings or SensorSettings()
        self.health = Health()
        self._run = 0  # windows in a row that contradict the fault that stands
        self._run_seq = 0  # the first of them
        self._run_good = False  # whether they are sound
        self._by_leap: str | None = None  # the fault that stands by a leap, whatever else does
        self._last: tuple[int, int] | None = None  # seq, t_ns
        self._comparison = None
        if profile.usual is not None:
            known = profile.usual, profile.magnitude, profile.handedness
            self._comparison = Comparison(*known, self.settings.distortion)

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
        [health] = self.look(np.asarray(x)[None], [seq], [self.wrong_rate(seq, t_ns, hz)])
        return health.fault

    def look(self, x: ArrayLike, seqs: Sequence[int], wrong_rates: Sequence[bool]) -> list[Health]:
        """Takes the next windows x (N, C, T): the sensor's health after each of them.

        numpy takes hardly longer for some windows than for one.

        Args:
            x: raw values in physical units.
            seqs: their sequence numbers.
            wrong_rates: of each, what `wrong_rate` said of it.
        """
        readings = self.profile.inspect(x, self.settings)
        faults, channels = readings.faults, readings.channels
        leaps = self._leaps(readings, seqs)
        sound = Health(None, self.health.channel, self.health.since_seq)
        if self.health == sound and not any([*faults, *wrong_rates, *leaps.values()]):
            self._run = 0
            return [sound] * len(faults)
        told = []
        for i, (bad, channel, seq) in enumerate(zip(faults, channels, seqs, strict=True)):
            if wrong_rates[i] and bad in (None, CALIBRATION):
                bad, channel = RATE, None
            leap = leaps.get(i)
            if leap is not None and self._leapt(leap, bad):  # judged over several windows already
                self._run = 0
                suspect = leap.fault is not None
                self.health = Health(leap.fault, leap.channel, leap.since_seq, suspect)
            else:
                if leap is not None and leap.fault is not None and bad in _EXPLAINS[leap.fault]:
                    bad, channel = leap.fault, leap.channel
                self._persist(bad, channel, seq)
            told.append(self.health)
        return told

    def _leapt(self, leap: Leap, bad: str | None) -> bool:
        """Whether a leap brought about what stands now. Its end is not that of another fault, nor
        of what the window shows by itself.
        """
        if not leap.new:
            return False
        ended, self._by_leap = self._by_leap, leap.fault
        if leap.fault is not None:
            return True
        return bad is None and self.health.fault in (None, ended)

    def _leaps(self, readings: Readings, seqs: Sequence[int]) -> dict[int, Leap]:
        """What the windows say beside those before: by their place, of those that can be compared,
        where there is a fault or one has ended.
        """
        faults, _, features, mirrored = readings
        places = [i for i, fault in enumerate(faults) if fault in (None, CALIBRATION)]
        if self._comparison is None or features is None or not places:
            return {}
        known = self.health.fault in (None, self._comparison.fault)
        found = self._comparison.update_many(
            features[places],
            [seqs[i] for i in places],
            [not known or faults[i] is not None for i in places],
            None if mirrored is None else mirrored[places],
        )
        return {
            i: leap
            for i, leap in zip(places, found, strict=True)
            if leap.new or leap.fault is not None
        }

    def _persist(self, bad: str | None, channel: int | None, seq: int) -> None:
        fault = self.health.fault
        self.health = self.health._replace(suspect=bad is not None or fault is not None)
        plain = bad in _PLAIN or fault in _PLAIN
        if bad == fault or {bad, fault} <= _WRONG_SIZES:  # these are names of one thing
            self._run = 0
            return
        if self._run == 0 or (bad is None) != self._run_good:
            self._run, self._run_seq, self._run_good = 0, seq, bad is None
        self._run += 1
        waits = CALIBRATION in (bad, fault) and not plain
        if self._run >= (self.settings.patience if waits else self.settings.persistence):
            self._run = 0
            self.health = Health(bad, channel, self._run_seq, bad is not None)

    def wrong_rate(self, seq: int, t_ns: int | None, hz: float | None) -> bool:
        """Whether the rate that is stated, or the time since the window before, is wrong."""
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
