"""Drift detection alone: false alarms at home, and the windows until a change is noticed.

Nothing is adapted and there are no labels. The model is asked once what it makes of every window;
streams of bouts then play these answers to the service's own monitor. After an alarm the monitor
is told to watch on, from zero.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.bouts import Bouts, played
from benchmarks.homes import Home
from benchmarks.usual import DETECTORS, interpreter, usual_alarms
from edgetuner.data import WindowSet
from edgetuner.drift import DriftMonitor, Reference, bouts_of, calibrate
from edgetuner.drift.monitor import TOGETHER
from edgetuner.inference import ModelVersion
from edgetuner.metrics import macro_f1

CORRELATION = 0.7  # of neighbours in the synthetic streams
BEFORE = (200, 600)  # windows at home before a change
_USUAL_HORIZON = 1000
_KEY = ("bench", "imu")
_BLOCK = 30  # windows that are timed together
_WIDTH, _KINDS = 16, 4  # of the synthetic embeddings
_HOP_S, _REFERENCES = 5.0, 5  # of the synthetic streams
Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Answers:
    """What a model made of N windows in the order of a stream.

    Attributes:
        embeddings: (N, D).
        predicted: class index (N,).
        confidence: (N,).
    """

    embeddings: NDArray[Any]
    predicted: NDArray[np.int64]
    confidence: NDArray[Any]

    def __len__(self) -> int:
        return len(self.predicted)

    def __getitem__(self, rows: Any) -> Answers:
        return Answers(self.embeddings[rows], self.predicted[rows], self.confidence[rows])

    def then(self, others: Answers) -> Answers:
        """These and then those."""
        return Answers(
            *(
                np.concatenate([getattr(self, name), getattr(others, name)])
                for name in ("embeddings", "predicted", "confidence")
            )
        )


def answers(version: ModelVersion, windows: WindowSet) -> Answers:
    """Of the model to raw windows, a few at a time."""
    parts = [version.predict(x) for x in np.array_split(windows.x, -(-len(windows) // 256))]
    return Answers(
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("embeddings", "predicted", "confidence")
        )
    )


def alarms(reference: Reference, stream: Answers, *, first: bool = False) -> list[tuple[int, str]]:
    """Window after which every alarm was raised, and its detector; each is answered at once: it was
    none.

    Args:
        first: stop at the first one. Windows then come one by one, and not some at a time.
    """
    monitor = DriftMonitor(reference)
    found: list[tuple[int, str]] = []
    chunk = 1 if first else TOGETHER
    for at in range(0, len(stream), chunk):
        part = stream[at : at + chunk]
        findings = monitor.update_many(
            [_KEY] * len(part),
            range(at, at + len(part)),
            np.zeros((len(part), 1, 1)),  # sensors are another matter
            part.embeddings,
            part.predicted,
            part.confidence,
        )
        drifts = [finding for finding in findings if finding.kind == "drift"]
        if drifts:
            found.append((at + len(part) - 1, drifts[0].detector))
            if first:
                break
            monitor.acknowledge(_KEY)
    return found


def wearers(windows: WindowSet) -> list[WindowSet]:
    """The windows of each person; of all where people are not told apart."""
    if "subject" not in windows.groups:
        return [windows]
    return [windows.select(subject=int(s)) for s in np.unique(windows.groups["subject"])]


def pairs(at_home: WindowSet, away: WindowSet) -> list[tuple[WindowSet, WindowSet]]:
    """Who wears it before and after a change: the same person where he is in both, else everybody
    at home with everybody who is new.
    """
    if "subject" not in at_home.groups:
        return [(at_home, away)]
    first, second = (
        {int(one.groups["subject"][0]): one for one in wearers(windows)}
        for windows in (at_home, away)
    )
    stay = first.keys() & second.keys()
    if stay:
        return [(first[name], second[name]) for name in sorted(stay)]
    return [(a, b) for b in second.values() for a in first.values()]


def false_alarms(
    home: Home, version: ModelVersion, reference: Reference, bouts: Bouts, windows: int, seed: int
) -> Row:
    """Alarms on drift-free streams of bouts, `windows` in all, one stream a person."""
    draw = np.random.default_rng([seed, 1])
    people = wearers(home.home)
    assert reference.calibration is not None
    asked = reference.calibration.run_length
    found, by_detector = [], dict.fromkeys(reference.calibration.thresholds, 0)
    for person in people:
        known = answers(version, person)
        rows = played(person, windows // len(people), bouts, home.hop_s, draw)
        raised = alarms(reference, known[rows])
        found.append(len(raised))
        for _, detector in raised:
            by_detector[detector] = by_detector.get(detector, 0) + 1
    watched = windows // len(people) * len(people)
    return {"stream": "bouts", **_rate(watched, found, asked), "by_detector": by_detector}


def correlated_false_alarms(run_length: float, bouts: Bouts, windows: int, seed: int) -> Row:
    """The same on synthetic embeddings, which follow AR(.7) within each bout and never repeat.

    A few references are calibrated, each on recordings of its own, since one alone may be lucky.
    """
    found, watched = [], 0
    for number in range(_REFERENCES):
        draw = np.random.default_rng([seed, 2, number])
        reference = _synthetic_reference(draw, run_length)
        so_far = 0
        count = 0
        while so_far < windows // _REFERENCES:
            stream = _synthetic(draw, [bouts.windows(draw, _HOP_S) for _ in range(1000)])
            count += len(alarms(reference, stream))
            so_far += len(stream)
        found.append(count)
        watched += so_far
    return {"stream": f"AR({CORRELATION:g})", **_rate(watched, found, run_length)}


def _synthetic_reference(draw: np.random.Generator, run_length: float) -> Reference:
    """Of recordings of five minutes, sixty of each kind."""
    fitted, held = (_synthetic(draw, [60] * 60 * _KINDS) for _ in range(2))
    reference = Reference.fit(
        fitted.embeddings,
        fitted.predicted,
        held.embeddings,
        held.predicted,
        held.confidence,
        [f"kind {k}" for k in range(_KINDS)],
        held_recording=np.repeat(np.arange(60 * _KINDS), 60),
    )
    return calibrate(reference, run_length, bouts=bouts_of(_HOP_S))


def delays(
    home: Home, version: ModelVersion, reference: Reference, bouts: Bouts, streams: int, seed: int
) -> list[Row]:
    """A row for each stream: the windows from the change to the first alarm.

    The same person goes on with the sensor at another place, or another person takes it over. A
    stream with an alarm before its change has no delay. `delay` is None where nothing was noticed
    for as long as the stream went on, `horizon` windows.
    """
    draw = np.random.default_rng([seed, 3])
    people = pairs(home.home, home.away)
    people = [people[i] for i in draw.permutation(len(people))]
    known = [(answers(version, a), answers(version, b)) for a, b in people[:streams]]
    horizon = 2000
    rows = []
    for number in range(streams):
        person = number % len(known)
        before, after = people[person]
        count = int(draw.integers(*BEFORE))
        first = known[person][0][played(before, count, bouts, home.hop_s, draw)]
        second = known[person][1][played(after, horizon, bouts, home.hop_s, draw)]
        raised = alarms(reference, first.then(second), first=True)
        row: Row = {
            "change": kind(home),
            "stream": number,
            "f1_home": macro_f1(before.y, known[person][0].predicted),
            "f1_away": macro_f1(after.y, known[person][1].predicted),
            "horizon": horizon,
        }
        if raised and raised[0][0] < count:
            row["false_alarm_after"] = raised[0][0]
        else:
            row["delay"] = raised[0][0] - count + 1 if raised else None
            row["by"] = raised[0][1] if raised else None
        rows.append(row)
    return rows


def usual(
    home: Home, version: ModelVersion, bouts: Bouts, windows: int, streams: int, seed: int
) -> list[Row]:
    """False alarms and delays of the usual detectors, where their packages are to be had; on fewer
    windows than ours, since MMD takes a millisecond for each.
    """
    python = interpreter()
    if python is None:
        why = "river and frouros are not installed, neither here nor in build/detectors"
        return [{"kind": "absent", "detectors": list(DETECTORS), "why": why}]
    draw = np.random.default_rng([seed, 4])

    def stream(part: WindowSet, count: int) -> Answers:
        return answers(version, part)[played(part, count, bouts, home.hop_s, draw)]

    people, both = wearers(home.home), pairs(home.home, home.away)
    calm = [stream(person, windows // len(people)) for person in people]
    changed, changes = [], []
    for number in range(streams):
        before, after = both[number % len(both)]
        count = int(draw.integers(*BEFORE))
        changed.append(stream(before, count).then(stream(after, _USUAL_HORIZON)))
        scores = [macro_f1(w.y, answers(version, w).predicted) for w in (before, after)]
        known = {"change": kind(home), "stream": number, "horizon": _USUAL_HORIZON}
        changes.append((count, known | dict(zip(("f1_home", "f1_away"), scores, strict=True))))
    found = usual_alarms(
        python,
        _arrays(answers(version, home.held)),
        _arrays(stream(home.held, windows)),
        [_arrays(one) for one in (*calm, *changed)],
        DETECTORS,
    )
    rows: list[Row] = []
    for name, alarmed in found.items():
        quiet = _rate(sum(map(len, calm)), [len(one) for one in alarmed[: len(calm)]])
        rows.append({"kind": "false_alarms", "detector": name, "stream": "bouts"} | quiet)
        for one, (count, known) in zip(alarmed[len(calm) :], changes, strict=True):
            rows.append({"kind": "delay", "detector": name} | known | _told(one, count))
    return rows


def _told(alarmed: Sequence[int], change: int) -> Row:
    """The first alarm after a change, whatever was cried before."""
    later = [at - change + 1 for at in alarmed if at >= change]
    return {
        "delay": later[0] if later else None,
        "alarms_before": sum(at < change for at in alarmed),
    }


def _arrays(stream: Answers) -> dict[str, NDArray[Any]]:
    return {"embeddings": stream.embeddings, "confidence": stream.confidence}


def kind(home: Home) -> str:
    """Whether a position changes or a person."""
    return "person" if home.shift.source == home.shift.target else "position"


def cost(home: Home, version: ModelVersion, reference: Reference, bouts: Bouts, rounds: int) -> Row:
    """Microseconds of one window of a stream of bouts in the model and in all detectors, which take
    turns: medians of means over some windows, since some are looked at at once.
    """
    monitor = DriftMonitor(reference, profile=version.sensor)
    person = wearers(home.home)[0]
    rows = played(person, rounds, bouts, home.hop_s, np.random.default_rng(5))
    inference, watching = [], []
    for seq, row in enumerate(rows):
        x = person.x[row][None]
        start = time.perf_counter()
        out = version.predict(x)
        between = time.perf_counter()
        monitor.update_many([_KEY], [seq], x, out.embeddings, out.predicted, out.confidence)
        end = time.perf_counter()
        if monitor.drifted(_KEY):
            monitor.acknowledge(_KEY)
        inference.append(between - start)
        watching.append(end - between)
    blocks = [slice(at, at + _BLOCK) for at in range(_BLOCK, rounds - _BLOCK + 1, _BLOCK)]
    model, detectors = (
        median(fmean(times[block]) for block in blocks) for times in (inference, watching)
    )
    return {
        "inference_us": 1e6 * model,
        "detectors_us": 1e6 * detectors,
        "detector_cost_ratio": detectors / model,
    }


def _rate(watched: int, found: Sequence[int], asked: float | None = None) -> Row:
    """`ratio` is the measured time between alarms over the asked one; absent without an alarm."""
    count = sum(found)
    row: Row = {
        "windows": watched,
        "alarms": count,
        "alarms_by_stream": list(found),
        "per_million": 1e6 * count / watched,
    }
    if asked is not None:
        row |= {"asked": asked} | ({"ratio": watched / count / asked} if count else {})
    return row


def _synthetic(draw: np.random.Generator, lengths: Sequence[int]) -> Answers:
    """Bouts of these lengths, each of the next class; the last column becomes the confidence."""
    parts = []
    for length in lengths:
        noise = draw.normal(size=(length, _WIDTH + 1))
        for t in range(1, length):
            noise[t] = CORRELATION * noise[t - 1] + np.sqrt(1 - CORRELATION**2) * noise[t]
        parts.append(noise)
    y = np.repeat(np.arange(len(lengths)) % _KINDS, lengths)
    noise = np.concatenate(parts)
    return Answers(
        10.0 * y[:, None] + noise[:, :_WIDTH], y, 1 / (1 + np.exp(-3 - noise[:, _WIDTH]))
    )
