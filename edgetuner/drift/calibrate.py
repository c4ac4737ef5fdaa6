"""Thresholds for the asked time between false alarms, from playing the held-out windows again.

A threshold from a textbook assumes independent scores, and cries many times too often; here it is
counted when the CUSUMs of simulated days (`Life`) first pass it. And an alarm is an answer away
from not coming again: the service learns from it what is ordinary (`DriftMonitor.acknowledge`), so
that over a life alarms are much rarer than the first one lets expect. Thresholds may be as much
lower, and changes are noticed as much sooner.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import log

import numpy as np
from numpy.typing import NDArray

from edgetuner.drift.cusum import Spread, statistics
from edgetuner.drift.error import SPREAD, ErrorRate
from edgetuner.drift.life import Life
from edgetuner.drift.reference import DETECTORS, Calibration, Reference
from edgetuner.drift.renewal import answered_alarms
from edgetuner.drift.standard import HIGH, LOW, Scale
from edgetuner.errors import DriftError

MIN_WINDOWS = 40  # fewer held-out windows than this say nothing about a tail
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
_BELIEVED = 1000  # windows: a shorter run length may be counted, however few were held out
_LEAST_SPAN = log(2)  # of logarithms of run lengths, that a line can be drawn through
_BISECTIONS = 20
# A life with answered alarms: streams, run lengths that each goes on for, and the longest run
# length that is tried.
_LIVES, _LIFE, _TRIED = 40, 3, 10_000
_FIRST_SHARES = (1.0, 0.71, 0.5, 0.35, 0.25, 0.18, 0.125)
_RECORDINGS = 8  # held out, over that share: the few that are played come again sooner than in life
# Held-out windows are known to their own reference, later ones are stranger: on synthetic streams,
# where nothing else differs, alarms come this much sooner than simulated.
_MARGIN = 1.7

Scores = NDArray[np.float64]
Ints = NDArray[np.int64]
_Record = tuple[Ints, Scores]  # of one stream: when its CUSUM reached a new maximum, and which


def calibrate(
    reference: Reference,
    run_length: float,
    *,
    bouts: tuple[int, int] = (1, 240),
    seed: int = 0,
    first_share: float | None = None,
) -> Reference:
    """Set thresholds: all detectors together raise one false alarm in `run_length` windows, in a
    life of three run lengths in which every alarm is answered (of longer ones than 10,000 windows
    the share of the first alarm is that of 10,000).

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
        first_share: see `Calibration`; found by simulating such lives if None, which takes longer.

    Raises:
        DriftError: too few held-out windows, scores that do not vary, or a run length too short to
            aim at.
    """
    _check(reference, run_length, bouts)
    errors = reference.errors if reference.errors is not None and reference.errors.tells else None
    asked = run_length if errors is None else run_length / (1 - _SHARES["error"])
    if first_share is None:
        size = _size(min(run_length, _TRIED), bouts)
        passages = _simulate(reference, size, bouts, seed)
        first_share = _first_share(reference, passages, asked, bouts, seed)
        if _size(first_share * run_length, bouts) != size:
            passages = _simulate(reference, _size(first_share * run_length, bouts), bouts, seed)
    else:
        passages = _simulate(reference, _size(first_share * run_length, bouts), bouts, seed)
    thresholds = _solve(reference, passages, max(first_share * asked, _MIN_RUN_LENGTH))
    if errors is not None:
        size = _size(run_length, bouts)
        of_errors = _simulate_errors(reference, errors, size, bouts, seed)
        thresholds["error"] = of_errors.threshold(run_length / _SHARES["error"])
    return reference.with_calibration(
        Calibration(thresholds, float(run_length), bouts, seed, first_share)
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
    if known is None:
        return calibrate(reference, wanted)
    return calibrate(
        reference, wanted, bouts=known.bouts, seed=known.seed, first_share=known.first_share
    )


def _size(run_length: float, bouts: tuple[int, int]) -> tuple[int, int]:
    """Streams and their windows, of which enough alarms come."""
    horizon = max(_HORIZON, _BOUTS * bouts[1])
    windows = min(max(_ALARMS * run_length, _LEAST_WINDOWS), _MOST_WINDOWS)
    return max(1, round(windows / horizon)), horizon


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
    records: dict[str, list[_Record]] = {name: [] for name in DETECTORS}
    life = Life(reference)
    for rows in _chunks(*size):
        windows, _ = life.play(rng, (rows, size[1]), bouts)
        kinds = reference.held_predicted[windows]
        for name, seen in _scores(reference, windows, rng).items():
            records[name] += _records(statistics(seen, kinds, reference.scales[name].spread))
    return {
        name: _Passages(streams, size[1], len(reference.held_predicted))
        for name, streams in records.items()
    }


def _scores(reference: Reference, windows: Ints, rng: np.random.Generator) -> dict[str, Scores]:
    """What each detector makes of held-out windows (streams, windows), the same shape."""
    held = reference.held_predicted
    found = {}
    for name in DETECTORS:
        score = reference.scales[name](reference.held[name], held)
        seen = score[windows] + _unseen(rng, reference, name, held[windows])
        found[name] = seen.clip(LOW, HIGH)
    return found


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
    life = Life(reference)
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
    return _Passages(records, size[1], size[0] * size[1])


def _chunks(streams: int, horizon: int) -> Iterator[int]:
    at_once = max(1, _CHUNK // horizon)
    for done in range(0, streams, at_once):
        yield min(at_once, streams - done)


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
        longest: the longest run length that is counted, and not continued. In a time much longer
            than theirs, stranger windows would come than those held out, which the simulation
            only repeats.
    """

    def __init__(self, records: list[_Record], horizon: int, held: int) -> None:
        highest = max((float(maxima[-1]) for _, maxima in records if len(maxima)), default=0.0)
        if highest == 0:
            raise DriftError(
                "no held-out window is strange enough to move a detector",
                field="held_embeddings",
                remedy="hold out more windows",
            )
        self.horizon = horizon
        self.longest = min(len(records) * horizon / _MEASURED, max(held, _BELIEVED))
        self.levels = np.linspace(0, highest, _LEVELS)
        self.times = np.stack([self._times(*record) for record in records])
        lengths = [self.mean_run_length(times) for times in self.times.T]
        self.run_lengths = np.maximum.accumulate(lengths)

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
        """The threshold of a run length, on a straight line if it is too long to be counted.

        The line goes through a decade of run lengths: the last one that is counted; or the first
        there is, where that is later, since held-out windows are so calm that a statistic hardly
        ever leaves zero.
        """
        shortest = float(self.run_lengths[0])
        if run_length <= max(self.longest, shortest):
            return float(self.levels[self.level(run_length)])
        start = max(self.longest / 10, shortest)
        counted = (self.run_lengths >= start) & (self.run_lengths <= 10 * start)
        logarithms = np.log(self.run_lengths[counted])
        if (
            counted.sum() < 2 or np.ptp(logarithms) < _LEAST_SPAN
        ):  # one strange recording, and nothing like it
            return float(self.levels[-1])
        slope, begin = np.polyfit(logarithms, self.levels[counted], 1)
        counted_last = float(self.levels[self.level(self.longest)])
        return max(counted_last, float(begin + slope * np.log(run_length)))


def _strangest(spread: Spread) -> float:
    """What the strangest window that there can be is worth by itself: the least threshold, since
    people stumble, also where the windows held out are so calm that any would be news.
    """
    one = statistics(np.full((1, 1), HIGH), np.zeros((1, 1), np.int64), spread)
    return float(one[0, 0])


def _solve(
    reference: Reference, passages: dict[str, _Passages], run_length: float
) -> dict[str, float]:
    """Thresholds by which detectors share out first alarms, one in `run_length` together."""
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
        name: max(
            p.threshold(high / shares[name] * run_length / counted),
            _strangest(reference.scales[name].spread),
        )
        for name, p in passages.items()
    }


def _first_share(
    reference: Reference,
    passages: dict[str, _Passages],
    run_length: float,
    bouts: tuple[int, int],
    seed: int,
) -> float:
    """How soon the first alarm may come, that alarms in a life are as rare as asked."""
    tried = min(run_length, _TRIED)
    least = max(_MIN_RUN_LENGTH / tried, _RECORDINGS / len(np.unique(reference.held_recording)))
    shares = [share for share in _FIRST_SHARES if share >= least] or [1.0]
    rng = np.random.default_rng(seed + 2)
    windows, _ = Life(reference).play(rng, (_LIVES, round(_LIFE * tried)), bouts)
    alarms = answered_alarms(
        _scores(reference, windows, rng),
        reference.held_predicted[windows],
        {name: reference.scales[name].spread for name in DETECTORS},
        [_solve(reference, passages, share * tried) for share in shares],
    )
    rare = alarms * _MARGIN * tried <= windows.size
    return shares[max(0, int(rare.argmin() if not rare.all() else len(rare)) - 1)]
