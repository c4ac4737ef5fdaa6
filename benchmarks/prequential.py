"""Test, then train: a stream played to a policy, and what came of it.

Every window is answered before anybody can learn from it. macro-F1 is that of a sliding window,
over the classes that occur in it, and never reaches back across a change; windows of a broken
sensor do not count.
"""

from __future__ import annotations

import bisect
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.faults import NAMES
from benchmarks.policies import AT_ONCE, POLICIES, Answering, Log
from benchmarks.scenarios import Stream
from edgetuner.inference import ModelVersion
from edgetuner.metrics import macro_f1

SLIDING = 200  # windows that F1 is told over, ...
LEAST = 24  # ... and of how many it is told at least
STRIDE = 10
AFTER_SWAP = 200  # windows on which a swap is judged; LEAST_JUDGED where the stream ends before
LEAST_JUDGED = 100
HARM = 0.02  # macro-F1 lost by a harmful swap
RECOVERED = 0.9  # of the F1 before the change
NAMED_WITHIN = 20  # windows, a fault of the sensor

Ints = NDArray[np.int64]
Row = dict[str, Any]


async def play(
    stream: Stream, policy: str, version: ModelVersion, folder: Path, rate: float
) -> tuple[Ints, Log]:
    """The answers to all windows (N,), and what the policy did."""
    actor = POLICIES[policy](stream, version, folder, rate)
    order = np.argsort(stream.due, kind="stable")
    order = order[stream.label[order] >= 0]
    due = stream.due[order].tolist()
    answered: list[Ints] = []
    told = 0
    try:
        for first in range(0, len(stream), AT_ONCE):
            rows = range(first, min(first + AT_ONCE, len(stream)))
            answered.append(await actor.windows(rows))
            arrived = bisect.bisect_left(due, rows.stop)
            if arrived > told:
                await actor.labels(order[told:arrived].tolist())
                told = arrived
            await actor.act(rows.stop)
    finally:
        await actor.close()
    return np.concatenate(answered), actor.log


def outcome(stream: Stream, predicted: Ints, log: Log) -> Row:
    """What a run comes to; what was not measured is absent."""
    curve = rolling_f1(stream, predicted)
    first = stream.changes[0] if stream.changes else 0
    after = [f1 for at, f1 in curve if at > first]
    row: Row = {
        "windows": len(stream),
        "changes": list(stream.changes),
        "auc": float(np.mean(after)),
        "curve": [[at, round(f1, 4)] for at, f1 in curve[::2]],
        "events": [[at, name] for at, name in log.events],
        "trainings": len(log.train_seconds),
        "train_seconds": sum(log.train_seconds),
        "adapt_seconds": sum(log.adapt_seconds),
        "refused": _count(log, "refused"),
        "rollbacks": _count(log, "rollback"),
    }
    row |= _swaps(stream, predicted, log)
    row |= _alarms(stream, log)
    row |= _recovery(stream, curve)
    if stream.faults:
        row |= _faults(stream, log)
    if log.failures:
        row["failures"] = log.failures
    if log.energy_j is not None:
        row["energy_j"] = log.energy_j
    return row


def rolling_f1(stream: Stream, predicted: Ints) -> list[tuple[int, float]]:
    """(windows so far, macro-F1 of the latest ones since the last change), every few windows."""
    y, sound = stream.windows.y, ~stream.faulty
    edges = [0, *stream.changes]
    curve = []
    for at in range(STRIDE, len(stream) + 1, STRIDE):
        since = max(edge for edge in edges if edge < at)
        rows = np.arange(max(since, at - SLIDING), at)
        rows = rows[sound[rows]]
        if len(rows) >= LEAST:
            curve.append((at, macro_f1(y[rows], predicted[rows])))
    return curve


def harm(
    stream: Stream, predicted: Ints, at: int, until: int, old: Answering, new: Answering
) -> float | None:
    """macro-F1 of who answered before a swap less that of who answers since, on the same windows
    after it; None where too few are left to tell.

    Args:
        predicted: what was answered, (N,).
        at, until: numbers of the windows at which it and the next one happened.
        old: who answered before the swap.
        new: who answered when the next one happened. Either would have gone on with the labels that
            came.
    """
    end = min(at + AFTER_SWAP, len(stream))
    sound = ~stream.faulty[at:end]
    if sound.sum() < LEAST_JUDGED:
        return None
    y, served = stream.windows.y[at:end], predicted[at:end]
    if until < end:
        served = np.concatenate([served[: until - at], new(range(until, end))])
    return macro_f1(y[sound], old(range(at, end))[sound]) - macro_f1(y[sound], served[sound])


def _swaps(stream: Stream, predicted: Ints, log: Log) -> Row:
    """Rollbacks are swaps too, and may do harm as well: `harms` has them all, in order."""
    nexts = [(at, before) for at, before, _ in log.swaps[1:]]
    nexts += [(len(stream), new) for _, _, new in log.swaps[-1:]]
    harms = [
        harm(stream, predicted, at, until, old, last)
        for (at, old, _), (until, last) in zip(log.swaps, nexts, strict=True)
    ]
    back = {at for at, name in log.events if name == "rollback"}
    judged = [(at in back, lost) for (at, _, _), lost in zip(log.swaps, harms, strict=True)]
    return {
        "swaps": sum(at not in back for at, _, _ in log.swaps),
        "swaps_judged": sum(lost is not None and not undone for undone, lost in judged),
        "harmful_swaps": sum(lost is not None and lost > HARM and not u for u, lost in judged),
        "harmful_rollbacks": sum(lost is not None and lost > HARM and u for u, lost in judged),
        "harms": [
            [at, None if lost is None else round(lost, 4)]
            for (at, _, _), lost in zip(log.swaps, harms, strict=True)
        ],
    }


def _alarms(stream: Stream, log: Log) -> Row:
    """False alarms before the first change, and the delay after it."""
    first = stream.changes[0] if stream.changes else len(stream)
    found = [finding.seq for finding in log.findings if finding.kind == "drift"]
    row: Row = {"false_alarms": sum(seq < first for seq in found), "alarms": len(found)}
    later = [seq - first + 1 for seq in found if seq >= first]
    return row | ({"delay": later[0]} if later else {})


def _recovery(stream: Stream, curve: list[tuple[int, float]]) -> Row:
    """Windows from the (complete) change until F1 is nearly what it was; None if it never is."""
    if not stream.changes:
        return {}
    first = stream.changes[0]
    before = [f1 for at, f1 in curve if at <= first]
    if not before:
        return {}
    goal = RECOVERED * float(np.mean(before))
    end = stream.changes[1] if len(stream.changes) > 1 else len(stream)
    since = max(first, stream.settled)
    reached = [at - first for at, f1 in curve if since < at <= end and f1 >= goal]
    return {"f1_before": float(np.mean(before)), "recovered": reached[0] if reached else None}


def _faults(stream: Stream, log: Log) -> Row:
    """Whether each fault got its name in time, and whether anything of it was trained on."""
    told = [finding for finding in log.findings if finding.kind == "sensor_fault"]
    named: list[tuple[str, str | None, int | None]] = []
    in_time = 0
    for name, first, end in stream.faults:
        hits = [finding for finding in told if first <= finding.seq < end]
        delay = hits[0].seq - first + 1 if hits else None
        named.append((name, hits[0].detector if hits else None, delay))
        in_time += any(
            finding.detector in NAMES.get(name, (name,)) and finding.seq < first + NAMED_WITHIN
            for finding in hits
        )
    faulty = np.flatnonzero(stream.faulty).tolist()
    return {
        "faults": len(named),
        "faults_in_time": in_time,
        "faults_noticed": sum(delay is not None for _, _, delay in named),
        "named": named,
        "faults_trained_on": len(log.trained_on & set(faulty)),
        "faults_when_sound": sum(not stream.faulty[finding.onset_seq] for finding in told),
    }


def _count(log: Log, name: str) -> int:
    return sum(event == name for _, event in log.events)
