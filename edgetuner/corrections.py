"""What labels said of windows when these were answered, kept for a while: so it can be told later
what others would have served for them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_LATEST = 4096  # windows


class Correction(NamedTuple):
    """What labels say of N windows beside the versions' own word.

    Attributes:
        word: what the versions' own word counts for each window, (N,).
        speaks: what labels count for each class of it, (N, K).
    """

    word: NDArray[np.float64]
    speaks: NDArray[np.float64]

    def of(self, probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
        """The probabilities (N, K) that versions give the windows, corrected."""
        weights = self.word[:, None] * probabilities + self.speaks
        corrected: NDArray[np.float64] = weights / weights.sum(axis=1, keepdims=True)
        return corrected


class Corrections:
    """Those of the latest windows that labels said anything of."""

    def __init__(self) -> None:
        self._rows: OrderedDict[int, tuple[float, NDArray[np.float64]]] = OrderedDict()

    def note(self, rows: Sequence[int], correction: Correction) -> None:
        """Keeps that of N windows, which are in these rows of the store."""
        for i in np.flatnonzero(correction.speaks.any(axis=1)).tolist():
            # Copies, lest each keeps its whole batch in memory.
            self._rows[rows[i]] = correction.word[i], correction.speaks[i].copy()
        while len(self._rows) > _LATEST:
            self._rows.popitem(last=False)

    def of(self, rows: Sequence[int], classes: int) -> Correction:
        """That of N windows in these rows, of K classes; one that changes nothing where labels said
        nothing, or it is forgotten.
        """
        word, speaks = np.ones(len(rows)), np.zeros((len(rows), classes))
        for i, row in enumerate(rows):
            if row in self._rows:
                word[i], speaks[i] = self._rows[row]
        return Correction(word, speaks)
