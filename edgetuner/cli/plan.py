"""The plan of a training, for people and for machines."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from edgetuner.cli.output import table

if TYPE_CHECKING:
    from edgetuner.config import AdaptConfig
    from edgetuner.peft.plan import Course, LayerPlan, Plan

_HEADER = (
    "layer",
    "form",
    "rank",
    "trained",
    "kept bytes/window",
    "million MACs/window, both ways",
)


def plan_page(plan: Plan, course: Course, settings: AdaptConfig) -> str:
    """A row for each layer, what they add up to, and how the steps would be taken."""
    batch = settings.batch_size
    lines = [table([_row(layer) for layer in plan.layers], _HEADER)] if plan.layers else []
    if plan.why:
        lines.append(f"plain autograd throughout: {plan.why}")
    beside = plan.state_bytes(0) - plan.weights_bytes
    lines.append(
        f"a step on {batch} windows keeps {_mb(plan.saved_bytes(batch))} for "
        f"its backward pass; with weights {_mb(plan.weights_bytes)}, gradients and moments "
        f"{_mb(beside)} that is a training state of {_mb(plan.state_bytes(batch))}"
    )
    lines.append(
        f"the peak of all tensors, feature maps on their way included, is "
        f"{_mb(plan.peak_bytes(batch))}"
    )
    cache = (
        f"with a cache of the frozen steps ({_mb(plan.cache_bytes(settings.max_windows))} for "
        f"{settings.max_windows} windows)"
        if course.cached
        else "no cache of frozen steps"
    )
    lines.append(
        f"given adapt.memory_budget_mb {settings.memory_budget_mb}, for Python and torch too: "
        f"{course.micro_batch} windows at once, {cache}, peak of all tensors "
        f"{_mb(course.peak_bytes)}"
    )
    return "\n".join(lines)


def plan_data(plan: Plan, course: Course, settings: AdaptConfig) -> dict[str, Any]:
    """The same as JSON-compatible values."""
    batch = settings.batch_size
    return asdict(plan) | {
        "batch": batch,
        "windows": settings.max_windows,
        "memory_budget_mb": settings.memory_budget_mb,
        "saved_bytes": plan.saved_bytes(batch),
        "state_peak_bytes": plan.state_bytes(batch),
        "peak_bytes": plan.peak_bytes(batch),
        "course": asdict(course),
    }


def _row(layer: LayerPlan) -> tuple[Any, ...]:
    form = f"plain: {layer.why}" if layer.why else "lean" if layer.lean else "frozen"
    macs = round(layer.macs / 1e6, 2) or None
    rank, trained = layer.rank or None, layer.trained or None
    return (layer.name, form, rank, trained, layer.saved_bytes, macs)


def _mb(count: int) -> str:
    return f"{count / 1e6:.2f} MB"
