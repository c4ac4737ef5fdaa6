"""Feature maps as matrices: a row for each position of each window, a column for each map.

With the maps innermost in memory (torch's channels-last) an image is such a matrix without being
copied, a convolution is at its fastest on a CPU, and the gradient of a core is one product of two
matrices.
"""

from __future__ import annotations

import torch
from torch import Tensor


def image(x: Tensor) -> Tensor:
    """`(N, C, H, W)`, maps innermost, of `(N, C, L)` or `(N, C, H, W)`; copied only if it must."""
    x = x.unsqueeze(2) if x.ndim == 3 else x
    return x.contiguous(memory_format=torch.channels_last)


def rows(x: Tensor) -> Tensor:
    """`(P, C)`, contiguous, of an image `(N, C, H, W)`; anything else is only made contiguous."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]) if x.ndim == 4 else x.contiguous()


def unrows(matrix: Tensor, shape: torch.Size) -> Tensor:
    """The tensor of `shape` that `rows` made the matrix of."""
    if len(shape) != 4:
        return matrix.reshape(shape)
    maps, *size = shape[1:]
    return matrix.reshape(-1, *size, maps).permute(0, 3, 1, 2)
