"""Batch norm in evaluation mode: a fixed scale and shift of each map, folded into what is near."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@dataclass(eq=False)
class Norm:
    """`y = a x + (beta - a mean)` with `a = gamma / sqrt(var + eps)`.

    The module's tensors are read anew each time: it may have been moved to another device.

    Attributes:
        module: with running statistics.
        beta: what is trained in place of its bias, if anything.
    """

    module: _BatchNorm
    beta: nn.Parameter | None = None

    def scale(self) -> Tensor:
        """`a (C,)`."""
        assert self.module.running_var is not None
        scale = torch.rsqrt(self.module.running_var + self.module.eps)
        weight: Tensor | None = self.module.weight
        return scale if weight is None else scale * weight

    def shift(self, scale: Tensor, bias: Tensor | None = None) -> Tensor:
        """`beta + a (bias - mean)`, `(C,)`, for the bias of a convolution before it."""
        mean = self.module.running_mean
        assert mean is not None
        shift = scale * (-mean if bias is None else bias - mean)
        bias_after: Tensor | None = self.module.bias if self.beta is None else self.beta
        return shift if bias_after is None else shift + bias_after

    def apply(self, x: Tensor) -> Tensor:
        """Of `x (..., C)`, a tensor of its own, in its type."""
        scale = self.scale()
        return torch.addcmul(self.shift(scale).to(x.dtype), x, scale.to(x.dtype))


def normalises_by_batch(module: nn.Module) -> bool:
    """Whether a module is a batch norm that has no statistics but those of the batch."""
    return isinstance(module, _BatchNorm) and module.running_var is None
