"""MemFLoRA's geometry (arXiv 2610.08669): `y = W * x + U * (P x)`, `P` frozen, `U` trained.

`P (r, I)` is a random 1 x 1 projection and `U (O, r, *K)` starts at zero. Kept for the backward
pass are `P x` and a bit an element, as in its paper; two convolutions run each way, as in its code.
Batch norm, residual and activation are fused as in `edgetuner.peft.lean`, from which this differs
in nothing else.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import conv2d, conv_transpose2d

from edgetuner.peft.capture import trace
from edgetuner.peft.layout import image, inner, outer
from edgetuner.peft.lean import LeanConvolution
from edgetuner.peft.lowering import Training, lower
from edgetuner.peft.program import Program
from edgetuner.peft.view import frozen_view


def memflora(
    base: nn.Module, layers: tuple[str, ...], rank: int, example: Tensor
) -> tuple[Program, list[nn.Parameter], tuple[nn.Module, ...]]:
    """The forward pass, what is trained, and what holds the weights."""
    frozen = frozen_view(base)
    program = lower(trace(frozen, example), Training(frozen, {}, {}))
    adapters: list[nn.Module] = []
    trained = False
    for step in program.steps:
        if step.name in layers:
            assert isinstance(step.run, LeanConvolution)
            adapter = _Adapter(step.run.conv, rank)
            adapters.append(adapter)
            step.run = _Layer(step.run, adapter)
            trained = True
        step.trained = trained
    weights = nn.ModuleList([frozen, *adapters])
    return program, [a.up for a in adapters if isinstance(a, _Adapter)], (weights,)


class _Adapter(nn.Module):
    down: Tensor

    def __init__(self, conv: nn.Conv1d | nn.Conv2d, rank: int) -> None:
        super().__init__()
        outputs, inputs, *taps = conv.weight.shape
        like = conv.weight
        taps = [1, *taps] if len(taps) == 1 else taps
        self.register_buffer("down", torch.randn(rank, inputs, 1, 1).to(like) / math.sqrt(inputs))
        self.up = nn.Parameter(like.new_zeros(outputs, rank, *taps))


class _Layer:
    def __init__(self, layer: LeanConvolution, adapter: _Adapter) -> None:
        self.layer, self.adapter = replace(layer, update=None), adapter

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        beside = None if residual is None else image(residual)
        y: Tensor = _Convolve.apply(self, image(x), self.adapter.up, beside)  # type: ignore[no-untyped-call]
        return y.squeeze(2) if x.ndim == 3 else y


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, both: _Layer, x: Tensor, up: Tensor, residual: Tensor | None) -> Tensor:
        layer = both.layer
        z, _ = layer.convolve(x, residual)
        projected = conv2d(x, both.adapter.down)  # (N, r, H, W)
        scaled = up if layer.norm is None else up * layer.norm.scale().reshape(-1, 1, 1, 1)
        z = z + inner(layer.geometry.convolve(projected, scaled, None))
        y, pieces = layer.activation.forward(z)
        ctx.both, ctx.size = both, x.shape[2:]
        ctx.save_for_backward(up, pieces, projected)
        return outer(y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        layer, adapter = ctx.both.layer, ctx.both.adapter
        up, pieces, projected = ctx.saved_tensors
        g = outer(layer.activation.backward(inner(grad), pieces).contiguous())
        scale = None if layer.norm is None else layer.norm.scale()
        scaled = g if scale is None else g * scale.reshape(1, -1, 1, 1)
        up_gradient = layer.geometry.filter_gradient(scaled, projected, up)
        dx = None
        if ctx.needs_input_grad[1]:
            through = layer.geometry.input_gradient(scaled, up, ctx.size)
            dx = layer.geometry.input_gradient(g, layer.filters(scale), ctx.size)
            dx = dx + conv_transpose2d(through, adapter.down)
        return None, dx, up_gradient, g if ctx.needs_input_grad[3] else None
