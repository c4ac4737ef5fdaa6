"""Somebody who does one thing after another, with an accelerometer and a gyroscope on one limb."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from edgetuner.drift.summary import Summary
from edgetuner.drift.usual import Usual

HZ, LENGTH, CHANNELS = 50.0, 128, 6
TRIADS, GRAVITY = (0, 3), 9.81
Windows = NDArray[np.float32]


def recording(activity: int, count: int, seed: int = 0) -> Windows:
    """Windows (count, 6, LENGTH) of an activity: 0 is rest; the others swing about a joint.

    The limb turns by `angle` about one axis; the accelerometer sees gravity turn the other way.
    """
    rng = np.random.default_rng([activity, seed])
    style = np.random.default_rng(activity)
    swing = 0.0 if activity == 0 else style.uniform(0.3, 0.8)
    frequency, tilt = style.uniform(0.8, 2.5), style.uniform(-0.7, 0.7)
    shake = 0.0 if activity == 0 else style.uniform(1.0, 3.0)
    twist = style.uniform(0.2, 0.8, 2)
    t = np.arange(LENGTH) / HZ
    phase = rng.uniform(0, 2 * np.pi, (count, 1)) + 2 * np.pi * frequency * t
    size = swing * (1 + 0.05 * rng.standard_normal((count, 1)))
    angle = tilt + size * np.sin(phase)
    rate = 2 * np.pi * frequency * size * np.cos(phase)
    acceleration = [
        GRAVITY * np.sin(angle) + shake * np.cos(2 * phase),
        GRAVITY * np.cos(angle) * np.cos(0.3) + shake * np.sin(phase) * twist[0],
        GRAVITY * np.cos(angle) * np.sin(0.3) + 0.5 * shake * np.sin(2 * phase + 1),
    ]
    turn = [twist[0] * rate, twist[1] * size * np.sin(2 * phase + 0.5), rate]
    x = np.stack([*acceleration, *turn], axis=1)
    noise = 0.03 * rng.standard_normal(x.shape)
    return (x + noise).astype(np.float32)


def source(activities: int = 6, count: int = 40) -> tuple[Windows, list[NDArray[np.int64]]]:
    """Windows of every activity, and the rows of each recording."""
    x = np.concatenate([recording(a, count) for a in range(activities)])
    return x, [np.arange(a * count, (a + 1) * count) for a in range(activities)]


@cache
def usual() -> Usual:
    """What is usual of them, with an accelerometer first."""
    x, recordings = source()
    found = Usual.fit(Summary.of(x), recordings, TRIADS, (0,))
    assert found is not None
    return found
