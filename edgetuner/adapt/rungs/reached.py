"""What a rung hands on: a model that could be served, and what it says of windows unseen."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from edgetuner.adapt.material import Material

_FEWEST = 5  # windows that a lead can be told from


class Report(Protocol):
    """Takes what the child wants the service to know: a rung, and facts about it."""

    def __call__(self, rung: str, **facts: Any) -> None: ...


@dataclass(frozen=True, eq=False)
class LeftOut:
    """What a model says of windows by a head that was solved without each in turn.

    Exact where the features were not trained on these windows, too good by some points where they
    were.

    Attributes:
        squares: squared error of the regression on one-hot labels, float64 (N,).
        predicted: class index, int64 (N,).
        counts: how much each counts, float64 (N,).
    """

    squares: Tensor
    predicted: Tensor
    counts: Tensor

    def lead(self, other: LeftOut) -> float:
        """By how many standard errors the mean squared error is lower than another's on the same
        windows; 0 if they are equal, or too few to tell.
        """
        if len(self.squares) < _FEWEST:
            return 0.0
        gain, share = other.squares - self.squares, self.counts / self.counts.sum()
        mean = share @ gain
        few = len(gain) / (len(gain) - 1)  # the spread is of a sample
        error = float((share * (gain - mean)).norm()) * math.sqrt(few)
        if not error:
            return math.copysign(math.inf, mean) if mean else 0.0
        return float(mean) / error


@dataclass(frozen=True, eq=False)
class Reached:
    """Where a rung ends, and the next one begins.

    Attributes:
        module: the whole dense model, in eval mode, with the base's keys.
        share: what the source's exemplars counted beside the labelled windows.
        left_out: of the windows it is judged by; None of the champion, whose head is as it came.
        basis: directions of the features that the head weighs, `(D, r)`; None for all of them.
        material: what the next rung has to learn from, where this one added to it.
        facts: trained weights, trained fraction, norm of the cores, as far as it has them.
    """

    module: nn.Module
    share: float | None = None
    left_out: LeftOut | None = None
    basis: Tensor | None = None
    material: Material | None = None
    facts: dict[str, Any] = field(default_factory=dict)
