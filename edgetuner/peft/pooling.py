"""Pooling that keeps for the backward pass no input: a byte for each maximum, nothing of a mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import avg_pool2d, max_pool2d

from edgetuner.peft.geometry import Geometry, Pair, pair


@dataclass(frozen=True)
class LeanMaxPool:
    """Max pooling; keeps which element of its window each maximum was, mostly in one byte."""

    geometry: Geometry
    ceil_mode: bool

    @classmethod
    def of(cls, pool: nn.MaxPool1d | nn.MaxPool2d) -> LeanMaxPool:
        """That of a module which returns no indices."""
        dims = 1 if isinstance(pool, nn.MaxPool1d) else 2
        height, width = pair(pool.padding, 0, dims)
        geometry = Geometry(
            kernel=pair(pool.kernel_size, 1, dims),
            stride=pair(pool.stride, 1, dims),
            padding=((height, height), (width, width)),
            dilation=pair(pool.dilation, 1, dims),
        )
        return cls(geometry, pool.ceil_mode)

    def __call__(self, x: Tensor) -> Tensor:
        """`(N, C, *L)` of `x (N, C, *K)`."""
        pixels = x.unsqueeze(2) if x.ndim == 3 else x
        y: Tensor = _MaxPool.apply(self, pixels)  # type: ignore[no-untyped-call]
        return y.squeeze(2) if x.ndim == 3 else y

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Maxima, and where each lies in its plane `H x W`, both `(N, C, H', W')`."""
        lie = self.geometry
        padding = (lie.padding[0][0], lie.padding[1][0])
        maxima: tuple[Tensor, Tensor] = max_pool2d(
            x, lie.kernel, lie.stride, padding, lie.dilation, self.ceil_mode, return_indices=True
        )
        return maxima

    def compact(self, places: Tensor, width: int) -> Tensor:
        """Places in the plane as places in the window."""
        tops, lefts = self._corners(places)
        down = (places // width - tops) // self.geometry.dilation[0]
        right = (places % width - lefts) // self.geometry.dilation[1]
        height, columns = self.geometry.kernel
        dtype = torch.uint8 if height * columns <= 256 else torch.int32
        return (down * columns + right).to(dtype)

    def expand(self, compact: Tensor, width: int) -> Tensor:
        """The inverse of `compact`."""
        tops, lefts = self._corners(compact)
        within = compact.long()
        columns = self.geometry.kernel[1]
        down = within // columns * self.geometry.dilation[0]
        right = within % columns * self.geometry.dilation[1]
        return (tops + down) * width + lefts + right

    def _corners(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Row and column of the upper left element of each window, which padding makes negative."""
        (top, _), (left, _) = self.geometry.padding
        down, right = self.geometry.stride
        tops = torch.arange(places.shape[2], device=places.device) * down - top
        lefts = torch.arange(places.shape[3], device=places.device) * right - left
        return tops.unsqueeze(1), lefts


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pool: LeanMaxPool, x: Tensor) -> Tensor:
        y, places = pool.forward(x)
        if ctx.needs_input_grad[1]:
            ctx.pool, ctx.size = pool, x.shape[2:]
            ctx.save_for_backward(pool.compact(places, x.shape[3]))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        (compact,) = ctx.saved_tensors
        places = ctx.pool.expand(compact, ctx.size[1]).flatten(2)
        flat = grad.new_zeros(*grad.shape[:2], ctx.size.numel())
        flat.scatter_add_(2, places, grad.flatten(2))  # windows may overlap
        return None, flat.reshape(*grad.shape[:2], *ctx.size)


@dataclass(frozen=True)
class LeanAvgPool:
    """Average pooling; a linear map, so that it keeps nothing."""

    kernel: Pair
    stride: Pair
    padding: Pair
    ceil_mode: bool
    count_include_pad: bool
    divisor: int | None

    @classmethod
    def of(cls, pool: nn.AvgPool1d | nn.AvgPool2d) -> LeanAvgPool:
        """That of a module."""
        dims = 1 if isinstance(pool, nn.AvgPool1d) else 2
        return cls(
            pair(pool.kernel_size, 1, dims),
            pair(pool.stride, 1, dims),
            pair(pool.padding, 0, dims),
            pool.ceil_mode,
            pool.count_include_pad,
            getattr(pool, "divisor_override", None),
        )

    def __call__(self, x: Tensor) -> Tensor:
        """`(N, C, *L)` of `x (N, C, *K)`."""
        pixels = x.unsqueeze(2) if x.ndim == 3 else x
        y: Tensor = _AvgPool.apply(self.options(), pixels)  # type: ignore[no-untyped-call]
        return y.squeeze(2) if x.ndim == 3 else y

    def options(self) -> tuple[Any, ...]:
        """As torch takes them."""
        ends = (self.ceil_mode, self.count_include_pad, self.divisor)
        return (self.kernel, self.stride, self.padding, *ends)


class _AvgPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, options: tuple[Any, ...], x: Tensor) -> Tensor:
        ctx.options, ctx.shape = options, x.shape
        return avg_pool2d(x, *options)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        shape = grad.new_empty(()).expand(ctx.shape)  # all that torch reads of the input
        return None, torch.ops.aten.avg_pool2d_backward(grad.contiguous(), shape, *ctx.options)


def mean_pool(x: Tensor) -> Tensor:
    """What adaptive average pooling to one element gives, `(N, C, 1)` or `(N, C, 1, 1)`."""
    return x.mean(dim=tuple(range(2, x.ndim)), keepdim=True)
