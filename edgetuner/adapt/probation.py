"""Probation: a new version proves itself beside the one before it, on the same labelled windows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgetuner.adapt.betting import wealth
from edgetuner.config import ProbationConfig
from edgetuner.store import Context

if TYPE_CHECKING:
    from edgetuner.serving import Serving

StreamKey = tuple[str, str]


@dataclass
class Probation:
    """The time in which a new version has to prove itself beside the one before it.

    Attributes:
        previous: who answered before, kept in memory; they predict the labelled windows too.
        starts: first sequence number of each stream after the swap.
        shared: whether an earlier version stays beside the new one.
        windows: predicted since the swap.
        right: row of a labelled window -> (new version right, previous version right).
    """

    previous: Serving
    starts: dict[StreamKey, int]
    shared: bool = False
    windows: int = 0
    right: dict[int, tuple[bool, bool]] = field(default_factory=dict)

    @property
    def wins(self) -> int:
        """Labelled windows on which the new version alone is right."""
        return sum(new and not old for new, old in self.right.values())

    @property
    def losses(self) -> int:
        """Labelled windows on which the previous version alone is right."""
        return sum(old and not new for new, old in self.right.values())

    @property
    def evidence(self) -> float:
        """That the previous version is better: see `wealth`."""
        return wealth(self.losses, self.wins)

    def unseen(self, labelled: Context, version: str) -> Context:
        """Which of the labelled windows the new version predicted and `compare` has not taken in.

        Args:
            version: id of the new one.
        """
        compared = np.isin(labelled.row, list(self.right))
        return labelled.take((labelled.version == version) & ~compared)

    def compare(
        self, windows: Context, kept: NDArray[np.int64], previous: NDArray[np.int64]
    ) -> None:
        """Takes in what those who would stay say of labelled windows, (N,), and what those who
        answered before the swap say.
        """
        new, old = kept == windows.y, previous == windows.y
        pairs = zip(new.tolist(), old.tolist(), strict=True)
        self.right.update(zip(windows.row.tolist(), pairs, strict=True))

    def verdict(self, settings: ProbationConfig) -> Literal["worse", "proven"] | None:
        """What the labels say so far; None while they say nothing yet.

        `worse` as soon as the evidence for the previous version reaches 1 / max_p_value, and at the
        end where the new version was right less often: by then the proof is its own to give. Not so
        where it shares its answers: then it counts for little where it is wrong.
        """
        if self.evidence * settings.max_p_value >= 1:
            return "worse"
        if len(self.right) < settings.labels and self.windows < settings.windows:
            return None
        return "worse" if self.losses > self.wins and not self.shared else "proven"

    def to_wire(self) -> dict[str, Any]:
        """JSON-compatible numbers."""
        return {
            "windows": self.windows,
            "labels": len(self.right),
            "wins": self.wins,
            "losses": self.losses,
            "evidence": round(self.evidence, 3),
        }

    def summary(self) -> str:
        """The numbers, in words."""
        return (
            f"the new one alone is right {self.wins} times, the previous one {self.losses} times, "
            f"on {len(self.right)} labelled of {self.windows} windows"
        )
