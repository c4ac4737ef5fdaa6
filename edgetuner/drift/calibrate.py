"""Thresholds for the asked time between false alarms, from playing the held-out windows again.

Neighbouring windows are alike (they overlap, and a person does one thing for minutes), so a
threshold from a textbook, which assumes independent scores, cries many times too often. Here
streams are made of bouts: each plays a stretch of one held-out recording in its own order (a
circular moving-block bootstrap, Politis and Romano, 1992, whose blocks never leave a recording), so
the dependence within a bout is that of real life.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgetuner.drift.conformal import DETECTORS, MIN_HELD, Calibration, Reference, p_value
from edgetuner.drift.cusum import REFERENCE_VALUE, normal_score
from edgetuner.errors import DriftError

MIN_WINDOWS = 40  # fewer held-out windows than this say nothing about a tail
_MIN_RUN_LENGTH = 50
_STREAM_WINDOWS = 1000  # a simulated stream is at least this long
_STREAMS = (
    400  # each about one run length long: some 250 alarms, so 6 % error of the mean from simulation
)
_MAX_SIMULATED = 8_000_000  # windows in all: beyond it fewer streams, and a larger error
_CHUNK = 1_000_000  # windows simulated at once, to bound memory
_LEVELS = 1000  # thresholds tried, evenly spaced: far finer than the error of the simulation
_BISECTIONS = 20

Scores = NDArray[np.float64]
Ints = NDArray[np.int64]
_Record = tuple[Ints, Scores]  # of one stream: when its CUSUM reached a new maximum, and which


def calibrate(
    reference: Reference,
    run_length: float,
    *,
    reference_value: float = REFERENCE_VALUE,
    bout_windows: int = 24,
    seed: int = 0,
) -> Reference:
    """Set thresholds: all detectors together raise one false alarm in `run_length` windows.

    Every detector gets the same mean run length of its own. Simulated streams stop at a horizon
    (about one run length); a stream without an alarm by then counts its windows but no alarm: mean
    run length = windows before the first alarm / alarms, the maximum-likelihood estimate under
    censoring for the exponential law that run lengths of a CUSUM nearly follow. The same arguments
    give the same thresholds.

    Args:
        reference: fitted; its held-out windows are what the streams are made of.
        run_length: mean number of windows between false alarms (hours x windows per hour).
        reference_value: k of the CUSUM, in standard deviations of a normal score.
        bout_windows: how many windows a person stays with one thing. A shorter recording is played
            round.
        seed: of the simulation.

    Raises:
        DriftError: too few held-out windows, scores that do not vary, or a run length too short to
            aim at.
    """
    _check(reference, run_length, bout_windows)
    scores = {name: held_normal_scores(reference, name) for name in DETECTORS}
    passages = _simulate(reference, scores, run_length, reference_value, bout_windows, seed)
    return reference.with_calibration(
        Calibration(
            thresholds=_solve(passages, run_length),
            reference_value=reference_value,
            run_length=float(run_length),
            bout_windows=bout_windows,
            seed=seed,
        )
    )


def held_normal_scores(reference: Reference, name: str) -> Scores:
    """Normal score of each held-out window among the held-out windows of *other* recordings (M,).

    Compared with its own recording a window always looks ordinary, and a threshold from such scores
    would not survive the next recording. A class (or all, where classes are small) whose other
    recordings are too few leaves out the window alone.
    """
    held, predicted, recording = (
        reference.held[name],
        reference.held_predicted,
        reference.held_recording,
    )
    found = np.empty(len(held))
    for k in set(predicted.tolist()):
        mine = predicted == k
        peers = mine if mine.sum() >= MIN_HELD else np.ones_like(mine)
        for r in set(recording[mine].tolist()):
            own = mine & (recording == r)
            others = np.sort(held[peers & (recording != r)])
            if len(others) >= MIN_HELD:
                found[own] = p_value(held[own], others)
            else:
                found[own] = _leave_one_out(held[own], np.sort(held[peers]))
    return np.array([normal_score(p) for p in found.tolist()])


def _leave_one_out(scores: Scores, table: Scores) -> Scores:
    """p-values of scores (N,) among a table that contains each of them once too often."""
    n = len(table)
    return (p_value(scores, table) * 2 * (n + 1) - 1) / (2 * n)  # one tie fewer on both sides of s


def _check(reference: Reference, run_length: float, bout_windows: int) -> None:
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
    if bout_windows < 1:
        raise DriftError(
            "a bout has no windows",
            field="bout_windows",
            value=bout_windows,
            remedy="use 1 or more",
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
    reference: Reference,
    scores: dict[str, Scores],
    run_length: float,
    reference_value: float,
    bout_windows: int,
    seed: int,
) -> dict[str, _Passages]:
    """First passages of simulated streams for each detector; all watch the same streams."""
    rng = np.random.default_rng(seed)
    order, first, lengths = _recordings(reference.held_recording)
    steps = {name: (z - reference_value)[order] for name, z in scores.items()}
    horizon = int(max(_STREAM_WINDOWS, run_length))
    streams = int(min(_STREAMS, max(1, _MAX_SIMULATED // horizon)))
    chunk = max(1, _CHUNK // horizon)
    bouts = -(-horizon // bout_windows)
    records: dict[str, list[_Record]] = {name: [] for name in scores}
    for done in range(0, streams, chunk):
        shape = (min(chunk, streams - done), bouts)
        windows = _play(rng, first, lengths, shape, bout_windows)[:, :horizon]
        for name, step in steps.items():
            records[name] += _records(step[windows])
    return {name: _Passages(streams, horizon) for name, streams in records.items()}


def _recordings(recording: Ints) -> tuple[Ints, Ints, Ints]:
    """Windows by recording (M,), and the first place and the length of each recording (R,)."""
    order = np.argsort(recording, kind="stable")
    _, first, lengths = np.unique(recording[order], return_index=True, return_counts=True)
    return order, first, lengths


def _play(
    rng: np.random.Generator, first: Ints, lengths: Ints, shape: tuple[int, int], bout_windows: int
) -> Ints:
    """Windows of streams (rows, windows): each bout plays a recording from some place on."""
    chosen = rng.integers(len(first), size=shape)
    start = rng.integers(lengths[chosen])
    place = (start[..., None] + np.arange(bout_windows)) % lengths[chosen][..., None]
    windows: Ints = first[chosen][..., None] + place
    return windows.reshape(shape[0], -1)


def _records(steps: Scores) -> list[_Record]:
    """CUSUM of steps (rows, windows) without a loop: S = C - min(0, C_1..C_t), C their sum."""
    total = np.cumsum(steps, axis=1)
    lowest = np.minimum(np.minimum.accumulate(total, axis=1), 0)
    maxima = np.maximum.accumulate(total - lowest, axis=1)
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
                field="reference_value",
                remedy="use a smaller one, or hold out more windows",
            )
        self.horizon = horizon
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


def _solve(passages: dict[str, _Passages], run_length: float) -> dict[str, float]:
    """Thresholds of equal run length each, and of `run_length` together."""
    low, high = float(run_length), float(run_length * len(passages))
    any_one = next(iter(passages.values()))
    for _ in range(_BISECTIONS):
        each = (low + high) / 2
        firsts = [p.times[:, p.level(each)] for p in passages.values()]
        if any_one.mean_run_length(np.min(firsts, axis=0)) < run_length:
            low = each
        else:
            high = each
    return {name: float(p.levels[p.level(high)]) for name, p in passages.items()}
