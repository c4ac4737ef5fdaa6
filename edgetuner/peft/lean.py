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

from edgetuner.peft.activation import IDENTITY, Activation
from edgetuner.peft.geometry import Geometry
from edgetuner.peft.layout import image, rows, unrows
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
            y = unrows(self.activation.infer(z), self.shape(image(x).shape))
        return y.squeeze(2) if x.ndim == 3 else y

    @property
    def rank(self) -> int:
        """r, or 0 where the kernel is not adapted."""
        return 0 if self.update is None else len(self.update.suffix)

    def shape(self, x: torch.Size) -> torch.Size:
        """That of the result `(N, O, H', W')` for an input `(N, I, H, W)`."""
        return torch.Size((x[0], self.conv.out_channels, *self.geometry.output_size(*x[2:])))

    def keeps_input(self, x: torch.Size) -> bool:
        """Whether an input of this shape is smaller than its `q`."""
        windows, _, height, width = self.shape(x)
        return x.numel() < windows * height * width * self.geometry.groups * self.rank

    def convolve(
        self, x: Tensor, residual: Tensor | None, *, with_q: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """What the activation gets, `z (P, O)`, and `q (P, g r)` if asked for: both contiguous."""
        scale = None if self.norm is None else self.norm.scale()
        bias = self._bias(scale)
        filters = self.filters(scale)
        if not with_q:
            z = rows(self.geometry.convolve(x, filters, bias))
            return (z if residual is None else z.add_(rows(residual))), None
        filters, bias = self._with_suffix(filters, bias)
        groups, maps = self.geometry.groups, len(filters) // self.geometry.groups
        out = rows(self.geometry.convolve(x, filters, bias)).reshape(-1, groups, maps)
        z, q = out[..., : -self.rank], out[..., -self.rank :]
        z = z.contiguous() if residual is None else z + rows(residual).reshape(z.shape)
        return z.reshape(len(z), -1), q.contiguous().reshape(len(q), -1)

    def filters(self, scale: Tensor | None) -> Tensor:
        """`W_eff (O, I/g, Kh, Kw)` of the batch norm's scale."""
        kernel = self.conv.weight
        if scale is not None:
            kernel = kernel * scale.reshape(-1, *[1] * (kernel.ndim - 1))
        if self.update is not None:
            core = self.update.core if scale is None else self.update.core * scale.unsqueeze(1)
            flat = torch.addmm(
                kernel.flatten(1).to(core.dtype),
                core,
                self.update.suffix.flatten(1),
                alpha=self.alpha,
            )
            kernel = flat.reshape(kernel.shape).to(kernel.dtype)
        return _planar(kernel)

    def core_gradient(self, g: Tensor, kept: Tensor) -> Tensor:
        """`dG (O, r)` of `g (N, O, H', W')` and what was kept: `q`, or `x (N, I, H, W)`."""
        assert self.update is not None
        groups, dtype = self.geometry.groups, self.update.core.dtype
        if kept.ndim == 4:
            kernel = _planar(self.conv.weight)
            kernel = self.geometry.filter_gradient(g, kept.to(g.dtype), kernel).to(dtype)
            gradient = kernel.flatten(1) @ self.update.suffix.flatten(1).T
            return self._scaled(gradient)
        kept, g = kept.to(dtype), g.to(dtype)
        if groups == 1:
            gradient = (kept.T @ rows(g)).T  # the fast way round
        else:
            by_group = rows(g).reshape(len(kept), groups, -1).permute(1, 2, 0)  # (g, O/g, P)
            q = kept.reshape(len(kept), groups, -1).transpose(0, 1)  # (g, P, r)
            gradient = torch.bmm(by_group, q).flatten(0, 1)
        return self._scaled(gradient)

    def _scaled(self, gradient: Tensor) -> Tensor:
        gradient = gradient * self.alpha
        return gradient if self.norm is None else gradient * self.norm.scale().unsqueeze(1)

    def _bias(self, scale: Tensor | None) -> Tensor | None:
        if self.norm is None or scale is None:
            return self.conv.bias
        return self.norm.shift(scale, self.conv.bias)

    def _with_suffix(self, filters: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """`[W_eff ; S]` group by group, and the bias with zeros for `q`."""
        assert self.update is not None
        groups, suffix = self.geometry.groups, _planar(self.update.suffix).to(filters.dtype)
        per_group = filters.reshape(groups, -1, *filters.shape[1:])
        stacked = torch.cat([per_group, suffix.expand(groups, *suffix.shape)], dim=1).flatten(0, 1)
        if bias is None:
            return stacked, None
        zeros = bias.new_zeros(groups, len(suffix))
        return stacked, torch.cat([bias.reshape(groups, -1), zeros], dim=1).flatten()


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
        shape = layer.shape(x.shape)
        if not any(ctx.needs_input_grad):
            return unrows(layer.activation.infer(z), shape)
        y, pieces = layer.activation.forward(z)
        kept = x if with_x else q
        if kept is not None and layer.q_dtype is not None:
            kept = kept.to(layer.q_dtype)
        ctx.layer, ctx.size = layer, x.shape[2:]
        ctx.save_for_backward(core, pieces, kept)  # the core so that torch sees if it was changed
        return unrows(y, shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        layer: LeanConvolution = ctx.layer
        _, pieces, kept = ctx.saved_tensors
        _, x_wanted, core_wanted, beta_wanted, residual_wanted = ctx.needs_input_grad
        matrix = layer.activation.backward(rows(grad), pieces)  # (P, O)
        g = unrows(matrix, grad.shape)
        dx = None
        if x_wanted:
            scale = None if layer.norm is None else layer.norm.scale()
            dx = layer.geometry.input_gradient(g, layer.filters(scale), ctx.size)
        core = layer.core_gradient(g, kept) if core_wanted else None
        beta = matrix.sum(0) if beta_wanted else None
        return None, dx, core, beta, g if residual_wanted else None


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
            y = unrows(self.activation.infer(self.shifted(pixels)), pixels.shape)
        return y.squeeze(2) if flat else y

    def shifted(self, x: Tensor) -> Tensor:
        """What the activation gets, a tensor of its own."""
        if self.norm is None:
            return rows(x).clone()
        scale = self.norm.scale()
        return torch.addcmul(self.norm.shift(scale), rows(x), scale)


class _Pointwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, layer: LeanPointwise, x: Tensor, beta: Tensor | None) -> Tensor:
        z = layer.shifted(x)
        if not any(ctx.needs_input_grad):
            return unrows(layer.activation.infer(z), x.shape)
        y, pieces = layer.activation.forward(z)
        ctx.layer = layer
        ctx.save_for_backward(pieces)
        return unrows(y, x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        layer: LeanPointwise = ctx.layer
        (pieces,) = ctx.saved_tensors
        _, x_wanted, beta_wanted = ctx.needs_input_grad
        g = layer.activation.backward(rows(grad), pieces)
        beta = g.sum(0) if beta_wanted else None
        scaled = g if layer.norm is None else g * layer.norm.scale()
        return None, unrows(scaled, grad.shape) if x_wanted else None, beta


def _planar(kernel: Tensor) -> Tensor:
    """`(O, I, Kh, Kw)` of a kernel of one or two dimensions."""
    return kernel.unsqueeze(2) if kernel.ndim == 3 else kernel
