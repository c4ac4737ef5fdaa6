"""Windows without a label, under the one that the head gives the surest of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from edgetuner.adapt.material import Material
from edgetuner.adapt.rungs.head import EVENNESS, embeddings, head_of, spread, with_head
from edgetuner.adapt.rungs.reached import LeftOut, Reached, Report
from edgetuner.config import AdaptConfig
from edgetuner.peft.head import RidgeHead, solve

_SUREST = 0.8  # of the windows that are taken for a class
_WINDOWS = 512
_LARGEST_ERROR = 0.15  # of the head on windows left out; beyond, too many of its guesses are wrong
_FOLDS = 5


def unlabelled(
    start: Reached, material: Material, settings: AdaptConfig, report: Report
) -> Reached:
    """A head that learned from guesses as well; the next rungs do, too.

    Whether guesses help is told by labelled windows whose label neither the guessing head nor the
    one that learned from it has seen: in five folds, against the same without guesses.
    """
    again = len(material.guessed_y) > 0
    if again:  # guesses are made anew, and judged against having none
        none = material.guessed_x[:0], material.guessed_y[:0]
        material = replace(material, guessed_x=none[0], guessed_y=none[1])
    if start.left_out is None or again:
        start = with_head(start.module, material, settings)
    assert start.share is not None and start.left_out is not None
    x = _without(spread(material.unlabelled, _WINDOWS), material.x)
    if not len(x) or start.facts["loo_error"] > _LARGEST_ERROR:
        return replace(start, facts=start.facts | {"guessed": 0})
    z = _projected(embeddings(start.module, x, material.head), start.basis)
    known_x, known_y = material.all_rows()
    known = _projected(embeddings(start.module, known_x, material.head), start.basis)
    has_bias = head_of(start.module, material).bias is not None
    fit = _Fit(_labels_on_cpu(material), known, known_y.cpu(), z, start.share, settings, has_bias)
    guessed = fit.guess(fit.head(fit.material))
    guessed_y = guessed.y.to(material.y.device)
    more = replace(material, guessed_x=x[guessed.rows], guessed_y=guessed_y)
    reached = with_head(start.module, more, settings, basis=start.basis)
    left_out = fit.left_out(start.left_out)
    facts = reached.facts | {"guessed": len(guessed.y)}
    return replace(reached, left_out=left_out, material=more, facts=facts)


@dataclass(frozen=True, eq=False)
class _Guessed:
    rows: Tensor  # among the windows without a label
    y: Tensor


@dataclass(frozen=True, eq=False)
class _Fit:
    """Heads on features that are there already: known (N, r) with labels, and z (M, r) without."""

    material: Material
    known: Tensor
    y: Tensor
    z: Tensor
    share: float
    settings: AdaptConfig
    has_bias: bool

    def head(
        self, material: Material, keep: Tensor | None = None, more: _Guessed | None = None
    ) -> RidgeHead:
        rows = slice(None) if keep is None else keep
        features, y = self.known[rows], self.y[rows]
        if more is not None:
            features, y = torch.cat([features, self.z[more.rows]]), torch.cat([y, more.y])
            material = replace(material, guessed_y=more.y)
        return solve(
            features,
            y,
            material.classes,
            material.weights(self.share, EVENNESS),
            judged=material.own if self.settings.policy == "follow" else material.given,
            intercept=self.has_bias,
        )

    def guess(self, head: RidgeHead) -> _Guessed:
        """The surest guesses of every class."""
        confidence, guess = (self.z @ head.weight.T + head.bias).softmax(1).max(1)
        rows = []
        for k in set(guess.tolist()):
            mine = torch.nonzero(guess == k)[:, 0]
            surest = confidence[mine].argsort(descending=True)
            rows.append(mine[surest[: max(1, int(_SUREST * len(mine)))]])
        found = torch.cat(rows)
        return _Guessed(found, guess[found])

    def left_out(self, start: LeftOut) -> LeftOut:
        """What was said without guesses, and what these change of it in five folds."""
        own = self.material.y
        squares, predicted = start.squares.clone(), start.predicted.clone()
        fold = _folds(own)
        for part in range(_FOLDS):
            out = fold == part
            keep = torch.cat([~out, torch.ones(len(self.y) - len(own), dtype=torch.bool)])
            if not out.any() or set(self.y[keep].tolist()) != set(self.y.tolist()):
                continue  # a class would have no row at all
            fewer = replace(self.material, y=own[~out])
            before = self.head(fewer, keep)
            after = self.head(fewer, keep, self.guess(before))
            rows = torch.nonzero(out)[:, 0]
            with_guesses, without = (_scores(head, self.known[rows]) for head in (after, before))
            targets = one_hot(own[rows], self.material.classes)
            squares[rows] += (with_guesses - targets).square().sum(dim=1)
            squares[rows] -= (without - targets).square().sum(dim=1)
            predicted[rows] = with_guesses.argmax(dim=1)
        return replace(start, squares=squares, predicted=predicted)


def _scores(head: RidgeHead, z: Tensor) -> Tensor:
    """Of the regression, float64 (n, K)."""
    return (z @ head.weight.T + head.bias).double() * head.temperature


def _labels_on_cpu(material: Material) -> Material:
    """Heads are solved there, wherever the windows are."""
    labels = {name: getattr(material, name).cpu() for name in ("y", "source_y", "guessed_y")}
    return replace(material, **labels)


def _folds(y: Tensor) -> Tensor:
    """A fold for each row, the rows of every class dealt out in turn."""
    fold = torch.zeros(len(y), dtype=torch.int64)
    for k in set(y.tolist()):
        mine = torch.nonzero(y == k)[:, 0]
        fold[mine] = (torch.arange(len(mine)) + k) % _FOLDS
    return fold


def _projected(z: Tensor, basis: Tensor | None) -> Tensor:
    z = z.cpu().double()
    return z if basis is None else z @ basis


def _without(x: Tensor, known: Tensor) -> Tensor:
    """Windows that are not among the known ones."""
    seen = {window.cpu().numpy().tobytes() for window in known}
    keep = [window.cpu().numpy().tobytes() not in seen for window in x]
    return x[torch.tensor(keep, dtype=torch.bool)]
