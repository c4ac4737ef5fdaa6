"""The best matching of rows to columns."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def best_matching(gain: NDArray[np.float64]) -> NDArray[np.int64]:
    """Which column each row gets, (K,), so that the sum of what they gain is greatest.

    The Hungarian method (Kuhn 1955) with shortest augmenting paths and potentials (Jonker &
    Volgenant 1987), K^3 steps at most; scipy, which has it, would be a dependency for this alone.

    Args:
        gain: (K, K).
    """
    cost, size = -gain, len(gain)
    free = size  # a column beside the others, from which each search begins
    of_row, of_column = np.zeros(size), np.zeros(size + 1)
    owner = np.full(size + 1, -1)
    for row in range(size):
        owner[free], column = row, free
        distance, before = np.full(size, np.inf), np.full(size, free)
        done = np.zeros(size + 1, bool)
        while owner[column] >= 0:
            done[column] = True
            here = owner[column]
            step = cost[here] - of_row[here] - of_column[:size]
            nearer = ~done[:size] & (step < distance)
            distance[nearer], before[nearer] = step[nearer], column
            nearest = int(np.argmin(np.where(done[:size], np.inf, distance)))
            delta = distance[nearest]
            of_row[owner[done]] += delta
            of_column[done] -= delta
            distance[~done[:size]] -= delta
            column = nearest
        while column != free:
            owner[column] = owner[before[column]]
            column = before[column]
    found = np.empty(size, np.int64)
    found[owner[:size]] = np.arange(size)
    return found
