"""Figures of merit that every part reports alike."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def macro_f1(y: NDArray[np.int64], predicted: NDArray[np.int64]) -> float:
    """Mean F1 over the classes that occur in y, (N,) class indices each, N >= 1; from 0 to 1.

    A class that is predicted but never occurs has no F1 of its own; it lowers the recall of others.
    """
    if not len(y):
        raise ValueError("macro-F1 of no windows")
    scores = []
    for k in np.unique(y):
        hits = int(np.sum((y == k) & (predicted == k)))
        scores.append(2 * hits / (int(np.sum(y == k)) + int(np.sum(predicted == k))))
    return float(np.mean(scores))
