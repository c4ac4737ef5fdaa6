"""Where the weights that may be trained are spent: rank, layers, shifts of batch norms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from edgetuner.errors import BudgetError
from edgetuner.peft.selection import select
from edgetuner.peft.tt import rank_limit

_LEAST_DIRECTIONS = 32


@dataclass(frozen=True)
class Spending:
    """What is trained.

    Attributes:
        rank: of every core; less where a kernel does not allow it.
        layers: convolutions with a core, in the order of the module.
        norms: batch norms whose shift is trained.
    """

    rank: int
    layers: tuple[str, ...]
    norms: tuple[str, ...]


def afford(
    base: nn.Module, patterns: Sequence[str], rank: int, allowed: int, *, shifts: bool = True
) -> Spending:
    """The largest rank that all selected layers can have; where not even 1 fits, the last layers.

    Shifts get what is left, the last ones first. All layers alike: asking the gradients of the
    target where a weight moves the loss most was no better (ARCHITECTURE.md).

    Args:
        base: the module.
        patterns: over the names of layers, as in `selection.select`; all if empty.
        rank: the largest wanted.
        allowed: weights that may be trained.
        shifts: whether those of batch norms may be among them.

    Raises:
        ModelError: a pattern that fits nothing.
        BudgetError: not even one core fits.
    """
    selected = select(base, patterns)
    layers = tuple(layer for layer in selected.layers if has_plain_kernel(base, layer))
    affordable = layers
    rank = affordable_rank(base, layers, rank, allowed)
    while layers and _cost(base, layers, rank) > allowed:
        layers = layers[1:]
    if not layers and affordable:
        least = _cost(base, affordable[-1:], 1)
        raise BudgetError(
            f"the core of the last layer has {least} weights at least, and {max(0, allowed)} are "
            f"left beside the head, of a model of {weights_of(base)}",
            field="adapt.trained_fraction",
            remedy="raise it, or leave the cores out of adapt.rungs",
        )
    left = allowed - _cost(base, layers, rank)
    norms: list[str] = []
    for norm in reversed(selected.norms if shifts else ()):
        left -= base.get_parameter(f"{norm}.bias").numel()
        if left < 0:
            break
        norms.insert(0, norm)
    return Spending(rank, layers, tuple(norms))


def affordable_rank(base: nn.Module, layers: Sequence[str], rank: int, allowed: int) -> int:
    """The largest rank up to `rank` that all these layers can have, at least 1."""
    while rank > 1 and _cost(base, layers, rank) > allowed:
        rank -= 1
    return rank


def head_directions(base: nn.Module, head: str) -> int:
    """How many directions of the features a head weighs, of D: what it takes to tell the classes
    apart, and some to spare. The cores make more of what else may be trained.
    """
    layer = base.get_submodule(head)
    assert isinstance(layer, nn.Linear)
    return min(layer.in_features, max(_LEAST_DIRECTIONS, 2 * layer.out_features))


def left_for_cores(base: nn.Module, head: str, fraction: float) -> int:
    """Weights of the share that may be trained, without those of the head."""
    layer = base.get_submodule(head)
    assert isinstance(layer, nn.Linear)
    directions = head_directions(base, head)
    return int(fraction * weights_of(base)) - layer.out_features * (directions + 1)


def weights_of(base: nn.Module) -> int:
    """All weights of a module."""
    return sum(parameter.numel() for parameter in base.parameters())


def has_plain_kernel(base: nn.Module, layer: str) -> bool:
    """Whether a layer's kernel is a parameter of floats, and not computed from others."""
    kernel = base.get_submodule(layer)._parameters.get("weight")
    return kernel is not None and kernel.is_floating_point()


def _cost(base: nn.Module, layers: Sequence[str], rank: int) -> int:
    kernels = [base.get_parameter(f"{layer}.weight") for layer in layers]
    return sum(len(kernel) * min(rank, rank_limit(kernel)) for kernel in kernels)
