"""The training loop of the cores: flat, visible, and the only one on the device."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from edgetuner.adapt.adam import Adam
from edgetuner.config import AdaptConfig
from edgetuner.errors import AdaptationError
from edgetuner.peft.lean_lora_edge import LeanLoraEdge
from edgetuner.peft.lora_edge import LoraEdge
from edgetuner.peft.plan import Course
from edgetuner.peft.prefix import PrefixCache

WARM_UP = 0.1  # share of the steps
# Beta and head start near a solution, so they move slower than the cores, which start at zero.
RATES = {"cores": 1.0, "batch_norm_beta": 0.5, "head": 0.2}

Report = Callable[[int, float], None]


def train_cores(
    adapter: LoraEdge,
    x: Tensor,
    y: Tensor,
    settings: AdaptConfig,
    report: Report,
    course: Course | None = None,
) -> list[float]:
    """Adam on the adapter's trainables, warm-up then cosine, classes drawn evenly.

    Args:
        adapter: at step 0; its trainables are changed in place.
        x: normalised windows, float32 (N, C, T).
        y: class indices, int64 (N,).
        settings: steps, batch_size, learning_rate (peak, of the cores), label_smoothing, seed.
        report: called with the step and its loss.
        course: micro-batch and cache, which change what a step costs and not what it does; whole
            batches and no cache if None.

    Returns:
        The loss of every step.

    Raises:
        AdaptationError: a loss or gradient is not finite; nothing of the adapter may be used then.
    """
    draw = torch.Generator().manual_seed(settings.seed)
    draw_weight = (
        1.0 / torch.bincount(y)[y].float()
    )  # an activity seen for minutes must not drown the rest
    groups = {kind: weights for kind, weights in adapter.groups().items() if weights}
    optimiser = Adam(
        (weights, settings.learning_rate * RATES[kind]) for kind, weights in groups.items()
    )
    trained = [weight for weights in groups.values() for weight in weights]
    logits_of = _forward(adapter, x, course)
    losses = []
    for step in range(settings.steps):
        rows = torch.multinomial(draw_weight, settings.batch_size, replacement=True, generator=draw)
        optimiser.zero_grad()
        loss = 0.0
        # no batch norm couples the windows: the parts' gradients add up to that of the whole
        for part in torch.split(rows, course.micro_batch if course else settings.batch_size):
            share = torch.nn.functional.cross_entropy(
                logits_of(part),
                y[part],
                label_smoothing=settings.label_smoothing,
                reduction="sum",
            ) / len(rows)
            share.backward()  # type: ignore[no-untyped-call]
            loss += share.item()
        norm = torch.nn.utils.clip_grad_norm_(trained, 1.0)
        if not (math.isfinite(loss) and math.isfinite(norm.item())):
            raise AdaptationError(
                "the loss or its gradient is not finite",
                field=f"step {step}",
                value=loss,
                remedy="lower adapt.learning_rate; the champion stays",
            )
        optimiser.step(_schedule(step, settings.steps))
        losses.append(loss)
        report(step, loss)
    return losses


def _forward(adapter: LoraEdge, x: Tensor, course: Course | None) -> Callable[[Tensor], Tensor]:
    """Logits of the windows of some rows, from the cached prefix where the course has one."""
    if course is None or not course.cached:
        return lambda rows: adapter(x[rows])
    assert isinstance(adapter, LeanLoraEdge) and adapter.program is not None
    cache, program = PrefixCache(adapter, len(x)), adapter.program
    return lambda rows: program.resume(cache.border(rows.tolist(), x[rows]))


def _schedule(step: int, steps: int) -> float:
    warm = max(1, round(WARM_UP * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
