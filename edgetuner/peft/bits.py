"""One bit an element: what the backward pass of a piecewise linear activation needs."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

_NUMPY = (torch.float32, torch.float64)
_WEIGHTS = (128, 64, 32, 16, 8, 4, 2, 1)  # numpy's order, most significant first


def pack_between(x: Tensor, low: float, high: float) -> Tensor:
    """Where `low < x < high`, uint8 (ceil(numel / 8)), in the order of `x` if it were contiguous.

    On a CPU numpy compares and packs many times faster than torch does.
    """
    if x.device.type == "cpu" and x.dtype in _NUMPY:
        array = x.detach().numpy()
        inside = array > low if math.isinf(high) else (array > low) & (array < high)
        return torch.from_numpy(np.packbits(inside))
    return _pack((x > low) & (x < high))


def unpack(bits: Tensor, shape: torch.Size) -> Tensor:
    """The bits as 0 and 1, uint8 of `shape`."""
    count = shape.numel()
    if bits.device.type == "cpu":
        return torch.from_numpy(np.unpackbits(bits.numpy(), count=count)).reshape(shape)
    return _unpack(bits, count).reshape(shape)


def _pack(mask: Tensor) -> Tensor:
    flat = mask.flatten().to(torch.uint8)
    flat = torch.nn.functional.pad(flat, (0, -len(flat) % 8)).reshape(-1, 8)
    packed: Tensor = (flat * flat.new_tensor(_WEIGHTS)).sum(dim=1, dtype=torch.uint8)
    return packed


def _unpack(bits: Tensor, count: int) -> Tensor:
    ones = bits.unsqueeze(1).bitwise_and(bits.new_tensor(_WEIGHTS)).ne(0)  # (bytes, 8)
    return ones.flatten()[:count].to(torch.uint8)
