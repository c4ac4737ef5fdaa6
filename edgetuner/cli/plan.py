"""The plan of a training, for people and for machines."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from edgetuner.cli.output import table

if TYPE_CHECKING:
    from edgetuner.peft.plan import LayerPlan, Plan

_HEADER = ("layer", "form", "rank", "trained", "kept bytes/window", "million MACs/window")


def plan_page(plan: Plan, batch: int) -> str:
    """A row for each layer, and what they add up to."""
    lines = [table([_row(layer) for layer in plan.layers], _HEADER)] if plan.layers else []
    if plan.why:
        lines.append(f"plain autograd throughout: {plan.why}")
    lines.append(
        f"a step on {batch} windows keeps {_mb(plan.saved_bytes(batch))}; with weights "
        f"{_mb(plan.weights_bytes)}, gradients and moments {_mb(plan.peak_bytes(batch))}"
    )
    return "\n".join(lines)


def plan_data(plan: Plan, batch: int) -> dict[str, Any]:
    """The same as JSON-compatible values."""
    totals = {
        "batch": batch,
        "saved_bytes": plan.saved_bytes(batch),
        "state_peak_bytes": plan.peak_bytes(batch),
    }
    return asdict(plan) | totals


def _row(layer: LayerPlan) -> tuple[Any, ...]:
    form = f"plain: {layer.why}" if layer.why else "lean"
    macs = round(layer.macs / 1e6, 2) or None
    rank, trained = layer.rank or None, layer.trained or None
    return (layer.name, form, rank, trained, layer.saved_bytes, macs)


def _mb(count: int) -> str:
    return f"{count / 1e6:.2f} MB"
