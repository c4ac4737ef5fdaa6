"""What follows no convolution that could take it up: a batch norm, an activation, or both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from edgetuner.peft.activation import IDENTITY, Activation
from edgetuner.peft.layout import image, inner, outer, rows
from edgetuner.peft.norm import Norm


@dataclass(eq=False)
class LeanPointwise:
    """A batch norm or an activation that follows no convolution, or one after the other.

    Attributes:
        norm: the batch norm, of which nothing is kept.
        activation: of which its own least is kept.
        dtype: what is computed in, None for the input's own.
    """

    norm: Norm | None = None
    activation: Activation = IDENTITY
    dtype: torch.dtype | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Of the shape of x, `(N, C, *L)`."""
        flat = x.ndim == 3
        x = x if self.dtype is None else x.to(self.dtype)
        pixels = image(x) if flat or x.ndim == 4 else x
        beta = None if self.norm is None else self.norm.beta
        y: Tensor
        if torch.is_grad_enabled():
            y = _Pointwise.apply(self, pixels, beta)  # type: ignore[no-untyped-call]
        else:
            y = outer(self.activation.infer(self.shifted(inner(pixels))))
        return y.squeeze(2) if flat else y

    def shifted(self, x: Tensor) -> Tensor:
        """What the activation gets of `x (N, H, W, C)`, a tensor of its own."""
        if self.norm is None:
            return x.clone(memory_format=torch.contiguous_format)
        return self.norm.apply(x)


class _Pointwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, layer: LeanPointwise, x: Tensor, beta: Tensor | None) -> Tensor:
        z = layer.shifted(inner(x))
        if not any(ctx.needs_input_grad):
            return outer(layer.activation.infer(z))
        y, pieces = layer.activation.forward(z)
        ctx.layer, ctx.beta_dtype = layer, None if beta is None else beta.dtype
        ctx.save_for_backward(pieces)
        return outer(y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        layer: LeanPointwise = ctx.layer
        (pieces,) = ctx.saved_tensors
        _, x_wanted, beta_wanted = ctx.needs_input_grad
        g = layer.activation.backward(inner(grad), pieces)
        beta = rows(g).sum(0, dtype=ctx.beta_dtype) if beta_wanted else None
        scaled = g if layer.norm is None else g * layer.norm.scale().to(g.dtype)
        return None, outer(scaled) if x_wanted else None, beta
