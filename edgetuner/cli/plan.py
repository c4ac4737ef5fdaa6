"""The plan of a training, for people and for machines."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from edgetuner.cli.output import table

if TYPE_CHECKING:
    from edgetuner.peft.plan import Course, LayerPlan, Plan

_HEADER = ("layer", "form", "rank", "trained", "kept bytes/window", "million MACs/window")


def plan_page(plan: Plan, batch: int, course: Course | None) -> str:
    """A row for each layer, what they add up to, and how the steps would be taken."""
    lines = [table([_row(layer) for layer in plan.layers], _HEADER)] if plan.layers else []
    if plan.why:
        lines.append(f"plain autograd throughout: {plan.why}")
    beside = plan.state_bytes(0) - plan.weights_bytes
    lines.append(
        f"a step on {batch} windows keeps {_mb(plan.saved_bytes(batch))} for its backward pass; "
        f"with weights {_mb(plan.weights_bytes)}, gradients and moments {_mb(beside)} that is a "
        f"training state of {_mb(plan.state_bytes(batch))}"
    )
    lines.append(f"its peak, feature maps on their way included, is {_mb(plan.peak_bytes(batch))}")
    if plan.border_bytes:
        lines.append(
            f"a cache of the frozen steps takes {_mb(plan.border_bytes * 1000)} for 1,000 windows"
        )
    if course is not None:
        cached = "with" if course.cached else "without"
        lines.append(
            f"within that budget: {course.micro_batch} windows at once, {cached} the cache, peak "
            f"{_mb(course.peak_bytes)}"
        )
    return "\n".join(lines)


def plan_data(plan: Plan, batch: int, course: Course | None) -> dict[str, Any]:
    """The same as JSON-compatible values."""
    totals = {
        "batch": batch,
        "saved_bytes": plan.saved_bytes(batch),
        "state_peak_bytes": plan.state_bytes(batch),
        "peak_bytes": plan.peak_bytes(batch),
    }
    chosen = {} if course is None else {"course": asdict(course)}
    return asdict(plan) | totals | chosen


def _row(layer: LayerPlan) -> tuple[Any, ...]:
    form = f"plain: {layer.why}" if layer.why else "lean" if layer.lean else "frozen"
    macs = round(layer.macs / 1e6, 2) or None
    rank, trained = layer.rank or None, layer.trained or None
    return (layer.name, form, rank, trained, layer.saved_bytes, macs)


def _mb(count: int) -> str:
    return f"{count / 1e6:.2f} MB"
