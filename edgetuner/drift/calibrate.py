"""Thresholds for the asked time between false alarms, from playing the held-out windows again.

Neighbouring windows are alike (they overlap, and a person does one thing for minutes), so a
threshold from a textbook, which assumes independent scores, cries many times too often. Here
streams are made of bouts, two seconds to twenty minutes long: each plays a stretch of one held-out
recording in its own order (a circular moving-block bootstrap, Politis and Romano, 1992, whose
blocks never leave a recording), and a stream stays with one person. So the dependence is that of
life.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from edgetuner.drift.cusum import Spread, statistics
from edgetuner.drift.error import SPREAD, ErrorRate
from edgetuner.drift.reference import DETECTORS, Calibration, Reference
from edgetuner.drift.standard import HIGH, LOW, Scale
from edgetuner.errors import DriftError

MIN_WINDOWS = 40  # fewer held-out windows than this say nothing about a tail
BOUT_S = (2.0, 1200.0)  # seconds that people stay with one thing, log-uniform between them
# How the false alarms are shared out. Embeddings see a change much sooner than the others do; and
# where no labels come, errors on them raise none.
_SHARES = {"embedding": 0.7, "confidence": 0.2, "error": 0.1}
_MIN_RUN_LENGTH = 50
_HORIZON = 2000  # windows of a simulated stream, or some of the longest bouts
_BOUTS = 8
_ALARMS = 250  # aimed at: 6 % error of a mean run length from the simulation
_MEASURED = 100  # with fewer alarms a run length is continued from shorter ones, and not counted
_MOST_WINDOWS = 2_000_000  # simulated in all
_LEAST_WINDOWS = 1_000_000
_CHUNK = 1_000_000  # windows simulated at once, to bound memory
_LEVELS = 1000  # thresholds tried, evenly spaced: far finer than the error of the simulation
_BISECTIONS = 20

Scores = NDArray[np.float64]
Ints = NDArray[np.int64]
_Record = tuple[Ints, Scores]  # of one stream: when its CUSUM reached a new maximum, and which


def bouts_of(window_s: float) -> tuple[int, int]:
    """Shortest and longest bout in windows, of which one begins every `window_s` seconds."""
    shortest, longest = (max(1, round(seconds / window_s)) for seconds in BOUT_S)
    return shortest, longest


def calibrate(
    reference: Reference,
    run_length: float,
    *,
    bouts: tuple[int, int] = (1, 240),
    seed: int = 0,
) -> Reference:
    """Set thresholds: all detectors together raise one false alarm in `run_length` windows.

    Each detector may raise its share of them. A simulated stream without an
    alarm by its end counts its windows but no alarm: mean run length = windows before the first
    alarm / alarms, the maximum-likelihood estimate under censoring for the exponential law that run
    lengths of a CUSUM nearly follow. Run lengths too long to be counted are continued from shorter
    ones: their logarithm grows linearly with the threshold (Siegmund, 1985, sec. II.6). The same
    arguments give the same thresholds.

    Args:
        reference: fitted; its held-out windows are what the streams are made of.
        run_length: mean number of windows between false alarms (hours x windows per hour).
        bouts: shortest and longest, in windows, log-uniform in between; a shorter recording is
            played round.
        seed: of the simulation.

    Raises:
        DriftError: too few held-out windows, scores that do not vary, or a run length too short to
            aim at.
    """
    _check(reference, run_length, bouts)
    horizon = max(_HORIZON, _BOUTS * bouts[1])
    windows = min(max(_ALARMS * run_length, _LEAST_WINDOWS), _MOST_WINDOWS)
    size = max(1, round(windows / horizon)), horizon
    errors = reference.errors if reference.errors is not None and reference.errors.tells else None
    asked = run_length if errors is None else run_length / (1 - _SHARES["error"])
    thresholds = _solve(_simulate(reference, size, bouts, seed), asked)
    if errors is not None:
        passages = _simulate_errors(reference, errors, size, bouts, seed)
        thresholds["error"] = passages.threshold(run_length / _SHARES["error"])
    for name, scale in reference.scales.items():
        thresholds[name] = max(thresholds[name], _strangest(scale.spread))
    return reference.with_calibration(
        Calibration(thresholds=thresholds, run_length=float(run_length), bouts=bouts, seed=seed)
    )


def calibrated_for(reference: Reference, run_length: float | None) -> Reference:
    """The reference itself if its thresholds are for that run length, or for whichever if None;
    else with new ones.

    Raises:
        DriftError: as `calibrate`.
    """
    known = reference.calibration
    if known is not None and run_length in (None, known.run_length):
        return reference
    wanted = run_length or (known.run_length if known else None)
    if wanted is None:
        return reference
    bouts, seed = ((1, 240), 0) if known is None else (known.bouts, known.seed)
    return calibrate(reference, wanted, bouts=bouts, seed=seed)


def _check(reference: Reference, run_length: float, bouts: tuple[int, int]) -> None:
    windows = len(reference.held_predicted)
    if windows < MIN_WINDOWS:
        raise DriftError(
            "too few held-out windows to calibrate drift thresholds",
            field="held_embeddings",
            value=windows,
            remedy=f"hold out at least {MIN_WINDOWS}",
        )
    if not run_length >= _MIN_RUN_LENGTH:
        raise DriftError(
            "run length is too short to aim at",
            field="run_length",
            value=run_length,
            remedy=f"ask for at least {_MIN_RUN_LENGTH} windows between false alarms",
        )
    if not 1 <= bouts[0] <= bouts[1]:
        raise DriftError(
            "not the shortest and the longest bout in windows",
            field="bouts",
            value=bouts,
            remedy="use 1 or more, the shorter one first",
        )
    for name, scores in reference.held.items():
        if np.ptp(scores) == 0:
            raise DriftError(
                "held-out scores are constant",
                field=f"drift.{name}",
                value=float(scores[0]),
                remedy="check that the model is trained and the held-out windows differ",
            )


def _simulate(
    reference: Reference, size: tuple[int, int], bouts: tuple[int, int], seed: int
) -> dict[str, _Passages]:
    """First passages of simulated streams for each detector; all watch the same streams."""
    rng = np.random.default_rng(seed)
    held = reference.held_predicted
    scores = {name: reference.scales[name](reference.held[name], held) for name in DETECTORS}
    records: dict[str, list[_Record]] = {name: [] for name in DETECTORS}
    life = _Life(reference)
    for rows in _chunks(*size):
        windows, _ = life.play(rng, (rows, size[1]), bouts)
        kinds = held[windows]
        for name, score in scores.items():
            scale = reference.scales[name]
            seen = score[windows] + _unseen(rng, reference, name, kinds)
            records[name] += _records(statistics(seen.clip(LOW, HIGH), kinds, scale.spread))
    return {name: _Passages(streams, size[1]) for name, streams in records.items()}


def _unseen(rng: np.random.Generator, reference: Reference, name: str, kinds: Ints) -> Scores:
    """What bouts differ by beyond those held out, for each stream and kind, (rows, windows)."""
    own = Scale.fit(
        reference.held[name],
        reference.held_predicted,
        reference.held_recording,
        len(reference.classes),
    )
    more = max(0.0, reference.scales[name].spread.between - own.spread.between)
    effect = rng.normal(0, np.sqrt(more), (len(kinds), len(reference.classes)))
    return np.take_along_axis(effect, kinds, 1)


def _simulate_errors(
    reference: Reference,
    errors: ErrorRate,
    size: tuple[int, int],
    bouts: tuple[int, int],
    seed: int,
) -> _Passages:
    """Beta-binomial errors in bouts of the classes predicted at home."""
    rng = np.random.default_rng(seed + 1)
    life = _Life(reference)
    rate, precision = errors.rate, 1 / SPREAD.between - 1
    right, wrong = errors.score(False), errors.score(True)
    records: list[_Record] = []
    for rows in _chunks(*size):
        windows, since = life.play(rng, (rows, size[1]), bouts)
        kinds, new = reference.held_predicted[windows], since == 0
        of_bout = rng.beta(rate * precision, (1 - rate) * precision, int(new.sum()))
        chance = of_bout[np.cumsum(new) - 1].reshape(new.shape)
        scores = np.where(rng.random(kinds.shape) < chance, wrong, right)
        records += _records(statistics(scores, kinds, SPREAD))
    return _Passages(records, size[1])


def _chunks(streams: int, horizon: int) -> Iterator[int]:
    at_once = max(1, _CHUNK // horizon)
    for done in range(0, streams, at_once):
        yield min(at_once, streams - done)


class _Life:
    """Streams of bouts from the held-out recordings, each stream of one person or device."""

    def __init__(self, reference: Reference) -> None:
        recording, wearer = reference.held_recording, reference.held_wearer
        self._order = np.lexsort((np.arange(len(wearer)), recording, wearer))
        pairs = np.stack([wearer, recording], 1)[self._order]
        self._first = np.flatnonzero(np.append(True, (np.diff(pairs, axis=0) != 0).any(1)))
        self._lengths = np.diff(np.append(self._first, len(wearer)))
        whose = pairs[self._first, 0]
        self._recordings = [np.flatnonzero(whose == w) for w in np.unique(whose)]

    def play(
        self, rng: np.random.Generator, shape: tuple[int, int], bouts: tuple[int, int]
    ) -> tuple[Ints, Ints]:
        """Held-out windows, and how far into its bout each is, (streams, windows) both."""
        streams, horizon = shape
        windows, since = np.empty(shape, np.int64), np.empty(shape, np.int64)
        low, high = np.log(bouts[0]), np.log(bouts[1] + 1)
        for row in range(streams):
            recordings = self._recordings[rng.integers(len(self._recordings))]
            ends = np.zeros(0, np.int64)
            while not len(ends) or ends[-1] < horizon:
                drawn = np.exp(rng.uniform(low, high, 64)).astype(np.int64)
                ends = np.append(ends, (ends[-1] if len(ends) else 0) + np.cumsum(drawn))
            chosen = recordings[rng.integers(len(recordings), size=len(ends))]
            start = rng.integers(self._lengths[chosen])
            bout = np.searchsorted(ends, np.arange(horizon), "right")
            since[row] = np.arange(horizon) - np.append(0, ends)[bout]
            place = (start[bout] + since[row]) % self._lengths[chosen[bout]]
            windows[row] = self._order[self._first[chosen[bout]] + place]
        return windows, since


def _records(paths: Scores) -> list[_Record]:
    maxima = np.maximum.accumulate(paths, axis=1)
    rises = np.diff(maxima, axis=1, prepend=0) > 0
    return [(np.flatnonzero(rise) + 1, row[rise]) for rise, row in zip(rises, maxima, strict=True)]


class _Passages:
    """When each simulated stream first passes each of a ladder of thresholds.

    Attributes:
        levels: thresholds, from 0 to one that no stream passes (L,).
        times: window at which a stream is above a level, infinite if it never is (streams, L).
        run_lengths: mean run length at each level (L,), never falling.
    """

    def __init__(self, records: list[_Record], horizon: int) -> None:
        highest = max((float(maxima[-1]) for _, maxima in records if len(maxima)), default=0.0)
        if highest == 0:
            raise DriftError(
                "no held-out window is strange enough to move a detector",
                field="held_embeddings",
                remedy="hold out more windows",
            )
        self.horizon = horizon
        self.levels = np.linspace(0, highest, _LEVELS)
        self.times = np.stack([self._times(*record) for record in records])
        lengths = [self.mean_run_length(times) for times in self.times.T]
        self.run_lengths = np.maximum.accumulate(lengths)

    @property
    def longest(self) -> float:
        """The longest run length that is counted, and not continued."""
        return len(self.times) * self.horizon / _MEASURED

    def _times(self, times: Ints, maxima: Scores) -> Scores:
        passed = np.searchsorted(maxima, self.levels, side="right")
        return np.append(times, np.inf)[passed]

    def mean_run_length(self, times: Scores) -> float:
        """Windows watched / alarms; infinite without an alarm."""
        alarms = int(np.isfinite(times).sum())
        return float(np.minimum(times, self.horizon).sum() / alarms) if alarms else np.inf

    def level(self, run_length: float) -> int:
        """The lowest level that gives at least this run length."""
        return int(np.searchsorted(self.run_lengths, run_length))

    def threshold(self, run_length: float) -> float:
        """The threshold of a run length, on a straight line if it is too long to be counted."""
        if run_length <= self.longest:
            return float(self.levels[self.level(run_length)])
        counted = (self.run_lengths >= self.longest / 10) & (self.run_lengths <= self.longest)
        if counted.sum() < 2 or not np.ptp(self.run_lengths[counted]):  # no line through one point
            return float(self.levels[-1])
        logarithms = np.log(self.run_lengths[counted])
        slope, start = np.polyfit(logarithms, self.levels[counted], 1)
        return float(start + slope * np.log(run_length))


def _strangest(spread: Spread) -> float:
    """What the strangest window that there can be is worth by itself: the least threshold, since
    people stumble, also where the windows held out are so calm that any would be news.
    """
    one = statistics(np.full((1, 1), HIGH), np.zeros((1, 1), np.int64), spread)
    return float(one[0, 0])


def _solve(passages: dict[str, _Passages], run_length: float) -> dict[str, float]:
    """Thresholds by which detectors share out the alarms, one in `run_length` together."""
    any_one = next(iter(passages.values()))
    shares = {name: _SHARES[name] / max(_SHARES.values()) for name in passages}
    counted = min(run_length, any_one.longest * min(shares.values()) / len(passages))
    low, high = counted, counted * len(passages)  # of the one with the largest share
    for _ in range(_BISECTIONS):
        each = (low + high) / 2
        firsts = [p.times[:, p.level(each / shares[name])] for name, p in passages.items()]
        if any_one.mean_run_length(np.min(firsts, axis=0)) < counted:
            low = each
        else:
            high = each
    return {
        name: p.threshold(high / shares[name] * run_length / counted)
        for name, p in passages.items()
    }
