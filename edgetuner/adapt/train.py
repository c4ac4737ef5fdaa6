"""The training loop of the cores: flat, visible, and the only one on the device."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from edgetuner.config import AdaptConfig
from edgetuner.errors import AdaptationError
from edgetuner.peft.lora_edge import LoraEdge

WARM_UP = 0.1  # share of the steps
# Beta and head start near a solution, so they move slower than the cores, which start at zero.
RATES = {"cores": 1.0, "batch_norm_beta": 0.5, "head": 0.2}

Report = Callable[[int, float], None]


def train_cores(
    adapter: LoraEdge, x: Tensor, y: Tensor, settings: AdaptConfig, report: Report
) -> list[float]:
    """Adam on the adapter's trainables, warm-up then cosine, classes drawn evenly.

    Args:
        adapter: at step 0; its trainables are changed in place.
        x: normalised windows, float32 (N, C, T).
        y: class indices, int64 (N,).
        settings: steps, batch_size, learning_rate (peak, of the cores), label_smoothing, seed.
        report: called with the step and its loss.

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
    rates = [
        {"params": weights, "lr": settings.learning_rate * RATES[kind]}
        for kind, weights in groups.items()
    ]
    trained = [weight for weights in groups.values() for weight in weights]
    optimiser = torch.optim.Adam(rates)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda s: _schedule(s, settings.steps))
    losses = []
    for step in range(settings.steps):
        rows = torch.multinomial(draw_weight, settings.batch_size, replacement=True, generator=draw)
        loss = torch.nn.functional.cross_entropy(
            adapter(x[rows]), y[rows], label_smoothing=settings.label_smoothing
        )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(trained, 1.0)
        if not (math.isfinite(loss.item()) and math.isfinite(norm.item())):
            raise AdaptationError(
                "the loss or its gradient is not finite",
                field=f"step {step}",
                value=loss.item(),
                remedy="lower adapt.learning_rate; the champion stays",
            )
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
        report(step, losses[-1])
    return losses


def _schedule(step: int, steps: int) -> float:
    warm = max(1, round(WARM_UP * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
