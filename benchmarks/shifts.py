"""The shifts that methods are compared over: where a model comes from, and where it has to go.

Source and target never share a window, and within the target what is learned from lies before what
is tested, with a gap where windows overlap.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.sources import source_bundle
from demo.recordings import watch_windows
from edgetuner.bundle import Bundle
from edgetuner.data import WindowSet, load
from edgetuner.factories import build_module

SHARED = Path(__file__).parents[2] / "shared" / "data"
TEST_SHARE = 0.4  # of every recording of the target, its last part in time


@dataclass(frozen=True)
class Shift:
    """One change of circumstances.

    Attributes:
        dataset: a key of `DATASETS`, or a file.
        name: of the change.
        source, target: selectors over the set's own arrays.
        strangers: people who are in the target and not in the source; none if the people stay.
        gap: windows between what is learned from and the test.
    """

    dataset: str
    name: str
    source: Mapping[str, int | str] = field(default_factory=dict)
    target: Mapping[str, int | str] = field(default_factory=dict)
    strangers: tuple[int, ...] = ()
    gap: int = 0


DATASETS: dict[str, Callable[[], WindowSet]] = {
    "dsads": lambda: load(SHARED / "dsads.npz"),
    "motionsense": lambda: load(SHARED / "motionsense.npz"),
    "seglearn": watch_windows,
}
_RIGHT_ARM = {"position": "right_arm"}
_DSADS = (1, 8)  # two people whom no source model knows
SHIFTS = (
    Shift("dsads", "new person", _RIGHT_ARM, _RIGHT_ARM, _DSADS),
    Shift("dsads", "right arm to left arm", _RIGHT_ARM, {"position": "left_arm"}, _DSADS),
    Shift("dsads", "right arm to torso", _RIGHT_ARM, {"position": "torso"}, _DSADS),
    Shift("dsads", "right arm to right leg", _RIGHT_ARM, {"position": "right_leg"}, _DSADS),
    Shift(
        "dsads",
        "right leg to left leg",
        {"position": "right_leg"},
        {"position": "left_leg"},
        _DSADS,
    ),
    Shift("motionsense", "new person", strangers=(4, 11, 17, 23)),
    Shift(
        "seglearn",
        "right wrist to left wrist",
        {"position": "right_wrist"},
        {"position": "left_wrist"},
        (7, 10),
        gap=1,
    ),
    Shift(
        "seglearn",
        "new pair",
        {"position": "right_wrist"},
        {"position": "right_wrist"},
        (7, 10),
        gap=1,
    ),
)


@dataclass(frozen=True, eq=False)
class Case:
    """A shift with its model: raw windows `(N, C, T)` throughout, as they come from a sensor.

    Attributes:
        bundle: the source model.
        module: built of it, in evaluation mode.
        pool: of the target, to learn from.
        test: of the target, later in time.
        home: of the source, not trained on.
    """

    shift: Shift
    bundle: Bundle
    module: nn.Module
    pool: WindowSet
    test: WindowSet
    home: WindowSet

    def scaled(self, x: NDArray[np.float32]) -> Tensor:
        """Normalised as the source model wants it."""
        mean, std = self.bundle.mean[:, None], self.bundle.std[:, None]
        return torch.from_numpy(((x - mean) / std).astype(np.float32))

    def labelled(self, per_class: int | None, seed: int) -> WindowSet:
        """So many windows of each class of the pool, or all; fewer where a class has fewer."""
        if per_class is None:
            return self.pool
        draw = np.random.default_rng(seed)
        rows = [
            draw.permutation(np.flatnonzero(self.pool.y == k))[:per_class]
            for k in range(len(self.pool.classes))
        ]
        return self.pool.take(np.concatenate(rows))


def case(shift: Shift, backbone: str, stranger: int | None = None) -> Case:
    """The case of a shift; the source model is trained if it is not there yet.

    Args:
        backbone: a key of `edgetuner.models.BACKBONES`.
        stranger: which of the strangers the target is; all together if None.
    """
    known = DATASETS.get(shift.dataset)
    windows = known() if known else load(Path(shift.dataset))
    at_home = windows.select(**shift.source)
    away = windows.select(**shift.target)
    if shift.strangers:
        at_home = at_home.take(~np.isin(at_home.groups["subject"], shift.strangers))
        away = away.select(subject=list(shift.strangers) if stranger is None else stranger)
    bundle, home = source_bundle(at_home, backbone, shift.gap)
    pool, test = away.split_by_time(TEST_SHARE, shift.gap)
    return Case(shift, bundle, build_module(bundle), pool, test, home)
