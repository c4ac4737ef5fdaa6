"""The training loop of the cores: flat, visible, and the only one on the device."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from edgetuner.adapt.adam import Adam
from edgetuner.adapt.gradient import Forward, Gradient, GraphedGradient
from edgetuner.config import AdaptConfig
from edgetuner.errors import AdaptationError
from edgetuner.peft.lean_lora_edge import LeanLoraEdge
from edgetuner.peft.lora_edge import LoraEdge
from edgetuner.peft.plan import Course
from edgetuner.peft.prefix import PrefixCache

WARM_UP = 0.1  # share of the steps
_MOST = 0.15  # of a kernel in a step, however few there are
_STEPS, _STEPS_A_LAYER, _STEPS_AT_MOST = 30, 3, 60  # three layers are there before eleven are
# Beta and head start near a solution, so they move slower than the cores, which start at zero.
_RATES = {"cores": 1.0, "batch_norm_beta": 0.5, "head": 0.2}

Report = Callable[[int, float], None]


def train_cores(
    adapter: LoraEdge,
    x: Tensor,
    y: Tensor,
    settings: AdaptConfig,
    report: Report,
    course: Course | None = None,
    weights: Tensor | None = None,
) -> list[float]:
    """Adam on the adapter's trainables, warm-up then cosine, rows drawn by their weights.

    The learning rate is relative to what is trained (`LoraEdge.scales`), and shared out over the
    layers: all of them pull the same way, so what each changes adds up on the way to the logits.
    So the same rate suits three convolutions and fifty.

    Args:
        adapter: at step 0; its trainables are changed in place.
        x: normalised windows, float32 (N, C, T).
        y: class indices, int64 (N,).
        settings: steps (by `steps_of` if None), batch_size, learning_rate (peak, of the cores),
            label_smoothing, seed.
        report: called with the step and its loss.
        course: micro-batch and cache, which change what a step costs and not what it does; whole
            batches and no cache if None.
        weights: how often each window is drawn, (N,), not negative; each class as often as any
            other if None.

    Returns:
        The loss of every step.

    Raises:
        AdaptationError: a loss or gradient is not finite; nothing of the adapter may be used then.
    """
    draw = torch.Generator().manual_seed(settings.seed)
    labels = y.cpu()  # the same draws on every device
    if weights is None:  # an activity seen for minutes must not drown the rest
        weights = 1.0 / torch.bincount(labels)[labels].float()
    optimiser = Adam(_rates(adapter, settings.learning_rate))
    trained = [weight for kind in adapter.groups().values() for weight in kind]
    course = course or Course(settings.batch_size, cached=False, peak_bytes=0)
    gather, forward = _source(adapter, x, course)
    if uses_graph(adapter, x, settings):
        gradient: Gradient = GraphedGradient(
            forward, settings.batch_size, settings.label_smoothing, trained
        )
    else:
        gradient = Gradient(forward, settings.batch_size, settings.label_smoothing)
    steps = settings.steps or steps_of(len(adapter.layers))
    losses = []
    for step in range(steps):
        rows = torch.multinomial(weights, settings.batch_size, replacement=True, generator=draw)
        optimiser.zero_grad()
        # no batch norm couples the windows: the parts' gradients add up to that of the whole
        parts = torch.split(rows, course.micro_batch)
        loss = sum(gradient.add(gather(part), y[part]).item() for part in parts)
        norm = torch.nn.utils.clip_grad_norm_(trained, 1.0)
        if not (math.isfinite(loss) and math.isfinite(norm.item())):
            raise AdaptationError(
                "the loss or its gradient is not finite",
                field=f"step {step}",
                value=loss,
                remedy="lower adapt.learning_rate; the champion stays",
            )
        optimiser.step(_schedule(step, steps))
        losses.append(loss)
        report(step, loss)
    return losses


def steps_of(layers: int) -> int:
    """How many steps the cores of so many convolutions get, where none were asked for."""
    return min(_STEPS + _STEPS_A_LAYER * layers, _STEPS_AT_MOST)


def _rates(adapter: LoraEdge, rate: float) -> list[tuple[list[torch.nn.Parameter], float]]:
    scales = {id(weight): scale for weight, scale in adapter.scales()}
    share = min(rate / len(adapter.layers), _MOST)
    return [
        ([weight], share * _RATES[kind] * scales[id(weight)])
        for kind, weights in adapter.groups().items()
        for weight in weights
    ]


def uses_graph(adapter: LoraEdge, x: Tensor, settings: AdaptConfig) -> bool:
    """Whether steps are launched as one: what is not lean may wait for the device in between."""
    lean = isinstance(adapter, LeanLoraEdge) and not adapter.not_lean
    return settings.cuda_graph and x.is_cuda and lean


def _source(
    adapter: LoraEdge, x: Tensor, course: Course
) -> tuple[Callable[[Tensor], Sequence[Tensor]], Forward]:
    """What a step reads of some rows, and the logits of that: windows, or the cached border."""
    if not course.cached:
        return lambda rows: [x[rows]], lambda inputs: adapter(inputs[0])
    assert isinstance(adapter, LeanLoraEdge) and adapter.program is not None
    cache = PrefixCache(adapter, len(x))
    return lambda rows: cache.border(rows.tolist(), x[rows]), adapter.program.resume


def _schedule(step: int, steps: int) -> float:
    warm = max(1, round(WARM_UP * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
