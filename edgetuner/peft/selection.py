"""Which layers are adapted, by patterns over their names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from edgetuner.errors import ModelError
from edgetuner.peft.lora_edge import convolutions, shifted_norms


@dataclass(frozen=True)
class Selection:
    """Layers by kind.

    Attributes:
        layers: convolutions to adapt.
        norms: batch norms whose shift may be trained beside them.
    """

    layers: tuple[str, ...]
    norms: tuple[str, ...]


def select(base: nn.Module, patterns: Sequence[str]) -> Selection:
    """The layers whose name fits one of the patterns, where `*` stands for anything; all for none.

    Raises:
        ModelError: a pattern that fits no convolution and no batch norm, or no convolution fits.
    """
    wanted = patterns or ("*",)
    layers = convolutions(base)
    norms = shifted_norms(base)
    for pattern in patterns:
        if not _fitting((*layers, *norms), (pattern,)):
            _refuse(pattern, layers)
    selected = Selection(_fitting(layers, wanted), _fitting(norms, wanted))
    if not selected.layers and patterns:
        _refuse(", ".join(patterns), layers)
    return selected


def _fitting(names: Sequence[str], patterns: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in names if any(fnmatchcase(name, p) for p in patterns))


def _refuse(pattern: str, layers: Sequence[str]) -> None:
    some = ", ".join(dict.fromkeys([*layers[:1], *layers[-1:]]))
    remedy = f"convolutions are called {some} and the like"
    raise ModelError("fits no convolution", field="layers", value=pattern, remedy=remedy)
