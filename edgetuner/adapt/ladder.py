"""The ladder: statistics, closed-form head, LoRA-Edge cores, each started from the rung below.

Every rung gives a whole model that could be served. Which one is used is decided by what it does on
held-out windows, never by assumption.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgetuner.adapt.train import train_cores, uses_graph
from edgetuner.config import AdaptConfig
from edgetuner.errors import BudgetError
from edgetuner.heap import resident_bytes
from edgetuner.metrics import macro_f1
from edgetuner.models import embed
from edgetuner.peft.head import RidgeHead, solve
from edgetuner.peft.layout import kernels_innermost
from edgetuner.peft.lean_lora_edge import LeanLoraEdge
from edgetuner.peft.plan import Course, Plan, plan
from edgetuner.peft.selection import select
from edgetuner.peft.statistics import reestimate
from edgetuner.peft.suffixes import of_decomposition

_CHUNK = 64  # windows a forward pass; bounds the memory of everything but training
_MB = 1024 * 1024
_AFTERWARDS = 56 * _MB  # predictions and the drift reference: 26 to 46 was measured
_SPREAD = 1.05  # what a process holds differs from run to run
# Resident over used memory of a process that keeps what it frees: 1.9 to 2.9 was measured.
_HEAP = 3.0


class Report(Protocol):
    """Takes what the child wants the service to know: a rung, and facts about it."""

    def __call__(self, rung: str, **facts: Any) -> None: ...


@dataclass(frozen=True, eq=False)
class Material:
    """What the rungs work with; windows are normalised, float32 (·, C, T).

    Attributes:
        x, y: labelled windows to train on.
        unlabelled: every window of the present context but the held-out ones and their neighbours.
        held_x, held_y: labelled windows for the choice between rungs and for the gate.
        source_x, source_y: exemplars; they keep the place of classes without a labelled window.
        classes: K.
        head: name of the module's last linear layer.
        suffixes: those of the champion's kernels as far as they are stored with it, by
            `<decomposition>/<layer>`.
    """

    x: Tensor
    y: Tensor
    unlabelled: Tensor
    held_x: Tensor
    held_y: Tensor
    source_x: Tensor
    source_y: Tensor
    classes: int
    head: str
    suffixes: Mapping[str, Tensor] = field(default_factory=dict)

    def to(self, device: str) -> Material:
        """The same on a device, `cpu` or `cuda`."""
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {k: v.to(device) for k, v in own.items() if isinstance(v, Tensor)}
        return replace(self, **moved)

    def with_source(self, least: int = 1) -> tuple[Tensor, Tensor]:
        """The labelled windows, and exemplars of the classes that have fewer than `least`."""
        absent = (torch.bincount(self.y, minlength=self.classes) < least)[self.source_y]
        return (
            torch.cat([self.x, self.source_x[absent]]),
            torch.cat([self.y, self.source_y[absent]]),
        )


@dataclass(frozen=True, eq=False)
class Climbed:
    """One rung's model and its evidence.

    Attributes:
        rung: its name.
        module: the whole dense model, in eval mode, with the base's keys.
        held_f1: macro-F1 on the held-out windows, or None if there are none.
        seconds: what the rung took.
        facts: trained weights, trained fraction, norm of the cores, as far as it has them.
    """

    rung: str
    module: nn.Module
    held_f1: float | None
    seconds: float
    facts: dict[str, Any]

    def to_wire(self) -> dict[str, Any]:
        """JSON-compatible evidence."""
        wire: dict[str, Any] = {"rung": self.rung, "seconds": round(self.seconds, 3), **self.facts}
        return wire if self.held_f1 is None else wire | {"held_f1": round(self.held_f1, 4)}


def climb(
    module: nn.Module, material: Material, settings: AdaptConfig, report: Report
) -> list[Climbed]:
    """Takes the rungs of `settings.rungs` in turn; returns each, in that order.

    A rung that does not fit the memory budget is passed over, and the facts of the one before it
    say so.

    Args:
        module: the champion, in eval mode; not changed.

    Raises:
        BudgetError: not even the first one fits.
    """
    climbed: list[Climbed] = []
    for rung in settings.rungs:
        start = time.perf_counter()
        try:
            module, facts = RUNGS[rung](module, material, settings, report)
        except BudgetError as error:  # what was reached so far may do
            if not climbed:
                raise
            report(rung, refused=str(error))
            climbed[-1].facts["refused"] = {rung: str(error)}
            continue
        seconds = time.perf_counter() - start
        if rung == "cores":  # its kernels are new ones, and no suffix is stored of those
            material = replace(material, suffixes={})
        climbed.append(Climbed(rung, module, held_f1(module, material), seconds, facts))
        report(**climbed[-1].to_wire())
    return climbed


def choose(climbed: list[Climbed], settings: AdaptConfig) -> Climbed:
    """The rung that becomes the candidate, as `settings.choose` says."""
    return best(climbed) if settings.choose == "best" else climbed[-1]


def best(climbed: list[Climbed]) -> Climbed:
    """The rung with the highest held-out macro-F1; of equals, the later one has adapted more of the
    model.
    """
    return max(enumerate(climbed), key=lambda pair: (pair[1].held_f1 or 0.0, pair[0]))[1]


def statistics(
    module: nn.Module, material: Material, settings: AdaptConfig, report: Report
) -> tuple[nn.Module, dict[str, Any]]:
    """Batch-norm statistics of the unlabelled windows, if a head on them does better.

    A hundred windows of a few activities can mislead as well as help. Which it was is told by the
    leave-one-out error of a closed-form head on the labelled windows, before and after.
    """
    adapted = copy.deepcopy(module)
    adapted.load_state_dict(
        reestimate(module, torch.split(material.unlabelled, _CHUNK)), strict=False
    )
    before, after = _solve(module, material), _solve(adapted.eval(), material)
    facts = {
        "trained": 0,
        "trained_fraction": 0.0,
        "press": before.press,
        "press_after": after.press,
    }
    return (adapted if after.press < before.press else module), facts


def head(
    module: nn.Module, material: Material, settings: AdaptConfig, report: Report
) -> tuple[nn.Module, dict[str, Any]]:
    """The last linear layer, solved in closed form on the features of the labelled windows."""
    adapted = copy.deepcopy(module)
    solved = _solve(module, material)
    layer = adapted.get_submodule(material.head)
    assert isinstance(layer, nn.Linear)
    with torch.no_grad():
        layer.weight.copy_(solved.weight)
        if layer.bias is not None:
            layer.bias.copy_(solved.bias)
    trained = sum(p.numel() for p in layer.parameters())
    total = sum(p.numel() for p in adapted.parameters())
    facts = {"trained": trained, "trained_fraction": trained / total}
    return adapted, facts | {"loo_error": float(solved.loo_error)}


def cores(
    module: nn.Module, material: Material, settings: AdaptConfig, report: Report
) -> tuple[nn.Module, dict[str, Any]]:
    """The LoRA-Edge cores, with batch-norm shifts and head; fused into the dense kernels."""
    x, y = material.with_source()
    adapted = copy.deepcopy(module)
    kernels_innermost(adapted)
    suffixes = of_decomposition(material.suffixes, settings.decomposition)
    adapter = adapter_of(adapted, x[:1], settings, material.head, suffixes)
    course = course_of(plan(adapter, x[:1]), len(x), settings)
    losses = train_cores(
        adapter,
        x,
        y,
        settings,
        lambda step, loss: report("cores", step=step, loss=round(loss, 5)),
        course,
    )
    adapted.load_state_dict(adapter.fused_state())
    return adapted.eval(), {
        "trained": adapter.trained(),
        "trained_fraction": adapter.trained_fraction(),
        "core_norm": adapter.core_norm(),
        "micro_batch": course.micro_batch,
        "prefix_cached": course.cached,
        "device": x.device.type,
        "precision": settings.precision,
        "graph": uses_graph(adapter, x, settings),
        **({"not_lean": adapter.not_lean} if adapter.not_lean else {}),
        "first_loss": losses[0],
        "last_loss": losses[-1],
    }


def adapter_of(
    base: nn.Module,
    example: Tensor,
    settings: AdaptConfig,
    head: str,
    suffixes: Mapping[str, Tensor] | None = None,
) -> LeanLoraEdge:
    """The adapter that the settings ask for.

    Raises:
        ModelError: a layer that does not exist or does not allow the rank.
    """
    selected = select(base, settings.layers)
    return LeanLoraEdge(
        base,
        example,
        rank=settings.rank,
        decomposition=settings.decomposition,
        layers=selected.layers,
        batch_norm_beta=selected.norms if settings.batch_norm_beta else (),
        head=head,
        suffixes=suffixes,
        dtype=_PRECISIONS[settings.precision],
        q_dtype=torch.float16 if settings.compact else None,
        eight_bits=settings.compact,
        apart=True,
    )


def plan_of(base: nn.Module, shape: tuple[int, int], settings: AdaptConfig, head: str) -> Plan:
    """What the cores rung costs on windows of a shape `(C, T)`.

    Raises:
        ModelError: as in `adapter_of`.
    """
    example = torch.zeros(1, *shape)
    return plan(adapter_of(base, example, settings, head), example)


def course_of(planned: Plan, windows: int, settings: AdaptConfig) -> Course:
    """How steps are taken within `memory_budget_mb`, beside what this process holds already.

    Args:
        windows: how many there are to train on.

    Raises:
        BudgetError: not even one window fits.
    """
    held = resident_bytes() or 0
    free = settings.memory_budget_mb * _MB - held - _AFTERWARDS
    try:
        # the weights are among what is held
        room = int(free / _HEAP) + planned.weights_bytes
        return planned.course(settings.batch_size, windows, room)
    except BudgetError:
        smallest = planned.peak_bytes(settings.batch_size if planned.whole else 1)
        least = held + _AFTERWARDS + _HEAP * (smallest - planned.weights_bytes)
        fewer = ", or name fewer layers in adapt.layers, the last ones" if free > 0 else ""
        raise BudgetError(
            f"the training process holds {held // _MB} MB before the first step, and needs some "
            f"{math.ceil(_SPREAD * least / _MB / 10) * 10} MB to take it and to judge what came of "
            "it",
            field="adapt.memory_budget_mb",
            value=settings.memory_budget_mb,
            remedy=f"raise it{fewer}",
        ) from None


_PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}

RUNGS: dict[str, Callable[..., tuple[nn.Module, dict[str, Any]]]] = {
    "statistics": statistics,
    "head": head,
    "cores": cores,
}


def held_f1(module: nn.Module, material: Material) -> float | None:
    """Macro-F1 of the module on the held-out windows."""
    if not len(material.held_y):
        return None
    return macro_f1(material.held_y.cpu().numpy(), predict(module, material.held_x))


def predict(module: nn.Module, x: Tensor) -> NDArray[np.int64]:
    """Class indices of normalised windows, (N,)."""
    with torch.inference_mode():
        found = torch.cat([module(chunk).argmax(1) for chunk in torch.split(x, _CHUNK)])
    return found.cpu().numpy()


def _solve(module: nn.Module, material: Material) -> RidgeHead:
    x, y = material.with_source()
    return solve(_features(module, x, material.head), y, material.classes)


def _features(module: nn.Module, x: Tensor, head: str) -> Tensor:
    with torch.no_grad():
        return torch.cat([embed(module, chunk, head)[1] for chunk in torch.split(x, _CHUNK)])
