"""Source models, trained once and kept in `build/benchmarks/`, by a hash of what they come from."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

from edgetuner.augment import Augmentation
from edgetuner.bundle import Bundle
from edgetuner.data import WindowSet
from edgetuner.pretrain import Evidence, Recipe, create_bundle

CACHE = Path(__file__).parents[1] / "build" / "benchmarks"
HOLD_OUT = 0.2
RECIPE = Recipe(epochs=10, augmentation=Augmentation(rotation_deg=15, scale=0.1, jitter=0.05))
# The two published nets half as wide, so that a suite of all of them takes about an hour; the
# small one twice as wide as its default, of which the head alone would be more than 1.49 %.
ARGS: dict[str, dict[str, Any]] = {
    "small_cnn": {"width": 64},
    "t_resnet": {"width": 32},
    "mobilenet_v2": {"width_mult": 0.5},
}


def source_bundle(windows: WindowSet, backbone: str, gap: int) -> tuple[Bundle, WindowSet]:
    """A model of these windows, and those that it was not trained on, the last in time."""
    _, home = windows.split_by_time(HOLD_OUT, gap)
    args = ARGS.get(backbone, {})
    digest = hashlib.sha256(repr((backbone, args, RECIPE, gap, windows.channels)).encode())
    for array in (windows.x, windows.y):
        digest.update(array.tobytes())
    folder = CACHE / f"{backbone}-{digest.hexdigest()[:16]}"
    if not folder.exists():
        staging = folder.with_suffix(f".{os.getpid()}")
        shutil.rmtree(staging, ignore_errors=True)
        create_bundle(
            windows,
            backbone,
            staging,
            backbone_args=args,
            recipe=RECIPE,
            evidence=Evidence(hold_out=HOLD_OUT, gap=gap),
        )
        try:
            staging.rename(folder)
        except OSError:  # somebody else was faster
            shutil.rmtree(staging)
    return Bundle.load(folder), home
