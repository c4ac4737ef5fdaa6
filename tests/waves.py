"""Windows of a made-up machine: three states that differ in frequency, and a way to drift.

The waves are rectified, so that turning the sensor round changes every window and stays inside the
range that its profile knows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgetuner.data import WindowSet

CLASSES = ("slow", "brisk", "fast")
CHANNELS = ("acc_x", "acc_y", "acc_z")
LENGTH, HZ = 32, 32.0
_SCALE = np.array([1.0, 1.3, 0.8])[:, None]

Window = NDArray[np.float32]


def window(seed: int, label: int, hz: float | None = None) -> Window:
    """A window (3, 32) of a class, the same for the same seed; of another frequency if one is
    given.
    """
    draw = np.random.default_rng([seed, label])
    clock = np.arange(LENGTH) / HZ * 2 * np.pi
    phase = draw.uniform(0, 2 * np.pi, (len(CHANNELS), 1))
    x = np.maximum(0, np.sin((hz or 1 + 2 * label) * clock + phase)) * _SCALE
    return (x + 0.15 * draw.normal(size=x.shape)).astype(np.float32)


def label_of(seq: int) -> int:
    """The class at a place of a stream: bouts of four windows."""
    return seq // 4 % len(CLASSES)


def turned(x: Window) -> Window:
    """The same movement, felt by a sensor that is worn upside down."""
    return -x


def source(subjects: int = 3, per_recording: int = 60) -> WindowSet:
    """What the lab recorded."""
    rows = [(s, k, t) for s in range(subjects) for k in range(3) for t in range(per_recording)]
    subject, y, t = np.array(rows).T
    x = np.stack([window(10_000 + i, k) for i, (_, k, _) in enumerate(rows)])
    groups = {"subject": subject.copy(), "t": t.copy()}
    return WindowSet(x, y.copy(), CLASSES, CHANNELS, HZ, groups)
