"""What an adaptation has to learn from, and what it is judged by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

_GUESS = 0.25  # what a guessed label counts beside a given one


@dataclass(frozen=True, eq=False)
class Material:
    """What the rungs work with; windows are normalised, float32 (·, C, T).

    Attributes:
        x, y: labelled windows to train on.
        unlabelled: every window of the present context but the held-out ones and their neighbours.
        held_x, held_y: labelled windows for the choice between rungs and for the gate.
        held_served: class that was served for each of them, int64; empty if that is not known.
        source_x, source_y: exemplars; at least one of every class without a labelled window.
        classes: K.
        head: name of the module's last linear layer.
        suffixes: those of the champion's kernels as far as they are stored with it, by
            `<decomposition>/<layer>`.
        guessed_x, guessed_y: windows without a label under the one that a rung gave them.
    """

    x: Tensor
    y: Tensor
    unlabelled: Tensor
    held_x: Tensor
    held_y: Tensor
    source_x: Tensor
    source_y: Tensor
    classes: int
    head: str
    suffixes: Mapping[str, Tensor] = field(default_factory=dict)
    held_served: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    guessed_x: Tensor = field(default_factory=lambda: torch.empty(0))
    guessed_y: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))

    def to(self, device: str) -> Material:
        """The same on a device, `cpu` or `cuda`."""
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {k: v.to(device) for k, v in own.items() if isinstance(v, Tensor)}
        return replace(self, **moved)

    def with_source(self, least: int = 1) -> tuple[Tensor, Tensor]:
        """The labelled windows, and exemplars of the classes that have fewer than `least`."""
        absent = self._absent(least)
        return (
            torch.cat([self.x, self.source_x[absent]]),
            torch.cat([self.y, self.source_y[absent]]),
        )

    def all_rows(self) -> tuple[Tensor, Tensor]:
        """The labelled windows, then all exemplars, then the guessed windows."""
        x, y = [self.x, self.source_x], [self.y, self.source_y]
        if len(self.guessed_y):
            x, y = [*x, self.guessed_x], [*y, self.guessed_y]
        return torch.cat(x), torch.cat(y)

    @property
    def own(self) -> Tensor:
        """Which of `all_rows` are labelled windows, (N,) bool."""
        sizes = len(self.y), len(self.source_y), len(self.guessed_y)
        return torch.arange(sum(sizes)) < sizes[0]

    @property
    def given(self) -> Tensor:
        """Which of `all_rows` have a label that somebody gave them, (N,) bool."""
        given = len(self.y) + len(self.source_y)
        return torch.arange(given + len(self.guessed_y)) < given

    @property
    def present(self) -> Tensor:
        """Which of `all_rows` are of the present context, or stand in for a class without label."""
        ours, theirs = (torch.ones(len(y), dtype=torch.bool) for y in (self.y, self.guessed_y))
        return torch.cat([ours, self._absent().cpu(), theirs])

    def weights(self, share: float, evenness: float) -> Tensor:
        """How much each of `all_rows` counts, float64 (N,), 1 in all.

        Where every class has a labelled window, exemplars have a `share` of the whole. Those of a
        class without one keep its place: beside the share, they count as if they were labelled. A
        guess counts a quarter of a label.

        Args:
            share: of the exemplars, above 0 and below 1.
            evenness: of the classes: 1 gives each as much as any other, 0 each row.
        """
        own, source, guessed = self.y.cpu(), self.source_y.cpu(), self.guessed_y.cpu()
        labels = torch.cat([own, source, guessed])
        counts_as = torch.cat(
            [
                torch.ones(len(own)),
                self._absent().cpu().float(),
                torch.full((len(guessed),), _GUESS),
            ]
        ).double()
        of_class = torch.zeros(self.classes).double().index_add_(0, labels, counts_as)
        present = _to_one(counts_as * (of_class.clamp_min(1e-9) ** -evenness)[labels])
        beside = torch.zeros(len(labels)).double()
        each = torch.bincount(source).clamp_min(1).double().reciprocal()[source]
        beside[len(own) : len(own) + len(source)] = _to_one(each)
        return (1 - share) * present + share * beside

    def _absent(self, least: int = 1) -> Tensor:
        return (torch.bincount(self.y, minlength=self.classes) < least)[self.source_y]


def _to_one(weights: Tensor) -> Tensor:
    return weights / weights.sum()
