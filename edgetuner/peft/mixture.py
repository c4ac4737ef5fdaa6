"""A trained convolution whose input never changes: convolved once per window, mixed at every step.

Of a window that is not augmented, what the first trained layer gets is always the same, and so are
`u = W * x` and `q = S * x`. All that a step has to do is

    y = act(a u + alpha a G q + b + residual),   dG = alpha a sum g q^T,   dbeta = sum g.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from edgetuner.peft.layout import image, inner, outer, raised, rows
from edgetuner.peft.lean import LeanConvolution


@dataclass(frozen=True, eq=False)
class Responses:
    """The frozen half of a `layer` without groups: its kernel and suffix, not yet scaled."""

    layer: LeanConvolution

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        """`u (N, O, *L)` of `x (N, I, *K)`, and `q (N, r, *L)` if the kernel is adapted."""
        layer = self.layer
        adapted = layer.update is not None
        filters = layer.cast(layer.frozen_filters(None, with_suffix=adapted))
        out = inner(layer.geometry.convolve(image(layer.cast(x)), filters, None))
        parts = layer.parts(out) if adapted else (out,)
        return tuple(outer(part).squeeze(2) if x.ndim == 3 else outer(part) for part in parts)


@dataclass(frozen=True, eq=False)
class Mixture:
    """The trained half of the same `layer`."""

    layer: LeanConvolution

    def __call__(
        self, maps: Tensor, q: Tensor | None = None, residual: Tensor | None = None
    ) -> Tensor:
        """`(N, O, *L)` of `u (N, O, *L)`, `q (N, r, *L)` and a residual like the result."""
        layer = self.layer
        core = None if layer.update is None else layer.update.core
        beta = None if layer.norm is None else layer.norm.beta
        maps = layer.cast(maps)
        residual = None if residual is None else layer.cast(residual)
        # `q` as it comes: it is kept, and a cache has it in half precision
        others = (None if value is None else raised(value) for value in (q, residual))
        y: Tensor
        if torch.is_grad_enabled():
            y = _Mix.apply(layer, raised(maps), *others, core, beta)  # type: ignore[no-untyped-call]
        else:
            y = outer(layer.activation.infer(_mixed(layer, raised(maps), *others)))
        return y.squeeze(2) if maps.ndim == 3 else y


def _mixed(
    layer: LeanConvolution, maps: Tensor, q: Tensor | None, residual: Tensor | None
) -> Tensor:
    """What the activation gets, `(N, H, W, O)`, the caller's own."""
    z, scale = inner(maps), layer.scale()
    bias = layer.bias(scale)
    if scale is not None and bias is not None:
        z = torch.addcmul(bias.to(z.dtype), z, scale.to(z.dtype))
    else:
        z = z.clone() if bias is None else z + bias.to(z.dtype)
    z = z.contiguous()
    if q is not None:
        rows(z).addmm_(rows(inner(q)).to(z.dtype), layer.core(scale).to(z.dtype).T)
    return z if residual is None else z.add_(inner(residual))


class _Mix(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        layer: LeanConvolution,
        maps: Tensor,
        q: Tensor | None,
        residual: Tensor | None,
        core: Tensor | None,
        beta: Tensor | None,
    ) -> Tensor:
        """Keeps `q` and the pieces of the activation."""
        z = _mixed(layer, maps, q, residual)
        y, pieces = layer.activation.forward(z)
        kept, largest = (None, None) if q is None else layer.compact(rows(inner(q)).contiguous())
        ctx.layer = layer
        ctx.save_for_backward(core, pieces, kept, largest)
        return outer(y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        layer: LeanConvolution = ctx.layer
        residual_wanted, core_wanted, beta_wanted = ctx.needs_input_grad[3:]
        g, core, beta = layer.gradients(
            grad, ctx.saved_tensors, layer.scale(), core=core_wanted, beta=beta_wanted
        )
        return None, None, None, outer(g) if residual_wanted else None, core, beta
