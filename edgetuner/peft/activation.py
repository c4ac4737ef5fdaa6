"""Activations that keep for the backward pass no more than they need.

A piecewise linear one keeps a bit an element: on which piece it was. A smooth one keeps its input,
the only full-width tensor, or its derivative in eight bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from edgetuner.peft.bits import pack_between, unpack

aten = torch.ops.aten


class Activation(Protocol):
    """An elementwise map of tensors of any shape."""

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor | None]:
        """The value, and what `backward` needs. `z` may be overwritten: it belongs to the call."""

    def infer(self, z: Tensor) -> Tensor:
        """The value alone; `z` may be overwritten."""

    def backward(self, grad: Tensor, kept: Tensor | None) -> Tensor:
        """The gradient of `z`; `grad` is left alone."""


@dataclass(frozen=True)
class Identity:
    """No activation."""

    def forward(self, z: Tensor) -> tuple[Tensor, None]:
        return z, None

    def infer(self, z: Tensor) -> Tensor:
        return z

    def backward(self, grad: Tensor, kept: Tensor | None) -> Tensor:
        return grad


@dataclass(frozen=True)
class Piecewise:
    """Slope `inside` on one interval, slope `outside` elsewhere, as torch has them at the ends.

    Attributes:
        value: of (z, in place).
        low, high: the interval, of values, or of `z` where `by_value` is off.
        by_value: whether the value tells the piece; it has just been written, and so is near.
    """

    value: Callable[[Tensor, bool], Tensor]
    low: float = 0.0
    high: float = math.inf
    inside: float = 1.0
    outside: float = 0.0
    by_value: bool = True

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        if not self.by_value:
            kept = pack_between(z, self.low, self.high)
            return self.infer(z), kept
        y = self.infer(z)
        return y, pack_between(y, self.low, self.high)

    def infer(self, z: Tensor) -> Tensor:
        # a part of a larger tensor is read once, into a new one, rather than copied and overwritten
        return self.value(z, z.is_contiguous()).contiguous()

    def backward(self, grad: Tensor, kept: Tensor | None) -> Tensor:
        assert kept is not None
        # a float, since a product with a byte is several times slower than a cast and a product
        slope = unpack(kept, grad.shape).to(grad.dtype)
        if (self.inside, self.outside) != (1.0, 0.0):
            slope.mul_(self.inside - self.outside).add_(self.outside)
        return slope.mul_(grad)


@dataclass(frozen=True)
class Smooth:
    """Keeps its input, or with `eight_bits` its derivative, rounded to 255 steps of its range.

    Rounded, each element of the derivative is wrong by at most `(high - low) / 510`.
    """

    value: Callable[[Tensor], Tensor]
    gradient: Callable[[Tensor, Tensor], Tensor]  # of (grad, z)
    low: float  # range of the derivative
    high: float
    eight_bits: bool = False

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        z = z.contiguous()
        if not self.eight_bits:
            return self.value(z), z
        derivative = self.gradient(torch.ones_like(z), z)
        levels = derivative.sub_(self.low).mul_(255 / (self.high - self.low)).round_()
        return self.value(z), levels.clamp_(0, 255).to(torch.uint8)

    def infer(self, z: Tensor) -> Tensor:
        return self.value(z.contiguous())

    def backward(self, grad: Tensor, kept: Tensor | None) -> Tensor:
        assert kept is not None
        if not self.eight_bits:
            return self.gradient(grad, kept)
        return grad * kept.to(grad.dtype).mul_((self.high - self.low) / 255).add_(self.low)


IDENTITY = Identity()
RELU = Piecewise(nn.functional.relu)


def _hardtanh(low: float, high: float) -> Piecewise:
    return Piecewise(lambda z, in_place: nn.functional.hardtanh(z, low, high, in_place), low, high)


def _leaky(slope: float) -> Piecewise:
    return Piecewise(
        lambda z, in_place: nn.functional.leaky_relu(z, slope, in_place),
        outside=slope,
        by_value=slope >= 0,
    )


def _gelu(approximate: str, eight_bits: bool) -> Smooth:
    return Smooth(
        lambda z: nn.functional.gelu(z, approximate=approximate),
        lambda grad, z: aten.gelu_backward(grad, z, approximate=approximate),
        -0.13,
        1.13,
        eight_bits,
    )


# Each from the module's own attributes; the flag asks for eight bits.
_MODULES: dict[type[nn.Module], Callable[[Any, bool], Activation]] = {
    nn.Identity: lambda _, __: IDENTITY,
    nn.ReLU: lambda _, __: RELU,
    nn.ReLU6: lambda _, __: _hardtanh(0.0, 6.0),
    nn.Hardtanh: lambda module, _: _hardtanh(module.min_val, module.max_val),
    nn.LeakyReLU: lambda module, _: _leaky(module.negative_slope),
    nn.Hardsigmoid: lambda _, __: Piecewise(
        nn.functional.hardsigmoid, -3.0, 3.0, inside=1 / 6, by_value=False
    ),
    nn.GELU: lambda module, eight_bits: _gelu(module.approximate, eight_bits),
    nn.SiLU: lambda _, eight_bits: Smooth(
        nn.functional.silu, aten.silu_backward, -0.1, 1.1, eight_bits
    ),
    nn.Hardswish: lambda _, eight_bits: Smooth(
        nn.functional.hardswish, aten.hardswish_backward, -0.5, 1.5, eight_bits
    ),
}


def activation_of(module: nn.Module, *, eight_bits: bool = False) -> Activation | None:
    """The lean form of an activation module, or None where there is none."""
    make = _MODULES.get(type(module))
    return None if make is None else make(module, eight_bits)
