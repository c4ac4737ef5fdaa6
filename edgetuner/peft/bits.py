"""One bit an element: what the backward pass of a piecewise linear activation needs."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

_NUMPY = (torch.float32, torch.float64)


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
    packed: Tensor = (flat << _places(flat)).sum(dim=1, dtype=torch.uint8)
    return packed


def _unpack(bits: Tensor, count: int) -> Tensor:
    ones = (bits.unsqueeze(1) >> _places(bits)) & 1  # (bytes, 8)
    return ones.flatten()[:count]


def _places(like: Tensor) -> Tensor:
    # numpy's order, most significant first; made on the device: nothing is copied there meanwhile
    return torch.arange(7, -1, -1, dtype=torch.uint8, device=like.device)
