"""The LoRA-Edge cores: the only rung that follows a shift which frozen features cannot express."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from edgetuner.adapt.material import Material
from edgetuner.adapt.rungs.head import with_head
from edgetuner.adapt.rungs.reached import Reached, Report
from edgetuner.adapt.train import train_cores, uses_graph
from edgetuner.config import AdaptConfig
from edgetuner.errors import BudgetError
from edgetuner.heap import held_bytes
from edgetuner.peft.layout import kernels_innermost
from edgetuner.peft.lean_lora_edge import LeanLoraEdge
from edgetuner.peft.plan import Course, Plan, plan
from edgetuner.peft.spending import afford, left_for_cores, weights_of
from edgetuner.peft.suffixes import of_decomposition

_MB = 1024 * 1024
_AFTERWARDS = 56 * _MB  # predictions and the drift reference: 26 to 46 was measured
_SPREAD = 1.05  # what a process holds differs from run to run
# Resident over used memory of a process that keeps what it frees: 1.9 to 2.9 was measured.
_HEAP = 3.0
_PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}


def cores(start: Reached, material: Material, settings: AdaptConfig, report: Report) -> Reached:
    """Cores trained through the head that the rung before found, then fused into the kernels.

    The head stays as it is meanwhile, and is solved again on the new features, in the directions
    that it has; the mean of both is what is served. What the one leans on too much, the other does
    not.
    """
    if start.share is None:  # nothing was solved yet
        start = with_head(start.module, material, settings)
    assert start.share is not None
    x, y = material.all_rows()
    weights = material.weights(start.share, evenness=1)
    adapted = copy.deepcopy(start.module)
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
        weights,
    )
    adapted.load_state_dict(adapter.fused_state())
    reached = with_head(adapted.eval(), material, settings, basis=start.basis, keep=0.5)
    trained = adapter.trained() + int(reached.facts["trained"])
    facts = {
        "trained": trained,
        "trained_fraction": trained / weights_of(adapted),
        "rank": max(len(update.suffix) for update in adapter.updates),  # type: ignore[arg-type]
        "layers": len(adapter.layers),
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
    # what was stored is of other kernels now
    return replace(reached, material=replace(material, suffixes={}), facts=reached.facts | facts)


def adapter_of(
    base: nn.Module,
    example: Tensor,
    settings: AdaptConfig,
    head: str,
    suffixes: Mapping[str, Tensor] | None = None,
) -> LeanLoraEdge:
    """The adapter that the settings ask for, and that fits what they allow to be trained.

    Args:
        head: name of the last linear layer, which has its share of what may be trained.

    Raises:
        ModelError: a layer that does not exist.
        BudgetError: not one layer may be trained.
    """
    allowed = left_for_cores(base, head, settings.trained_fraction)
    chosen = afford(base, settings.layers, settings.rank, allowed, shifts=settings.batch_norm_beta)
    return LeanLoraEdge(
        base,
        example,
        rank=chosen.rank,
        clip=True,
        decomposition=settings.decomposition,
        layers=chosen.layers,
        batch_norm_beta=chosen.norms,
        suffixes=suffixes,
        dtype=_PRECISIONS[settings.precision],
        q_dtype=torch.float16 if settings.compact else None,
        eight_bits=settings.compact,
        apart=True,
    )


def plan_of(base: nn.Module, shape: tuple[int, int], settings: AdaptConfig, head: str) -> Plan:
    """What the cores rung costs on windows of a shape `(C, T)`.

    Raises:
        ModelError, BudgetError: as in `adapter_of`.
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
    held = held_bytes() or 0
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
