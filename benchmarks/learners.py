"""The ways to adapt, each as a curve: macro-F1 on the target's test against seconds of work.

The clock starts at raw windows: normalisation, statistics, closed forms and decompositions count,
but for the suffixes of ours, which a version brings along.
It stands still while a curve is measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from benchmarks.methods import METHODS, Method, Setting
from benchmarks.shifts import Case
from edgetuner.adapt.ladder import climb, predict
from edgetuner.adapt.material import Material
from edgetuner.config import AdaptConfig, Rung
from edgetuner.data import WindowSet
from edgetuner.metrics import macro_f1
from edgetuner.models import count_weights

STEPS, BATCH = 50, 64
LOOKS = (2, 4, 8, 14, 22, 35, 50)  # steps after which a curve is measured
_RANK = 4


@dataclass
class Curve:
    """What an adaptation reached, and when.

    Attributes:
        points: (seconds, macro-F1) on the target's test.
        home_f1: on the source, afterwards.
        trained_fraction: of the model's weights.
    """

    points: list[tuple[float, float]] = field(default_factory=list)
    home_f1: float = 0.0
    trained_fraction: float = 0.0

    @property
    def f1(self) -> float:
        """At the end."""
        return self.points[-1][1]

    def seconds_to(self, f1: float) -> float | None:
        """When the curve was first that high; None if never."""
        return next((seconds for seconds, reached in self.points if reached >= f1), None)


class Watch:
    """A clock that stands still while it is looked at."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.curve = Curve()
        self._x, self._home = case.scaled(case.test.x), case.scaled(case.home.x)
        self._lost = 0.0
        self._start = time.perf_counter()

    def stop(self, module: nn.Module) -> Curve:
        """The curve, with what the module has become for the source."""
        module.eval()
        self.curve.home_f1 = macro_f1(self.case.home.y, predict(module, self._home))
        return self.curve

    def look(self, module: nn.Module) -> None:
        """Notes where a module, of which modes are left as they were, stands by now."""
        paused = time.perf_counter()
        training = module.training
        module.eval()
        f1 = macro_f1(self.case.test.y, predict(module, self._x))
        module.train(training)
        self.curve.points.append((paused - self._start - self._lost, f1))
        self._lost += time.perf_counter() - paused


Learner = Callable[[Case, WindowSet, int, float | None], Curve]


def by_gradient(name: str) -> Learner:
    """A method of `benchmarks.methods` with Adam on balanced batches, as its paper has it."""

    def learn(case: Case, labelled: WindowSet, seed: int, rate: float | None) -> Curve:
        assert rate is not None
        torch.manual_seed(seed)
        watch = Watch(case)
        x, y = case.scaled(labelled.x), torch.from_numpy(labelled.y)
        method = METHODS[name](setting(case))
        adapted = _Dense(method)
        optimiser = torch.optim.Adam(method.trained, lr=rate)
        draw = torch.Generator().manual_seed(seed)
        weight = 1.0 / torch.bincount(y)[y].float()
        for step in range(1, STEPS + 1):
            rows = torch.multinomial(weight, BATCH, replacement=True, generator=draw)
            loss = nn.functional.cross_entropy(method.forward(x[rows]), y[rows])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            if step in LOOKS:
                watch.look(adapted)
        trained = sum(weight.numel() for weight in method.trained)
        watch.curve.trained_fraction = trained / count_weights(case.module)
        return watch.stop(adapted)

    return learn


class _Dense(nn.Module):
    """A method as a module; its batch norm is in evaluation mode while it is looked at."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self._forward = method.forward
        self._norms = [m for owner in method.modules for m in owner.modules() if _moves(m)]

    def train(self, mode: bool = True) -> _Dense:
        for norm in self._norms:
            norm.training = mode
        self.training = mode
        return self

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self._forward(x)
        return logits


def _moves(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm | nn.Dropout) and module.training


def setting(case: Case) -> Setting:
    """All convolutions, at the rank that the service has."""
    layers = tuple(
        name
        for name, module in case.module.named_modules()
        if isinstance(module, nn.Conv1d | nn.Conv2d) and module.groups == 1
    )
    example = case.scaled(case.pool.x[:2])
    return Setting(case.module, layers, layers[-1:], _RANK, example)


def by_rungs(*rungs: Rung, **settings: Any) -> Learner:
    """Rungs of the ladder, each taken as it comes and started from the one before."""
    return _by_ladder(rungs=rungs, choose="last", **settings)


def by_ladder(**settings: Any) -> Learner:
    """The ladder as the service climbs it: what windows left out speak for is taken."""
    return _by_ladder(**settings)


def _by_ladder(**settings: Any) -> Learner:
    def learn(case: Case, labelled: WindowSet, seed: int, rate: float | None) -> Curve:
        asked = AdaptConfig(seed=seed, **settings)
        watch = Watch(case)
        material = _material(case, labelled)
        module = case.module
        for climbed in climb(case.module, material, asked, _nothing):
            if climbed.taken:
                module = climbed.module
                watch.curve.trained_fraction = climbed.facts["trained_fraction"]
            watch.look(module)
        return watch.stop(module)

    return learn


def _nothing(rung: str, **facts: Any) -> None:
    """Hears a report, and keeps it to itself."""


def _material(case: Case, labelled: WindowSet) -> Material:
    """All labels are trained on: which rung is right is not asked here."""
    none = torch.zeros(0, dtype=torch.int64)
    suffixes = {k: torch.from_numpy(v) for k, v in case.bundle.suffixes.items()}
    return Material(
        x=case.scaled(labelled.x),
        y=torch.from_numpy(labelled.y),
        unlabelled=case.scaled(case.pool.x),
        held_x=case.scaled(labelled.x[:0]),
        held_y=none,
        source_x=case.scaled(case.bundle.exemplar_x.astype("float32")),
        source_y=torch.from_numpy(case.bundle.exemplar_y),
        classes=len(case.pool.classes),
        head=case.bundle.manifest.backbone.head,
        suffixes=suffixes,
    )


# Each with the learning rates to choose from; ours has one, whatever the net and the shift.
_GRID = (1e-3, 3e-3, 1e-2)
LEARNERS: dict[str, tuple[Learner, tuple[float, ...]]] = {
    "full": (by_gradient("full"), (3e-4, 1e-3, 3e-3)),
    "head": (by_gradient("head"), _GRID),
    "bias": (by_gradient("bias"), _GRID),
    "batch_norm": (by_gradient("batch_norm"), _GRID),
    "lora_c": (by_gradient("lora_c"), _GRID),
    "lora_edge": (by_gradient("lora_edge"), (1e-3,)),  # as published
    "memflora": (by_gradient("memflora"), _GRID),
    "closed_head": (by_rungs("head"), ()),
    "unlabelled": (by_rungs("unlabelled"), ()),
    "statistics": (by_rungs("statistics"), ()),
    "cores": (by_rungs("cores"), ()),
    "ladder": (by_ladder(), ()),
    "retain": (by_ladder(policy="retain"), ()),
}
