"""What a step of training will cost, layer by layer, and the micro-batch that fits a budget.

Peak training state, as the literature counts it: weights, and of what is trained the gradients and
Adam's two moments, and what the forward pass keeps for the backward pass. Buffers that live within
one layer come on top. The bytes kept are measured on a few windows, not derived, so they hold for
any module; gradients of micro-batches add up exactly, so that the micro-batch is free to choose.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from edgetuner.errors import BudgetError, UsageError
from edgetuner.peft.capture import shape
from edgetuner.peft.lean import LeanConvolution
from edgetuner.peft.lean_lora_edge import LeanLoraEdge
from edgetuner.peft.lowering import Replaced
from edgetuner.peft.program import Program, Step
from edgetuner.peft.saved import saved_for_backward

_MOMENTS = 2  # Adam's, of each weight
_SAMPLE = 9  # one window, and eight more, whose bits fill whole bytes


@dataclass(frozen=True)
class LayerPlan:
    """One step of the captured module.

    Attributes:
        name: of its layer.
        why: why it is left to plain autograd; empty where it is lean.
        rank: r, 0 if it is not adapted.
        trained: weights trained here, cores and batch-norm biases.
        saved_bytes: kept for the backward pass, a window.
        macs: multiply-accumulates of convolutions forth and back, a window.
    """

    name: str
    why: str
    rank: int
    trained: int
    saved_bytes: int
    macs: int


@dataclass(frozen=True)
class Plan:
    """What training an adapter costs.

    Attributes:
        layers: in order; empty for a module that could not be captured.
        why: why it could not; else empty.
        weights_bytes: the base with its buffers, suffixes and whatever is trained.
        trained_bytes: of what is trained alone.
        fixed_bytes: kept for the backward pass whatever the batch.
        window_bytes: kept of each window.
    """

    layers: tuple[LayerPlan, ...]
    why: str
    weights_bytes: int
    trained_bytes: int
    fixed_bytes: int
    window_bytes: int

    def saved_bytes(self, windows: int) -> int:
        """Kept for the backward pass of so many windows at once."""
        return self.fixed_bytes + windows * self.window_bytes

    def peak_bytes(self, windows: int) -> int:
        """Weights, gradients, moments and what is kept of so many windows at once."""
        return self.weights_bytes + (1 + _MOMENTS) * self.trained_bytes + self.saved_bytes(windows)

    def micro_batch(self, batch: int, budget_bytes: int) -> int:
        """The most windows of a batch that fit the budget at once, spread evenly.

        Raises:
            BudgetError: not even one window fits.
        """
        if batch < 1:
            remedy = "give a whole number from 1"
            raise UsageError("not a batch", field="batch", value=batch, remedy=remedy)
        room = budget_bytes - self.peak_bytes(0)
        fitting = batch if self.window_bytes == 0 else room // self.window_bytes
        if room < 0 or fitting < 1:
            beside = (1 + _MOMENTS) * self.trained_bytes
            raise BudgetError(
                f"training needs at least {_mb(self.peak_bytes(1))}: weights "
                f"{_mb(self.weights_bytes)}, gradients and moments {_mb(beside)}, one window "
                f"{_mb(self.saved_bytes(1))}",
                field="memory budget",
                value=_mb(budget_bytes),
                remedy="raise the budget, or adapt fewer layers, the last ones first",
            )
        return math.ceil(batch / math.ceil(batch / min(batch, fitting)))


def plan(adapter: LeanLoraEdge, example: Tensor) -> Plan:
    """The plan of an adapter.

    Args:
        adapter: its trainables are left as they are.
        example: one window `(1, C, T)`; its values do not matter.
    """
    one, many = (example[:1].expand(n, *example.shape[1:]).contiguous() for n in (1, _SAMPLE))
    saved_of_one, saved_of_many = _saved(adapter, one), _saved(adapter, many)
    per_step = [
        math.ceil((later - first) / (_SAMPLE - 1))
        for first, later in zip(saved_of_one, saved_of_many, strict=True)
    ]
    program = adapter.program
    trained = [weight for group in adapter.groups().values() for weight in group]
    return Plan(
        layers=() if program is None else _layers(program, per_step),
        why=adapter.why,
        weights_bytes=sum(t.nbytes for t in _tensors(adapter)),
        trained_bytes=sum(weight.nbytes for weight in trained),
        fixed_bytes=max(0, sum(saved_of_one) - sum(per_step)),
        window_bytes=sum(per_step),
    )


def plan_base(base: nn.Module, channels: int, length: int, **options: Any) -> Plan:
    """The plan of adapting a module of windows `(C, T)`; `options` are those of `LeanLoraEdge`."""
    weight = next(base.parameters())
    example = weight.new_zeros(1, channels, length)
    return plan(LeanLoraEdge(base, example, **options), example)


def _saved(adapter: LeanLoraEdge, x: Tensor) -> list[int]:
    """Bytes that each step keeps of a batch; the whole as one if there are no steps."""
    with torch.enable_grad(), saved_for_backward(adapter) as saved:
        if adapter.program is None:
            adapter(x)
            return [saved.bytes]
        totals = [saved.bytes for _ in adapter.program.walk(x)]
    return [after - before for before, after in zip([0, *totals], totals, strict=False)]


def _layers(program: Program, saved: list[int]) -> tuple[LayerPlan, ...]:
    trained = {step.node for step in program.steps if step.trained}
    return tuple(
        LayerPlan(
            name=step.name,
            why=step.why if step.trained else "",
            rank=getattr(step.run, "rank", 0),
            trained=_trained(step),
            saved_bytes=size,
            macs=_macs(step, trained),
        )
        for step, size in zip(program.steps, saved, strict=True)
    )


def _trained(step: Step) -> int:
    if isinstance(step.run, Replaced):
        return sum(s.extra.numel() for s in step.run.stand_ins.values() if s.extra is not None)
    update, norm = (getattr(step.run, kind, None) for kind in ("update", "norm"))
    beta = None if norm is None else norm.beta
    return sum(t.numel() for t in (update and update.core, beta) if t is not None)


def _macs(step: Step, trained: set[Node]) -> int:
    """Of a convolution: with `[W_eff ; S]` forth, with `W_eff` back if somebody wants it there."""
    layer, out = step.run, shape(step.node)
    if not isinstance(layer, LeanConvolution) or out is None:
        return 0
    positions, taps = math.prod(out[2:]), layer.conv.weight[0].numel()
    maps, source = layer.conv.out_channels, step.inputs[0]
    forth = (maps + layer.geometry.groups * layer.rank) * taps
    back = maps * taps if source in trained else 0
    return positions * (forth + back + maps * layer.rank)


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _mb(count: int) -> str:
    return f"{count / 1e6:.2f} MB"
