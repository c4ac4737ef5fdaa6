"""What is predicted how often: reported to people, never acted on. A day at a desk is not drift."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

WINDOWS = 1000  # the latest ones that it is of
_FLOOR = 0.5  # windows that a class counts for at least, so that an absent one is no infinity


class Histogram:
    """Predicted classes of the latest windows, beside those at home.

    Args:
        home: predicted class of each held-out window (M,).
        classes: how many classes there are.
    """

    def __init__(self, home: ArrayLike, classes: int) -> None:
        self._home = _shares(np.bincount(np.asarray(home, np.int64), minlength=classes))
        self._latest: deque[int] = deque(maxlen=WINDOWS)
        self._counts = [0] * classes

    def update(self, predicted: int) -> None:
        """Take the class of the next window."""
        if len(self._latest) == WINDOWS:
            self._counts[self._latest[0]] -= 1
        self._latest.append(predicted)
        self._counts[predicted] += 1

    @property
    def counts(self) -> Sequence[int]:
        """Of each class among the latest windows (K,)."""
        return tuple(self._counts)

    @property
    def stability_index(self) -> float | None:
        """Population stability index to home: sum of (p - q) ln(p / q); None before any window."""
        if not self._latest:
            return None
        now = _shares(np.array(self._counts))
        return float(((now - self._home) * np.log(now / self._home)).sum())


def _shares(counts: NDArray[np.integer]) -> NDArray[np.float64]:
    floored = np.maximum(counts, _FLOOR)
    shares: NDArray[np.float64] = floored / floored.sum()
    return shares
