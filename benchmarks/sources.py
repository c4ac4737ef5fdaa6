"""Source models, trained once and kept in `build/benchmarks/`, by a hash of what they come from."""

from __future__ import annotations

import hashlib
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
# Of MobileNetV2 a narrow one: windows are no photographs.
ARGS: dict[str, dict[str, Any]] = {"mobilenet_v2": {"width_mult": 0.5}}


def source_bundle(windows: WindowSet, backbone: str, gap: int) -> tuple[Bundle, WindowSet]:
    """A model of these windows, and those that it was not trained on, the last in time."""
    _, home = windows.split_by_time(HOLD_OUT, gap)
    args = ARGS.get(backbone, {})
    digest = hashlib.sha256(repr((backbone, args, RECIPE, gap, windows.channels)).encode())
    for array in (windows.x, windows.y):
        digest.update(array.tobytes())
    folder = CACHE / f"{backbone}-{digest.hexdigest()[:16]}"
    if not folder.exists():
        staging = folder.with_suffix(".incoming")
        shutil.rmtree(staging, ignore_errors=True)
        create_bundle(
            windows,
            backbone,
            staging,
            backbone_args=args,
            recipe=RECIPE,
            evidence=Evidence(hold_out=HOLD_OUT, gap=gap),
        )
        staging.rename(folder)
    return Bundle.load(folder), home
