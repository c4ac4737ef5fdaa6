"""Probation: a new version proves itself beside the one before it, on the same labelled windows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from edgetuner.adapt.gate import mcnemar

if TYPE_CHECKING:
    from edgetuner.inference import ModelVersion

StreamKey = tuple[str, str]
_MIN_EVIDENCE = 8  # labelled windows before probation may end badly


@dataclass
class Probation:
    """The time in which a new version has to prove itself beside the one before it.

    Attributes:
        previous: the version before, kept in memory; it predicts the labelled windows too.
        starts: first sequence number of each stream after the swap.
        windows: predicted since the swap.
        right: row of a labelled window -> (new version right, previous version right).
    """

    previous: ModelVersion
    starts: dict[StreamKey, int]
    windows: int = 0
    right: dict[int, tuple[bool, bool]] = field(default_factory=dict)

    @property
    def tells(self) -> bool:
        """Whether there is enough to end it badly."""
        return len(self.right) >= _MIN_EVIDENCE

    def p_previous_better(self) -> float:
        """McNemar's p-value that the previous version is no better than the new one."""
        pairs = np.array(list(self.right.values()), dtype=bool).reshape(-1, 2)
        return mcnemar(better=pairs[:, 1], worse=pairs[:, 0])
