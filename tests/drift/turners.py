"""Somebody who turns slowly about all axes, as an accelerometer and a gyroscope would see it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

HZ, LENGTH, GRAVITY = 50.0, 128, 9.81
TRIADS, POLAR = (0, 3), (0,)
Windows = NDArray[np.float32]


def recording(count: int, seed: int = 0, jerk: float = 0.5) -> Windows:
    """Windows (count, 6, LENGTH) in a row, of a body whose rate of turn wanders.

    Args:
        jerk: standard deviation of what its motion adds to gravity, m/s^2.
    """
    rng = np.random.default_rng(seed)
    length = count * LENGTH
    t = np.arange(length) / HZ
    hz, phase = rng.uniform(0.03, 0.3, (3, 4, 1)), rng.uniform(0, 2 * np.pi, (3, 4, 1))
    rate = 0.4 * np.sin(2 * np.pi * hz * t + phase).sum(1)
    gravity = np.empty((3, length))
    gravity[:, 0] = GRAVITY * np.array([0.6, 0.0, 0.8])
    for now in range(length - 1):
        gravity[:, now + 1] = _turned(gravity[:, now], rate[:, now : now + 2].mean(1) / HZ)
    motion = jerk * rng.standard_normal((3, length))
    x = np.concatenate([gravity + motion, rate + 0.02 * rng.standard_normal((3, length))])
    return x.reshape(6, count, LENGTH).transpose(1, 0, 2).astype(np.float32)


def turned(x: Windows, matrix: NDArray[np.floating]) -> Windows:
    """The same seen from axes that are turned or mirrored: a rate of turn is an axial vector, so
    only a driver that mirrors axes mirrors it likewise.
    """
    seen = x.copy()
    seen[:, :3], seen[:, 3:] = matrix @ x[:, :3], matrix @ x[:, 3:]
    return seen


def _turned(vector: NDArray[np.floating], angle: NDArray[np.floating]) -> NDArray[np.floating]:
    """A vector of the world after the sensor turned by a small angle (Rodrigues)."""
    size = float(np.linalg.norm(angle))
    axis = angle / size
    across = np.cross(vector, axis)
    along = axis * (axis @ vector) * (1 - np.cos(size))
    found: NDArray[np.floating] = vector * np.cos(size) + across * np.sin(size) + along
    return found
