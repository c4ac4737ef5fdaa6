"""The head in closed form, on features as they are: the cheapest rung, forward passes only."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgetuner.adapt.material import Material
from edgetuner.adapt.rungs.reached import LeftOut, Reached, Report
from edgetuner.config import AdaptConfig
from edgetuner.models import embed
from edgetuner.peft.head import RidgeHead, principal_directions, solve
from edgetuner.peft.spending import head_directions, weights_of

CHUNK = 64  # windows a forward pass; bounds the memory of everything but training
# Of the source beside the labelled windows: which one helps is told by leaving each window out.
_SHARES = {"follow": (0.02, 0.1, 0.3), "retain": (0.5,)}
EVENNESS = 0.5  # between counting every window alike and every class alike


def head(start: Reached, material: Material, settings: AdaptConfig, report: Report) -> Reached:
    """The last linear layer, solved on the features of the labelled windows and the exemplars."""
    return with_head(start.module, material, settings)


def with_head(
    module: nn.Module,
    material: Material,
    settings: AdaptConfig,
    *,
    basis: Tensor | None = None,
    keep: float = 0.0,
) -> Reached:
    """The module with a head solved for its features.

    Args:
        basis: directions to weigh, `(D, r)`; those in which the features vary most if None.
        keep: share of the present head that stays.
    """
    solved = _solve(module, material, settings, basis)
    adapted = copy.deepcopy(module)
    layer = head_of(adapted, material)
    with torch.no_grad():
        layer.weight.mul_(keep).add_((1 - keep) * solved.weight.to(layer.weight))
        if layer.bias is not None:
            layer.bias.mul_(keep).add_((1 - keep) * solved.ridge.bias.to(layer.bias))
    judged = solved.judged
    squares, scores = solved.ridge.loo_squares[judged], solved.ridge.loo_scores[judged]
    facts = {
        "trained": solved.trained,
        "trained_fraction": solved.trained / weights_of(module),
        "loo_error": round(solved.ridge.loo_error, 4),
        "source_share": solved.share,
    }
    counts = material.weights(solved.share, EVENNESS)[judged]
    left_out = LeftOut(squares, scores.argmax(dim=1), counts)
    return Reached(adapted, solved.share, left_out, solved.basis, facts=facts)


def head_of(module: nn.Module, material: Material) -> nn.Linear:
    """The module's last linear layer."""
    layer = module.get_submodule(material.head)
    assert isinstance(layer, nn.Linear)
    return layer


@dataclass(frozen=True, eq=False)
class _Solved:
    ridge: RidgeHead
    weight: Tensor  # (K, D)
    judged: Tensor  # (N,) bool
    share: float
    basis: Tensor | None  # (D, r)
    trained: int


def _solve(
    module: nn.Module, material: Material, settings: AdaptConfig, basis: Tensor | None
) -> _Solved:
    x, y = material.all_rows()
    features = embeddings(module, x, material.head)
    rank = head_directions(module, material.head)
    if basis is None and rank < features.shape[1]:
        served = material.present if settings.policy == "follow" else slice(None)
        basis = principal_directions(features.cpu()[served], rank)
    if basis is not None:
        features = features.cpu().double() @ basis
    judged = material.own if settings.policy == "follow" else material.given
    has_bias = head_of(module, material).bias is not None
    trials = [
        (
            solve(
                features,
                y,
                material.classes,
                weights=material.weights(share, EVENNESS),
                judged=judged,
                intercept=has_bias,
            ),
            share,
        )
        for share in _SHARES[settings.policy]
    ]
    ridge, share = min(trials, key=lambda trial: trial[0].press)
    weight = ridge.weight if basis is None else ridge.weight.double() @ basis.T
    trained = ridge.weight.numel() + (ridge.bias.numel() if has_bias else 0)
    return _Solved(ridge, weight, judged, share, basis, trained)


def embeddings(module: nn.Module, x: Tensor, head: str) -> Tensor:
    """What enters the head, `(N, D)`."""
    with torch.no_grad():
        return torch.cat([embed(module, chunk, head)[1] for chunk in torch.split(x, CHUNK)])


def spread(x: Tensor, most: int) -> Tensor:
    """At most so many windows, taken evenly."""
    return x if len(x) <= most else x[torch.linspace(0, len(x) - 1, most).long()]
