"""The suffixes of a whole module, to be computed once and kept with its weights.

They are kept by `<decomposition>/<layer>`: those of several decompositions can lie together.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from edgetuner.peft.lora_edge import convolutions
from edgetuner.peft.spending import affordable_rank, has_plain_kernel, left_for_cores
from edgetuner.peft.tt import Decomposition, suffix


def suffixes_of(
    module: nn.Module, rank: int, decomposition: Decomposition = "tt"
) -> dict[str, Tensor]:
    """`S (r, I/g, *K)` of every convolution, float32, by `<decomposition>/<layer>`.

    r is the rank, or the largest that the kernel allows. A kernel that several layers share stands
    under the first one's name. What `LoraEdge` cannot adapt, a kernel that is no plain parameter of
    floats, is left out.

    Raises:
        ModelError: not a rank, an unknown decomposition, a kernel that is not finite.
    """
    found = {}
    for layer in convolutions(module):
        kernel = module.get_submodule(layer)._parameters.get("weight")
        if kernel is not None and kernel.is_floating_point():
            found[f"{decomposition}/{layer}"] = suffix(
                kernel, rank, decomposition, clip=True, layer=layer
            )
    return found


def suffixes_to_keep(
    module: nn.Module, head: str, rank: int, fraction: float, decomposition: Decomposition
) -> dict[str, Tensor]:
    """Those that an adaptation of all layers will ask for.

    Args:
        head: name of the last linear layer.
        rank: the largest wanted.
        fraction: share of the weights that may be trained.
    """
    allowed = left_for_cores(module, head, fraction)
    layers = [layer for layer in convolutions(module) if has_plain_kernel(module, layer)]
    affordable = affordable_rank(module, layers, rank, allowed)
    return suffixes_of(module, affordable, decomposition)


def of_decomposition(
    suffixes: Mapping[str, Tensor], decomposition: Decomposition
) -> dict[str, Tensor]:
    """Those of one decomposition by layer, as `LoraEdge` takes them."""
    prefix = f"{decomposition}/"
    return {
        key.removeprefix(prefix): kept for key, kept in suffixes.items() if key.startswith(prefix)
    }
