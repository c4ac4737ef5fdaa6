"""Streams of bouts: recorded windows in the order in which a day would bring them.

People do one thing for a while, two seconds or twenty minutes, and then another. A bout plays a
stretch of one recording in its own order; one that outlasts its recording is played back and forth,
so that neighbours in the stream are neighbours in time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from edgetuner.data import WindowSet

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Bouts:
    """How long people stay with one thing: log-uniform, each octave as frequent as any other.

    Attributes:
        shortest_s, longest_s: seconds.
    """

    shortest_s: float = 2.0
    longest_s: float = 1200.0

    def windows(self, draw: np.random.Generator, hop_s: float) -> int:
        """Length of the next bout, at least one window."""
        seconds = math.exp(draw.uniform(math.log(self.shortest_s), math.log(self.longest_s)))
        return max(1, round(seconds / hop_s))


def played(
    windows: WindowSet, count: int, bouts: Bouts, hop_s: float, draw: np.random.Generator
) -> Ints:
    """Rows of `count` windows in bouts, drawn anew each time; rows come again and again.

    Every bout is of another class than the one before, if there are two, and of a recording of it.
    """
    recordings = _by_class(windows)
    rows: list[int] = []
    label = -1
    while len(rows) < count:
        label = _other(label, list(recordings), draw)
        recording = recordings[label][draw.integers(len(recordings[label]))]
        rows += _back_and_forth(
            recording, int(draw.integers(len(recording))), bouts.windows(draw, hop_s)
        )
    return np.array(rows[:count], np.int64)


def played_once(
    windows: WindowSet, count: int, bouts: Bouts, hop_s: float, draw: np.random.Generator
) -> Ints:
    """Rows of at most `count` windows in bouts, none twice; a bout ends with its recording.

    What a model has learned from is not shown to it again, or the memory of a training set would
    pass for knowledge.
    """
    waiting = {label: [r.tolist() for r in some] for label, some in _by_class(windows).items()}
    rows: list[int] = []
    label = -1
    while len(rows) < count and waiting:
        label = _other(label, list(waiting), draw)
        chosen = int(draw.integers(len(waiting[label])))
        recording, length = waiting[label][chosen], bouts.windows(draw, hop_s)
        rows += recording[:length]
        del recording[:length]
        if not recording:
            del waiting[label][chosen]
        if not waiting[label]:
            del waiting[label]
    return np.array(rows[:count], np.int64)


def ends(y: Ints) -> Iterator[tuple[int, int]]:
    """First row and the row after the last of every run of one class."""
    return pairwise([0, *(np.flatnonzero(np.diff(y)) + 1).tolist(), len(y)])


def _by_class(windows: WindowSet) -> dict[int, list[Ints]]:
    recordings: dict[int, list[Ints]] = {}
    for rows in windows.recordings():
        recordings.setdefault(int(windows.y[rows[0]]), []).append(rows)
    return recordings


def _other(label: int, labels: list[int], draw: np.random.Generator) -> int:
    others = [other for other in labels if other != label] or labels
    return others[int(draw.integers(len(others)))]


def _back_and_forth(recording: Ints, start: int, length: int) -> list[int]:
    period = max(1, 2 * (len(recording) - 1))
    place = (start + np.arange(length)) % period
    rows: list[int] = recording[np.minimum(place, period - place)].tolist()
    return rows
