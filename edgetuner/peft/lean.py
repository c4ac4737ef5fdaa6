"""Convolutions with LoRA-Edge at its floor of memory and compute.

With the base frozen and batch norm in evaluation mode, an adapted convolution and what follows it
is one map (`*` convolves, `a` and `beta` are the batch norm's):

    y = act(W_eff * x + b + residual),   W_eff = a (W + alpha G S),   b = beta + a (bias - mean)

Forward is one convolution with the filters `[W_eff ; S]`, whose further maps are `q = S * x`.
Backward is one transposed convolution, and needs `q` and the piece of the activation that each
element was on:

    g = dL/dy act',   dG = alpha a sum g q^T,   dbeta = sum g,   dx = W_eff transposed * g

So neither `x`, nor the result of the convolution, nor that of the batch norm is kept, where
autograd keeps all three, trained or not. Where `x` is smaller than `q` (a grouped convolution has
a `q` for each group) it is kept instead, and `dG = alpha a <dW, S>`.

No batch norm couples the windows of a batch, so the gradients of micro-batches add up to that of
the whole batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from edgetuner.peft.activation import IDENTITY, Activation
from edgetuner.peft.geometry import Geometry
from edgetuner.peft.layout import image, inner, outer, rows
from edgetuner.peft.lora_edge import LowRankUpdate
from edgetuner.peft.norm import Norm


@dataclass(eq=False)
class LeanConvolution:
    """A convolution and the batch norm, residual and activation that follow it, in one.

    Attributes:
        conv: the frozen kernel and bias.
        geometry: how the kernel lies; zero padding before the convolution is part of it.
        norm: the batch norm.
        activation: the last of all.
        update: core and suffix, if the kernel is adapted.
        alpha: scale of the update.
        q_dtype: what `q` is kept in, None for its own. float16 moves each term of the sum in `dG`
            by at most 2^-11 of itself.
    """

    conv: nn.Conv1d | nn.Conv2d
    geometry: Geometry
    norm: Norm | None = None
    activation: Activation = IDENTITY
    update: LowRankUpdate | None = None
    alpha: float = 1.0
    q_dtype: torch.dtype | None = None

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """`(N, O, *L)` of `x (N, I, *K)`; the residual has the shape of the result."""
        beside = None if residual is None else image(residual)
        core = None if self.update is None else self.update.core
        beta = None if self.norm is None else self.norm.beta
        y: Tensor
        if torch.is_grad_enabled():
            y = _Convolve.apply(self, image(x), core, beta, beside)  # type: ignore[no-untyped-call]
        else:
            z, _ = self.convolve(image(x), beside)
            y = outer(self.activation.infer(z))
        return y.squeeze(2) if x.ndim == 3 else y

    @property
    def rank(self) -> int:
        """r, or 0 where the kernel is not adapted."""
        return 0 if self.update is None else len(self.update.suffix)

    def keeps_input(self, x: torch.Size) -> bool:
        """Whether an input `(N, I, H, W)` is smaller than its `q`."""
        height, width = self.geometry.output_size(x[2], x[3])
        return x.numel() < x[0] * height * width * self.geometry.groups * self.rank

    def convolve(
        self, x: Tensor, residual: Tensor | None, *, with_q: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """What the activation gets, `z (N, H, W, O)`, and `q (P, g r)` if asked for.

        `z` is the caller's own, and `q` holds on to nothing else.
        """
        scale = None if self.norm is None else self.norm.scale()
        filters, bias = self.filters(scale, with_suffix=with_q), self._bias(scale, with_q)
        out = self.geometry.convolve(x, filters, bias)
        if not with_q:
            z = inner(out)
            return (z if residual is None else z.add_(inner(residual))), None
        parts = out.reshape(len(out), self.geometry.groups, -1, *out.shape[2:])
        maps = self.conv.out_channels // self.geometry.groups
        z = inner(parts[:, :, :maps].flatten(1, 2))
        q = inner(parts[:, :, maps : maps + self.rank].flatten(1, 2))
        return (z if residual is None else z + inner(residual)), rows(q).contiguous()

    def filters(self, scale: Tensor | None, *, with_suffix: bool = False) -> Tensor:
        """`W_eff (O, I/g, Kh, Kw)` of the batch norm's scale, or `[W_eff ; S ; 0]` by group.

        They are put together as the convolution will read them, input maps innermost.
        """
        kernel, groups = _planar(self.conv.weight), self.geometry.groups
        maps = len(kernel) // groups
        beside = self._maps_beside(maps) if with_suffix else 0
        both = kernel.new_empty(groups, maps + beside, *inner(kernel).shape[1:])
        effective = both[:, :maps]  # (g, O/g, Kh, Kw, I/g)
        effective.copy_(inner(kernel).reshape(effective.shape))
        if scale is not None:
            effective *= scale.reshape(groups, maps, 1, 1, 1)
        if self.update is not None:
            suffix = inner(_planar(self.update.suffix))  # (r, Kh, Kw, I/g)
            core = self.update.core * (self.alpha if scale is None else self.alpha * scale[:, None])
            delta = torch.mm(core, suffix.flatten(1))
            effective += delta.reshape(effective.shape)
            if beside:
                both[:, maps : maps + self.rank] = suffix
                both[:, maps + self.rank :] = 0
        return outer(both.flatten(0, 1))

    def core_gradient(self, g: Tensor, kept: Tensor) -> Tensor:
        """`dG (O, r)` of `g (N, H, W, O)` and what was kept: `q`, or `x (N, I, H', W')`."""
        assert self.update is not None
        groups, dtype = self.geometry.groups, self.update.core.dtype
        if kept.ndim == 4:
            kernel = _planar(self.conv.weight)
            kernel = self.geometry.filter_gradient(outer(g), kept.to(g.dtype), kernel).to(dtype)
            return self._scaled(kernel.flatten(1) @ self.update.suffix.flatten(1).T)
        kept, matrix = kept.to(dtype), rows(g).to(dtype)
        if groups == 1:
            return self._scaled((kept.T @ matrix).T)  # the fast way round
        by_group = matrix.reshape(len(kept), groups, -1).permute(1, 2, 0)  # (g, O/g, P)
        q = kept.reshape(len(kept), groups, -1).transpose(0, 1)  # (g, P, r)
        return self._scaled(torch.bmm(by_group, q).flatten(0, 1))

    def _scaled(self, gradient: Tensor) -> Tensor:
        gradient = gradient * self.alpha
        return gradient if self.norm is None else gradient * self.norm.scale().unsqueeze(1)

    def _bias(self, scale: Tensor | None, with_q: bool) -> Tensor | None:
        """`b (O,)`, group by group with zeros for `q`."""
        bias = self.conv.bias
        if self.norm is not None and scale is not None:
            bias = self.norm.shift(scale, bias)
        if bias is None or not with_q:
            return bias
        by_group = bias.reshape(self.geometry.groups, -1)
        return pad(by_group, (0, self._maps_beside(by_group.shape[1]))).flatten()

    def _maps_beside(self, maps: int) -> int:
        """How many maps a group computes beside its own: `q`, and what fills up the last eight.

        Kernels of CPUs and tensor cores compute maps in eights, and are slower at a remainder than
        at a few more; a group of few maps would pay more than it gains.
        """
        return self.rank + (-(maps + self.rank) % 8 if self.geometry.groups == 1 else 0)


class _Convolve(torch.autograd.Function):
    """`LeanConvolution` on images `(N, C, H, W)` with the maps innermost."""

    @staticmethod
    def forward(
        ctx: Any,
        layer: LeanConvolution,
        x: Tensor,
        core: Tensor | None,
        beta: Tensor | None,
        residual: Tensor | None,
    ) -> Tensor:
        """Keeps what `backward` needs, and none of it where nothing before or here is trained."""
        adapted = ctx.needs_input_grad[2]
        with_x = adapted and layer.keeps_input(x.shape)
        z, q = layer.convolve(x, residual, with_q=adapted and not with_x)
        if not any(ctx.needs_input_grad):
            return outer(layer.activation.infer(z))
        y, pieces = layer.activation.forward(z)
        kept = x if with_x else q
        if kept is not None and layer.q_dtype is not None:
            kept = kept.to(layer.q_dtype)
        ctx.layer, ctx.size = layer, x.shape[2:]
        ctx.save_for_backward(core, pieces, kept)  # the core so that torch sees if it was changed
        return outer(y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        layer: LeanConvolution = ctx.layer
        _, pieces, kept = ctx.saved_tensors
        _, x_wanted, core_wanted, beta_wanted, residual_wanted = ctx.needs_input_grad
        g = layer.activation.backward(inner(grad), pieces).contiguous()  # (N, H, W, O)
        # the small sums first, while g is in the cache
        core = layer.core_gradient(g, kept) if core_wanted else None
        beta = rows(g).sum(0) if beta_wanted else None
        dx = None
        if x_wanted:
            scale = None if layer.norm is None else layer.norm.scale()
            dx = layer.geometry.input_gradient(outer(g), layer.filters(scale), ctx.size)
        return None, dx, core, beta, outer(g) if residual_wanted else None


@dataclass(eq=False)
class LeanPointwise:
    """A batch norm or an activation that follows no convolution, or one after the other.

    Attributes:
        norm: the batch norm, of which nothing is kept.
        activation: of which its own least is kept.
    """

    norm: Norm | None = None
    activation: Activation = IDENTITY

    def __call__(self, x: Tensor) -> Tensor:
        """Of the shape of x, `(N, C, *L)`."""
        flat = x.ndim == 3
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
        scale = self.norm.scale()
        return torch.addcmul(self.norm.shift(scale), x, scale)


class _Pointwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, layer: LeanPointwise, x: Tensor, beta: Tensor | None) -> Tensor:
        z = layer.shifted(inner(x))
        if not any(ctx.needs_input_grad):
            return outer(layer.activation.infer(z))
        y, pieces = layer.activation.forward(z)
        ctx.layer = layer
        ctx.save_for_backward(pieces)
        return outer(y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        layer: LeanPointwise = ctx.layer
        (pieces,) = ctx.saved_tensors
        _, x_wanted, beta_wanted = ctx.needs_input_grad
        g = layer.activation.backward(inner(grad), pieces)
        beta = rows(g).sum(0) if beta_wanted else None
        scaled = g if layer.norm is None else g * layer.norm.scale()
        return None, outer(scaled) if x_wanted else None, beta


def _planar(kernel: Tensor) -> Tensor:
    """`(O, I, Kh, Kw)` of a kernel of one or two dimensions."""
    return kernel.unsqueeze(2) if kernel.ndim == 3 else kernel
