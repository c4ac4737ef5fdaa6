"""Files that a person would bring."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from edgetuner.data import WindowSet
from tests import waves


def save(windows: WindowSet, file: Path) -> Path:
    """The windows as an archive of `edgetuner.data.load`."""
    arrays: dict[str, Any] = {
        "X": windows.x,
        "y": windows.y,
        "classes": np.array(windows.classes),
        "channels": np.array(windows.channels),
        "hz": np.array(windows.hz),
        **windows.groups,
    }
    if windows.positions:
        arrays["positions"] = np.array(windows.positions)
    with file.open("wb") as stream:
        np.savez(stream, **arrays)
    return file


def worn_twice(source: WindowSet) -> WindowSet:
    """The same movements, worn upright and upside down."""
    n = len(source)
    groups = {name: np.tile(values, 2) for name, values in source.groups.items()}
    return WindowSet(
        x=np.concatenate([source.x, waves.turned(source.x)]),
        y=np.tile(source.y, 2),
        classes=source.classes,
        channels=source.channels,
        hz=source.hz,
        groups={**groups, "position": np.repeat([0, 1], n)},
        positions=("upright", "turned"),
    )


def write_csv(file: Path, subject: int, windows_of_a_class: int, columns: dict[str, str]) -> Path:
    """One sample a row, one class after the other; `columns` renames what they are called."""
    names = ["time", *waves.CHANNELS, "label", "subject"]
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow([columns.get(name, name) for name in names])
        clock = 0.0
        for label, name in enumerate(waves.CLASSES):
            for number in range(windows_of_a_class):
                for sample in waves.window(1000 * subject + number, label).T:
                    writer.writerow([f"{clock:.6f}", *sample.tolist(), name, subject])
                    clock += 1 / waves.HZ
            clock += 10.0
    return file
