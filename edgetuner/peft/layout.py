"""Feature maps with the maps innermost: a position's values lie side by side in memory.

A convolution is at its fastest on a CPU that way (torch calls it channels-last), and without being
copied the same memory is a matrix with a row for each position and a column for each map: the
gradient of a core is one product of two such matrices.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def image(x: Tensor) -> Tensor:
    """`(N, C, H, W)`, maps innermost, of `(N, C, L)` or `(N, C, H, W)`; copied only if it must."""
    return raised(x).contiguous(memory_format=torch.channels_last)


def raised(x: Tensor) -> Tensor:
    """`(N, C, H, W)` of `(N, C, L)` or `(N, C, H, W)`, a view."""
    return x.unsqueeze(2) if x.ndim == 3 else x


def maps_innermost(x: Tensor) -> Tensor:
    """Feature maps `(N, C, *L)` or kernels `(O, I, *K)` in their own shape, laid out like that."""
    return image(x).squeeze(2) if x.ndim == 3 else image(x)


def kernels_innermost(module: nn.Module) -> None:
    """Lays the kernels of a module's convolutions out in the same way, in place.

    Values, shapes and memory stay what they are. Without it they are laid out anew at every step.
    """
    for conv in module.modules():
        if isinstance(conv, nn.Conv1d | nn.Conv2d) and "weight" in conv._parameters:
            conv.weight.data = maps_innermost(conv.weight.data)


def inner(x: Tensor) -> Tensor:
    """A view of an image as it lies in memory, `(N, H, W, C)`; of anything else, itself."""
    return x.permute(0, 2, 3, 1) if x.ndim == 4 else x


def outer(x: Tensor) -> Tensor:
    """The inverse of `inner`."""
    return x.permute(0, 3, 1, 2) if x.ndim == 4 else x


def rows(x: Tensor) -> Tensor:
    """`(P, C)` of `(N, H, W, C)`."""
    return x.reshape(-1, x.shape[-1])
