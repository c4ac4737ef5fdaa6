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

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from edgetuner.peft.activation import IDENTITY, Activation
from edgetuner.peft.geometry import Geometry
from edgetuner.peft.layout import image, inner, outer, raised, rows
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
        q_dtype: what `q` is kept in, None for its own. float16, of `q` over its largest value,
            moves each term of the sum in `dG` by at most 2^-11 of itself, or 2^-25 of the largest.
        dtype: what maps are computed in, None for the kernel's own; kernels are put together, and
            gradients of what is trained summed up, in their own.
    """

    conv: nn.Conv1d | nn.Conv2d
    geometry: Geometry
    norm: Norm | None = None
    activation: Activation = IDENTITY
    update: LowRankUpdate | None = None
    alpha: float = 1.0
    q_dtype: torch.dtype | None = None
    dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        self.maps = self.conv.out_channels // self.geometry.groups  # of a group
        self.rank = 0 if self.update is None else len(self.update.suffix)

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """`(N, O, *L)` of `x (N, I, *K)`; the residual has the shape of the result."""
        x = self.cast(x)
        beside = None if residual is None else raised(self.cast(residual))
        core = None if self.update is None else self.update.core
        beta = None if self.norm is None else self.norm.beta
        y: Tensor
        if torch.is_grad_enabled():
            y = _Convolve.apply(self, image(x), core, beta, beside)  # type: ignore[no-untyped-call]
        else:
            z, _ = self.convolve(image(x), beside)
            y = outer(self.activation.infer(z))
        return y.squeeze(2) if x.ndim == 3 else y

    def cast(self, x: Tensor) -> Tensor:
        """In the type that is computed in."""
        return x if self.dtype is None else x.to(self.dtype)

    def compact(self, kept: Tensor) -> tuple[Tensor, Tensor | None]:
        """What is kept in `q_dtype`, and what it has to be multiplied by again, if by anything."""
        if self.q_dtype is None or kept.dtype == self.q_dtype:
            return kept, None
        largest = kept.abs().amax().clamp_min(torch.finfo(kept.dtype).tiny)
        return (kept / largest).to(self.q_dtype), largest

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
        scale = self.scale()
        filters, bias = self.filters(scale, with_suffix=with_q), self._padded_bias(scale, with_q)
        bias = None if bias is None else self.cast(bias)
        out = inner(self.geometry.convolve(x, self.cast(filters), bias))
        z, q = self.parts(out) if with_q else (out, None)
        if residual is not None:
            z = z + inner(residual) if with_q else z.add_(inner(residual))
        return z, q if q is None else rows(q).contiguous()

    def scale(self) -> Tensor | None:
        """`a (O,)` of the batch norm, if there is one."""
        return None if self.norm is None else self.norm.scale()

    def parts(self, out: Tensor) -> tuple[Tensor, Tensor]:
        """Of what the filters `[W ; S ; 0]` gave: maps `(N, H, W, O)` and `q (N, H, W, g r)`."""
        groups, end = self.geometry.groups, self.maps + self.rank
        if groups == 1:
            return out[..., : self.maps], out[..., self.maps : end]
        by_group = out.reshape(*out.shape[:3], groups, -1)
        return by_group[..., : self.maps].flatten(3), by_group[..., self.maps : end].flatten(3)

    def filters(
        self, scale: Tensor | None, *, with_suffix: bool = False, inputs_beside: int = 0
    ) -> Tensor:
        """`W_eff (O, I/g, Kh, Kw)` of the batch norm's scale, or `[W_eff ; S ; 0]` by group.

        They are put together as the convolution will read them, input maps innermost; so many more
        input maps of zeros may follow the layer's own.
        """
        both = self.frozen_filters(scale, with_suffix=with_suffix, inputs_beside=inputs_beside)
        if self.update is None:
            return both
        core = self.core(scale)
        suffix = inner(raised(self.update.suffix)).to(core.dtype)  # (r, Kh, Kw, I/g)
        suffix = pad(suffix, (0, inputs_beside)) if inputs_beside else suffix
        kernels = inner(both)  # (g (O/g + ...), Kh, Kw, I/g)
        kernels = kernels.reshape(self.geometry.groups, -1, *kernels.shape[1:])[:, : self.maps]
        if self.geometry.groups == 1 and core.dtype == both.dtype:
            kernels[0].flatten(1).addmm_(core, suffix.flatten(1))
        else:
            kernels += torch.mm(core, suffix.flatten(1)).reshape(kernels.shape)
        return both

    def frozen_filters(
        self, scale: Tensor | None, *, with_suffix: bool = False, inputs_beside: int = 0
    ) -> Tensor:
        """The same without the update: `a W`, or `[a W ; S ; 0]` by group."""
        kernel, groups, maps = inner(raised(self.conv.weight)), self.geometry.groups, self.maps
        width, beside = kernel.shape[-1], self.maps_beside() if with_suffix else 0
        both = kernel.new_empty(groups, maps + beside, *kernel.shape[1:-1], width + inputs_beside)
        own = both[:, :maps]  # (g, O/g, Kh, Kw, I/g)
        if inputs_beside:
            both[..., width:] = 0
            own = own[..., :width]
        if scale is None:
            own.copy_(kernel.reshape(own.shape))
        else:
            column = scale.reshape(groups, maps, 1, 1, 1)
            torch.mul(kernel.reshape(own.shape), column, out=own)
        if beside:
            assert self.update is not None
            both[:, maps : maps + self.rank, ..., :width] = inner(raised(self.update.suffix))
            both[:, maps + self.rank :] = 0
        return outer(both.flatten(0, 1))

    def core(self, scale: Tensor | None) -> Tensor:
        """`alpha a G (O, r)`."""
        assert self.update is not None
        return self.update.core * (self.alpha if scale is None else self.alpha * scale[:, None])

    def bias(self, scale: Tensor | None) -> Tensor | None:
        """`b (O,)`."""
        bias = self.conv.bias
        if self.norm is None or scale is None:
            return bias
        return self.norm.shift(scale, bias)

    def core_gradient(
        self, g: Tensor, kept: Tensor, largest: Tensor | None, scale: Tensor | None
    ) -> Tensor:
        """`dG (O, r)` of `g (N, H, W, O)` and what was kept: `q`, or `x (N, I, H', W')`.

        `largest` is what `compact` gave with it.
        """
        assert self.update is not None
        groups, dtype = self.geometry.groups, self.update.core.dtype
        if kept.ndim == 4:
            kernel = raised(self.conv.weight)
            kernel = self.cast(kernel)
            kernel = self.geometry.filter_gradient(outer(g), kept.to(g.dtype), kernel).to(dtype)
            gradient = kernel.flatten(1) @ self.update.suffix.flatten(1).to(dtype).T
        else:
            q, matrix = kept.to(dtype), rows(g).to(dtype)
            if groups == 1:
                gradient = (q.T @ matrix).T  # the fast way round
            else:
                by_group = matrix.reshape(len(q), groups, -1).permute(1, 2, 0)  # (g, O/g, P)
                q = q.reshape(len(q), groups, -1).transpose(0, 1)  # (g, P, r)
                gradient = torch.bmm(by_group, q).flatten(0, 1)
        gradient = gradient if largest is None else gradient * largest
        return gradient * (self.alpha if scale is None else self.alpha * scale.unsqueeze(1))

    def gradients(
        self, grad: Tensor, saved: Sequence[Any], scale: Tensor | None, *, core: bool, beta: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """`g (N, H, W, O)`, and `dG` and `dbeta` as far as wanted, of what was saved."""
        _, pieces, kept, largest = saved
        g = self.activation.backward(inner(grad), pieces).contiguous()
        # the small sums first, while g is in the cache
        d_core = self.core_gradient(g, kept, largest, scale) if core else None
        return g, d_core, self.beta_gradient(g) if beta else None

    def beta_gradient(self, g: Tensor) -> Tensor:
        """`dbeta (O,)` of `g (N, H, W, O)`."""
        assert self.norm is not None and self.norm.beta is not None
        return rows(g).sum(0, dtype=self.norm.beta.dtype)

    def _padded_bias(self, scale: Tensor | None, with_q: bool) -> Tensor | None:
        """`b`, group by group with zeros for `q`."""
        bias = self.bias(scale)
        if bias is None or not with_q:
            return bias
        by_group = bias.reshape(self.geometry.groups, -1)
        return pad(by_group, (0, self.maps_beside())).flatten()

    def inputs_beside(self, g: Tensor) -> int:
        """How many input maps the gradient `g` is better computed with than without.

        Where 32 divides the maps, oneDNN takes 32 at a time, and the part of a kernel of many taps
        that it then holds falls out of the first cache: a fifth slower than with eight more maps.
        """
        taps, maps = self.conv.weight[0, 0].numel(), self.conv.weight.shape[1]
        blocked = g.device.type == "cpu" and self.geometry.groups == 1 and maps % 32 == 0
        return 8 if blocked and taps * maps > 512 else 0

    def maps_beside(self) -> int:
        """How many maps a group computes beside its own: `q`, and what fills up the last eight.

        Kernels of CPUs and tensor cores compute maps in eights, and are slower at a remainder than
        at a few more; a group of few maps would pay more than it gains.
        """
        surplus = -(self.maps + self.rank) % 8 if self.geometry.groups == 1 else 0
        return self.rank + surplus


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
        kept, largest = (None, None) if kept is None else layer.compact(kept)
        ctx.layer, ctx.size = layer, x.shape[2:]
        # the core, so that torch sees if it was changed
        ctx.save_for_backward(core, pieces, kept, largest)
        return outer(y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        layer: LeanConvolution = ctx.layer
        _, x_wanted, core_wanted, beta_wanted, residual_wanted = ctx.needs_input_grad
        scale, dx = layer.scale(), None
        g, core, beta = layer.gradients(
            grad, ctx.saved_tensors, scale, core=core_wanted, beta=beta_wanted
        )
        if x_wanted:
            beside = layer.inputs_beside(g)
            filters = layer.cast(layer.filters(scale, inputs_beside=beside))
            dx = layer.geometry.input_gradient(outer(g), filters, ctx.size)
            dx = dx[:, : dx.shape[1] - beside]
        return None, dx, core, beta, outer(g) if residual_wanted else None
