"""Augmentation of inertial windows: another person is stronger, and wears the sensor askew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Augmentation:
    """How far a training window is moved; every figure is the standard deviation of a normal law.

    Attributes:
        rotation_deg: angle about a random axis, the same for all sensors of a window, in degrees.
            Only channels that name their axes (`..._x`, `..._y`, `..._z`) are rotated.
        scale: relative change of each sensor's amplitude.
        jitter: noise, in standard deviations of its channel.
    """

    rotation_deg: float = 0.0
    scale: float = 0.0
    jitter: float = 0.0

    def __call__(
        self, x: Tensor, std: Tensor, triads: Sequence[int], generator: torch.Generator
    ) -> Tensor:
        """A changed copy of raw windows x (N, C, T).

        Args:
            x: windows in physical units.
            std: standard deviation of each channel (C,).
            triads: first channel of each three-axis sensor, from `triads`.
            generator: source of all randomness.
        """
        n, c, _ = x.shape
        moved = x.clone()
        if self.rotation_deg and triads:
            turn = rotations(n, self.rotation_deg, generator)  # (N, 3, 3)
            for first in triads:
                moved[:, first : first + 3] = turn @ x[:, first : first + 3]
        if self.scale:
            factors = torch.randn(n, c, 1, generator=generator)
            for first in triads:  # one sensor, one gain
                factors[:, first : first + 3] = factors[:, first : first + 1]
            moved *= 1 + self.scale * factors
        if self.jitter:
            noise = torch.randn(moved.shape, generator=generator)
            moved += self.jitter * std[:, None] * noise
        return moved


def triads(channels: Sequence[str]) -> tuple[int, ...]:
    """First channel of every run of three named alike but for `x`, `y`, `z` at the end.

    >>> triads(["acc_x", "acc_y", "acc_z", "pressure"])
    (0,)
    """
    return tuple(
        first
        for first in range(len(channels) - 2)
        if [name[-1:] for name in channels[first : first + 3]] == ["x", "y", "z"]
        and len({name[:-1] for name in channels[first : first + 3]}) == 1
    )


def rotations(count: int, std_deg: float, generator: torch.Generator) -> Tensor:
    """Rotation matrices (count, 3, 3): uniform axes, normal angles of `std_deg` (Rodrigues)."""
    axis = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator))
    angle = torch.deg2rad(std_deg * torch.randn(count, 1, 1, generator=generator))
    x, y, z = axis.unbind(1)
    zero = torch.zeros_like(x)
    cross = torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), dim=1).reshape(count, 3, 3)
    return torch.eye(3) + angle.sin() * cross + (1 - angle.cos()) * cross @ cross
