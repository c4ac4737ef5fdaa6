"""What days are made of: streams of bouts from held-out recordings.

Neighbouring windows are alike (they overlap, and a person does one thing for minutes). So streams
are made of bouts, two seconds to twenty minutes long: each plays a stretch of one held-out
recording in its own order (a circular moving-block bootstrap, Politis and Romano, 1992, whose
blocks never leave a recording), and a stream stays with one person. So the dependence is that of
life.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgetuner.drift.reference import Reference

BOUT_S = (2.0, 1200.0)  # seconds that people stay with one thing, log-uniform between them

Ints = NDArray[np.int64]


def bouts_of(window_s: float) -> tuple[int, int]:
    """Shortest and longest bout in windows, of which one begins every `window_s` seconds."""
    shortest, longest = (max(1, round(seconds / window_s)) for seconds in BOUT_S)
    return shortest, longest


class Life:
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
