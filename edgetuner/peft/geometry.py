"""How a convolution lies on its input, forth and back. One dimension is two with a height of 1."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d, pad

Pair = tuple[int, int]


@dataclass(frozen=True)
class Geometry:
    """Strides, zero padding (before, after) and dilation by height and width, and groups."""

    kernel: Pair
    stride: Pair = (1, 1)
    padding: tuple[Pair, Pair] = ((0, 0), (0, 0))
    dilation: Pair = (1, 1)
    groups: int = 1

    @classmethod
    def of(cls, conv: nn.Conv1d | nn.Conv2d) -> Geometry:
        """That of a convolution, whose padding mode has to be `zeros`."""
        dims = conv.weight.ndim - 2
        kernel, dilation = pair(conv.kernel_size, 1, dims), pair(conv.dilation, 1, dims)
        if conv.padding == "same":
            # torch puts the odd one of an even kernel behind
            total = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
            height, width = ((t // 2, t - t // 2) for t in total)
        elif conv.padding == "valid":
            height, width = (0, 0), (0, 0)
        else:
            assert not isinstance(conv.padding, str)
            height, width = ((p, p) for p in pair(conv.padding, 0, dims))
        return cls(kernel, pair(conv.stride, 1, dims), (height, width), dilation, conv.groups)

    def padded(self, widths: tuple[int, ...]) -> Geometry:
        """With zeros around the input beside its own, `widths` as `nn.functional.pad` has them."""
        left, right, top, bottom = (*widths, 0, 0)[:4]
        (above, below), (before, after) = self.padding
        padding = ((above + top, below + bottom), (before + left, after + right))
        return Geometry(self.kernel, self.stride, padding, self.dilation, self.groups)

    def output_size(self, height: int, width: int) -> Pair:
        """Height and width of the result."""
        rows, columns = (
            room // step + 1
            for room, step in zip(self._room((height, width)), self.stride, strict=True)
        )
        return rows, columns

    def convolve(self, x: Tensor, filters: Tensor, bias: Tensor | None) -> Tensor:
        """Feature maps of `x (N, I, H, W)` by `filters (O, I/g, *K)`."""
        even = all(before == after for before, after in self.padding)
        if not even and self.stride != (1, 1):
            x, padding, cut = self.pad(x), (0, 0), None
        else:
            # more zeros on the lesser side and the surplus cut off: a slice instead of a copy
            padding = max(self.padding[0]), max(self.padding[1])
            cut = None if even else self.output_size(*x.shape[2:])
        out = conv2d(x, filters, bias, self.stride, padding, self.dilation, self.groups)
        if cut is None:
            return out
        top, left = (p - before for p, (before, _) in zip(padding, self.padding, strict=True))
        return out[:, :, top : top + cut[0], left : left + cut[1]]

    def input_gradient(self, grad: Tensor, filters: Tensor, size: Pair) -> Tensor:
        """Gradient of an input of height and width `size`: one transposed convolution."""
        padding = min(self.padding[0]), min(self.padding[1])
        # what the last stride did not reach
        surplus = [room % step for room, step in zip(self._room(size), self.stride, strict=True)]
        out = conv_transpose2d(
            grad, filters, None, self.stride, padding, surplus, self.groups, self.dilation
        )
        top, left = (before - p for (before, _), p in zip(self.padding, padding, strict=True))
        return out[:, :, top : top + size[0], left : left + size[1]]

    def filter_gradient(self, grad: Tensor, x: Tensor, filters: Tensor) -> Tensor:
        """Gradient of the filters."""
        geometry = (self.stride, (0, 0), self.dilation, False, (0, 0), self.groups)
        gradients = torch.ops.aten.convolution_backward(
            grad, self.pad(x), filters, None, *geometry, (False, True, False)
        )
        gradient: Tensor = gradients[1]
        return gradient

    def _room(self, size: Pair) -> Pair:
        """How far the kernel can move over the padded input."""
        height, width = (
            n + sum(padding) - dilation * (kernel - 1) - 1
            for n, padding, dilation, kernel in zip(
                size, self.padding, self.dilation, self.kernel, strict=True
            )
        )
        return height, width

    def pad(self, x: Tensor) -> Tensor:
        """The input with its zeros."""
        (top, bottom), (left, right) = self.padding
        return pad(x, (left, right, top, bottom)) if any((top, bottom, left, right)) else x


def pair(sizes: int | tuple[int, ...], height: int, dims: int) -> Pair:
    """Sizes by height and width; of one dimension, with the neutral `height`."""
    width = sizes if isinstance(sizes, int) else sizes[-1]
    if dims == 1:
        return height, width
    return (width if isinstance(sizes, int) else sizes[0]), width
