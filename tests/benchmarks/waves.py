"""Waves that a small net learns in a second: two people, two places, every window once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import sources
from benchmarks.homes import Home, home
from benchmarks.shifts import Shift
from edgetuner.augment import Augmentation

TURNED = (-1, 1, 1)
CHANNELS, LENGTH, CLASSES, PER_RECORDING = 3, 24, 3, 200


def recordings(path: Path) -> Path:
    """An .npz of three waves; at the second place one of three axes is turned, so that the
    model still gets some of it right.
    """
    draw = np.random.default_rng(0)
    y, subject, position, t = (
        values.ravel()
        for values in np.meshgrid(
            range(CLASSES), (1, 2), (0, 1), range(PER_RECORDING), indexing="ij"
        )
    )
    phase = draw.uniform(0, 2 * np.pi, (len(y), CHANNELS, 1))
    wave = np.sin((y + 1)[:, None, None] * np.linspace(0, 6, LENGTH) + phase)
    noise = draw.normal(0, 0.3, (len(y), CHANNELS, LENGTH))
    signs = np.where(position[:, None, None], np.array(TURNED)[:, None], 1)  # (N, C, 1)
    x = signs * (wave + y[:, None, None] + noise)
    np.savez(
        path,
        X=x.astype(np.float32),
        y=y,
        subject=subject,
        position=position,
        t=t,
        classes=np.array(["slow", "brisk", "fast"]),
        channels=np.array(["acc_x", "acc_y", "acc_z"]),
        positions=np.array(["wrist", "ankle"]),
        hz=np.float64(12),
    )
    return path


def turned(path: Path, cache: Path, patch: pytest.MonkeyPatch) -> Home:
    """The home of a net that knows the wrist, of a stream that goes to the ankle."""
    patch.setattr(sources, "CACHE", cache)
    patch.setattr(sources, "RECIPE", replace(sources.RECIPE, epochs=4, augmentation=Augmentation()))
    shift = Shift(str(path), "turned", {"position": 0}, {"position": 1})
    return home(shift, "small_cnn")
