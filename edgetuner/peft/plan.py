"""What training costs, layer by layer, and how to take a step within a budget of memory.

Two figures are told apart. The *training state* is what the literature counts: weights, and of what
is trained the gradients and Adam's two moments, and what the forward pass keeps for the backward
pass. The *peak* adds what lives for a moment only, feature maps and gradients on their way, which
is most of it where little is kept. Both are measured on a few windows, not derived, so they hold
for any module. Gradients of micro-batches add up exactly: the micro-batch is free to choose.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from edgetuner.errors import BudgetError, UsageError
from edgetuner.peft.capture import shape
from edgetuner.peft.footprint import Footprint, Growth, step_footprint
from edgetuner.peft.lean import LeanConvolution
from edgetuner.peft.lean_lora_edge import LeanLoraEdge
from edgetuner.peft.lowering import Replaced
from edgetuner.peft.mixture import Mixture, Responses
from edgetuner.peft.norm import normalises_by_batch
from edgetuner.peft.prefix import FILL
from edgetuner.peft.program import Program, Step
from edgetuner.peft.saved import saved_for_backward

_MOMENTS = 2  # Adam's, of each weight
_FEW, _MANY = 2, 10  # windows measured; eight more, so that bits fill whole bytes
_LEAST_SHARE = 8  # a cache may not push the micro-batch below this part of the batch


@dataclass(frozen=True)
class LayerPlan:
    """One step of the captured module.

    Attributes:
        name: of its layer.
        lean: it is trained, or lies behind what is, and keeps next to nothing.
        why: why it is left to plain autograd; empty where it is lean or frozen.
        rank: r, 0 if it is not adapted.
        trained: weights trained here, cores and batch-norm biases.
        saved_bytes: kept for the backward pass, a window.
        macs: multiply-accumulates of convolutions forth and back, a window.
    """

    name: str
    lean: bool
    why: str
    rank: int
    trained: int
    saved_bytes: int
    macs: int


@dataclass(frozen=True)
class Course:
    """How the steps are taken.

    Attributes:
        micro_batch: windows at once; a step adds up the gradients of as many as it takes.
        cached: whether the frozen prefix is run once per window.
        peak_bytes: of training like that, weights and cache included.
    """

    micro_batch: int
    cached: bool
    peak_bytes: int


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
        border_bytes: of each window in a cache of the frozen prefix; 0 if there is none.
        growth: memory of a step, what it keeps included, as (bytes, bytes a window); the largest
            counts.
        cached_growth: the same of a step from the cached prefix, filling it included.
        whole: a batch cannot be taken in parts, since something normalises by it.
    """

    layers: tuple[LayerPlan, ...]
    why: str
    weights_bytes: int
    trained_bytes: int
    fixed_bytes: int
    window_bytes: int
    border_bytes: int
    growth: tuple[tuple[int, int], ...]
    cached_growth: tuple[tuple[int, int], ...] = ()
    whole: bool = False

    def saved_bytes(self, windows: int) -> int:
        """Kept for the backward pass of so many windows at once."""
        return self.fixed_bytes + windows * self.window_bytes

    def state_bytes(self, windows: int) -> int:
        """The training state with so many windows at once."""
        return self._held_bytes + self.saved_bytes(windows)

    def peak_bytes(self, windows: int, *, cached: bool = False) -> int:
        """The peak of training on so many windows at once, beside the cache if there is one.

        On a GPU the memory that its library takes for a convolution comes on top: 19 to 49 % of
        this on an H200.
        """
        growth = self.cached_growth if cached else self.growth
        return self._held_bytes + Growth(growth).bytes(windows)

    def cache_bytes(self, windows: int) -> int:
        """Of a cache of the frozen prefix of so many windows."""
        return windows * self.border_bytes

    def course(self, batch: int, windows: int, budget_bytes: int) -> Course:
        """The fastest way to take steps of `batch` out of `windows` that fits a budget.

        It has the largest micro-batch that fits, spread evenly over the batch, and the cache unless
        that would leave room for less than an eighth of the batch.

        Raises:
            BudgetError: not even one window fits.
        """
        if batch < 1:
            remedy = "give a whole number from 1"
            raise UsageError("not a batch", field="batch", value=batch, remedy=remedy)
        cache = self.cache_bytes(windows)
        largest = self._micro_batch(batch, budget_bytes - cache, cached=True) if cache else 0
        cached = largest * _LEAST_SHARE >= batch
        largest = largest if cached else self._micro_batch(batch, budget_bytes, cached=False)
        if largest == 0:
            beside = (1 + _MOMENTS) * self.trained_bytes
            least = batch if self.whole else 1
            moment = self.peak_bytes(least) - self._held_bytes
            raise BudgetError(
                f"training needs at least {_mb(self.peak_bytes(least))}: weights "
                f"{_mb(self.weights_bytes)}, gradients and moments {_mb(beside)}, {least} "
                f"{'window' if least == 1 else 'windows'} {_mb(moment)}",
                field="memory budget",
                value=_mb(budget_bytes),
                remedy="raise the budget, or adapt fewer layers, the last ones first",
            )
        peak = self.peak_bytes(largest, cached=cached) + (cache if cached else 0)
        return Course(largest, cached, peak)

    @property
    def _held_bytes(self) -> int:
        return self.weights_bytes + (1 + _MOMENTS) * self.trained_bytes

    def _micro_batch(self, batch: int, budget_bytes: int, *, cached: bool) -> int:
        """The most windows that fit at once, in as few equal parts as that allows; 0 if none."""
        for parts in range(1, 2 if self.whole else batch + 1):
            size = math.ceil(batch / parts)
            if self.peak_bytes(size, cached=cached) <= budget_bytes:
                return size
        return 0


def plan(adapter: LeanLoraEdge, example: Tensor) -> Plan:
    """The plan of an adapter.

    Args:
        adapter: its trainables are left as they are.
        example: one window `(1, C, T)`; its values do not matter.
    """

    def windows(count: int) -> Tensor:
        return example[:1].expand(count, *example.shape[1:]).contiguous()

    saved_of_few, saved_of_many = (_saved(adapter, windows(n)) for n in (_FEW, _MANY))
    per_step = [
        math.ceil((later - first) / (_MANY - _FEW))
        for first, later in zip(saved_of_few, saved_of_many, strict=True)
    ]
    program = adapter.program
    held = _tensors(adapter)
    trained = [weight for group in adapter.groups().values() for weight in group]
    growth = Growth.of(
        lambda count: step_footprint(
            lambda given: adapter(given[0]), [windows(count)], trained, held
        ),
        _FEW,
        _MANY,
    )
    cached_growth, border_bytes = Growth(()), 0
    if program is not None and not program.uncacheable:
        resume, border_bytes = program.resume, _border_bytes(program, windows(1))
        cached_growth = Growth.of(
            lambda count: step_footprint(resume, _border(program, windows(count)), trained, held),
            _FEW,
            _MANY,
        )
        filling = (max(_fill_footprint(program, windows(FILL), held).alive), 0)
        cached_growth = Growth([*cached_growth.lines, filling])
    return Plan(
        layers=() if program is None else _layers(program, per_step),
        why=adapter.why,
        weights_bytes=sum(t.nbytes for t in held),
        trained_bytes=sum(weight.nbytes for weight in trained),
        fixed_bytes=max(0, sum(saved_of_few) - _FEW * sum(per_step)),
        window_bytes=sum(per_step),
        border_bytes=border_bytes,
        growth=tuple(growth.lines),
        cached_growth=tuple(cached_growth.lines),
        whole=any(normalises_by_batch(module) for module in adapter.base.modules()),
    )


def _saved(adapter: LeanLoraEdge, x: Tensor) -> list[int]:
    """Bytes that each step keeps of a batch; the whole as one if there are no steps."""
    with torch.enable_grad(), saved_for_backward(adapter) as saved:
        if adapter.program is None:
            adapter(x)
            return [saved.bytes]
        totals = [saved.bytes for _ in adapter.program.walk(x)]
    return [after - before for before, after in zip([0, *totals], totals, strict=False)]


@torch.no_grad()
def _border(program: Program, x: Tensor) -> list[Tensor]:
    """What a cache gives."""
    return program.given((value.half() for value in program.prefix(x)), x.dtype)


@torch.no_grad()
def _fill_footprint(program: Program, x: Tensor, known: list[Tensor]) -> Footprint:
    """That of windows on their way into a cache."""
    footprint = Footprint([*known, x])
    with footprint:
        program.prefix(x.clone())
    return footprint


def _border_bytes(program: Program, window: Tensor) -> int:
    """Of one window in a cache."""
    with torch.no_grad():
        return sum(value.numel() * torch.float16.itemsize for value in program.prefix(window))


def _layers(program: Program, saved: list[int]) -> tuple[LayerPlan, ...]:
    trained = {step.node for step in program.steps if step.trained}
    return tuple(
        LayerPlan(
            name=step.name,
            lean=step.trained and not step.why,
            why=step.why if step.trained else "",
            rank=getattr(_layer(step), "rank", 0) if step.trained else 0,
            trained=_trained(step),
            saved_bytes=size,
            macs=_macs(step, trained),
        )
        for step, size in zip(program.steps, saved, strict=True)
        if step.run is not operator.getitem
    )


def _layer(step: Step) -> Any:
    """The layer that a step is, or is half of."""
    return step.run.layer if isinstance(step.run, Mixture | Responses) else step.run


def _trained(step: Step) -> int:
    if isinstance(step.run, Replaced):
        return sum(s.extra.numel() for s in step.run.stand_ins.values() if s.extra is not None)
    if isinstance(step.run, Responses):
        return 0
    update, norm = (getattr(_layer(step), kind, None) for kind in ("update", "norm"))
    beta = None if norm is None else norm.beta
    return sum(t.numel() for t in (update and update.core, beta) if t is not None)


def _macs(step: Step, trained: set[Node]) -> int:
    """Of a convolution: with `[W_eff ; S]` forth, with `W_eff` back if somebody wants it there."""
    layer, out = _layer(step), shape(step.node)
    if not isinstance(layer, LeanConvolution) or out is None:
        return 0
    positions, taps = math.prod(out[2:]), layer.conv.weight[0].numel()
    maps, source = layer.conv.out_channels, step.inputs[0]
    mixing = maps * layer.rank
    if isinstance(step.run, Mixture):
        return positions * 2 * mixing
    forth = (maps + layer.geometry.groups * layer.rank) * taps
    if isinstance(step.run, Responses):
        return positions * forth
    back = maps * taps if source in trained else 0
    return positions * (forth + back + mixing)


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _mb(count: int) -> str:
    return f"{count / 1e6:.2f} MB"
