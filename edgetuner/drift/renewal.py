"""How often alarms come in a life in which each one is answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from edgetuner.drift.cusum import Cusums, Spread

Scores = NDArray[np.float64]
Ints = NDArray[np.int64]


def answered_alarms(
    scores: Mapping[str, Scores],
    kinds: Ints,
    spreads: Mapping[str, Spread],
    thresholds: Sequence[Mapping[str, float]],
) -> Ints:
    """False alarms of S streams of N windows at each of L sets of thresholds, (L,).

    An alarm of any detector is answered at once, as `DriftMonitor.acknowledge` does: what it was
    made of is ordinary for its stream from then on, and every detector starts again from zero.

    Args:
        scores: by detector (S, N).
        kinds: of each window, from 0 (S, N).
        spreads: by detector. thresholds: L times by detector.
    """
    levels, (streams, windows) = len(thresholds), kinds.shape
    count = int(kinds.max(initial=0)) + 1
    shape = levels * streams, count
    cusums = {name: Cusums(*shape, spread) for name, spread in spreads.items()}
    ordinary = {name: np.zeros(shape) for name in spreads}
    limits = {name: np.repeat([level[name] for level in thresholds], streams) for name in spreads}
    rows, alarms = np.arange(levels * streams), np.zeros(levels * streams, np.int64)
    for t in range(windows):
        kind = np.tile(kinds[:, t], levels)
        alarm = np.zeros(levels * streams, np.bool_)
        for name, cusum in cusums.items():
            cusum.update(np.tile(scores[name][:, t], levels) - ordinary[name][rows, kind], kind)
            alarm |= cusum.statistic > limits[name]
        if alarm.any():
            alarms += alarm
            for name, cusum in cusums.items():
                ordinary[name][alarm] += cusum.effects(alarm)
                cusum.reset(alarm)
    found: Ints = alarms.reshape(levels, streams).sum(1)
    return found
