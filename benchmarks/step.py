"""What one step of fine-tuning costs: time as a ratio, and memory.

    python -m benchmarks.step --backbone t_resnet|mobilenet_v2 [--rounds N] [--json FILE]

The methods take turns within a round, and what counts is the median over the rounds of the ratio
within a round: milliseconds are those of this machine at this hour. A step is forward, backward and
Adam on one batch. Random windows: values change neither time nor memory.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.allocator import peak_allocated
from benchmarks.methods import METHODS, Method, Setting
from edgetuner.heap import keep_freed_memory
from edgetuner.models import build, count_weights
from edgetuner.peft.saved import saved_for_backward

CHANNELS, LENGTH, CLASSES = 97, 60, 17
ARGS: dict[str, dict[str, Any]] = {"t_resnet": {}, "mobilenet_v2": {"rgb": True}}
LAST_STAGE = {"t_resnet": ("blocks.2.",), "mobilenet_v2": ("features.17.", "features.18.")}
_ADAM = 2  # moments of each weight


def measure(
    backbone: str, *, rounds: int, batch: int = 64, rank: int = 2
) -> dict[str, dict[str, float]]:
    """Time and memory of every method, and of an inference forward."""
    setting = _setting(backbone, rank)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, CHANNELS, LENGTH, generator=generator)
    y = torch.randint(0, CLASSES, (batch,), generator=generator)
    methods = {name: make(setting) for name, make in METHODS.items()}
    weights = count_weights(setting.base)
    memory = {name: _memory(method, x, y, weights) for name, method in methods.items()}
    turns = {name: _stepper(method, x, y) for name, method in methods.items()}
    gc.freeze()  # as the training process does; it speeds up every method
    seconds = _take_turns(turns | {"inference": lambda: _infer(setting.base, x)}, rounds)
    gc.unfreeze()
    return {
        name: _times(own, seconds["full"], seconds["inference"]) | memory.get(name, {})
        for name, own in seconds.items()
    }


def _setting(backbone: str, rank: int) -> Setting:
    base = build(backbone, CHANNELS, LENGTH, CLASSES, ARGS[backbone]).eval()
    convolutions = {
        name: module
        for name, module in base.named_modules()
        if isinstance(module, nn.Conv1d | nn.Conv2d)
    }
    # of MobileNetV2 the pointwise ones, as in the papers compared with
    layers = tuple(
        name for name, conv in convolutions.items() if conv.weight.ndim == 3 or _pointwise(conv)
    )
    last = tuple(name for name in layers if name.startswith(LAST_STAGE[backbone]))
    return Setting(base, layers, last, rank, torch.zeros(2, CHANNELS, LENGTH))


def _pointwise(conv: nn.Conv1d | nn.Conv2d) -> bool:
    return conv.weight[0, 0].numel() == 1


def _memory(method: Method, x: Tensor, y: Tensor, weights: int) -> dict[str, float]:
    """Bytes kept of a forward pass, the training state with Adam, and the peak of a whole step."""
    prepared = method.prepare(x[: method.micro_batch])
    with saved_for_backward(*method.modules) as saved:
        method.forward(prepared)
    held = sum(
        tensor.nbytes
        for module in method.modules
        for tensor in (*module.parameters(), *module.buffers())
    )
    trained = sum(weight.nbytes for weight in method.trained)
    count = sum(weight.numel() for weight in method.trained)
    step = _stepper(method, x, y)
    step()  # gradients and moments are there from the first step on
    return {
        "saved_bytes": saved.bytes,
        "state_peak_bytes": held + (1 + _ADAM) * trained + saved.bytes,
        "peak_bytes": held + (1 + _ADAM) * trained + peak_allocated(step),
        "trained": count,
        "trained_fraction": count / weights,
    }


def _stepper(method: Method, x: Tensor, y: Tensor) -> Callable[[], None]:
    optimiser = torch.optim.Adam(method.trained, lr=1e-4)
    size = method.micro_batch or len(x)
    parts = [
        (method.prepare(windows), labels)
        for windows, labels in zip(torch.split(x, size), torch.split(y, size), strict=True)
    ]

    def step() -> None:
        optimiser.zero_grad(set_to_none=False)
        for windows, labels in parts:
            loss = nn.functional.cross_entropy(method.forward(windows), labels, reduction="sum")
            (loss / len(x)).backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    return step


@torch.inference_mode()
def _infer(base: nn.Module, x: Tensor) -> None:
    base(x)


def _take_turns(turns: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each, round by round; the first round, which warms up, is left out."""
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    for number in range(rounds + 1):
        for name, take in turns.items():
            start = time.perf_counter()
            take()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def _times(own: list[float], full: list[float], inference: list[float]) -> dict[str, float]:
    return {
        "step_ms": 1e3 * median(own),
        "ratio_to_full": median(a / b for a, b in zip(own, full, strict=True)),
        "ratio_to_inference": median(a / b for a, b in zip(own, inference, strict=True)),
    }


def _table(result: dict[str, dict[str, float]]) -> str:
    columns = ("/ full", "/ inference", "saved MB", "state MB", "peak MB", "trained", "fraction")
    widths = (8, 12, 9, 9, 9, 9, 9)
    head = "".join(name.rjust(width) for name, width in zip(columns, widths, strict=True))
    lines = [f"{'method':23}{head}"]
    for name, facts in result.items():
        line = f"{name:23}{facts['ratio_to_full']:8.3f}{facts['ratio_to_inference']:12.2f}"
        if "trained" in facts:
            sizes = (facts[key] / 1e6 for key in ("saved_bytes", "state_peak_bytes", "peak_bytes"))
            line += "{:9.3f}{:9.2f}{:9.1f}".format(*sizes)
            line += f"{facts['trained']:9.0f}{facts['trained_fraction']:9.4f}"
        lines.append(line)
    return "\n".join(lines)


def positive(text: str) -> int:
    """A whole number from 1, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--backbone", choices=ARGS, default="t_resnet")
    parser.add_argument("--rounds", type=positive, default=15)
    parser.add_argument("--batch", type=positive, default=64)
    parser.add_argument("--rank", type=positive, default=2)
    parser.add_argument("--threads", type=positive, default=1)
    parser.add_argument("--json", type=Path, help="where to write what was measured")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # as the training process does; it speeds up every method
    result = measure(
        options.backbone, rounds=options.rounds, batch=options.batch, rank=options.rank
    )
    print(_table(result))
    if options.json:
        facts = {k: v for k, v in vars(options).items() if k != "json"}
        facts["torch"] = torch.__version__
        methods = {name: entry for name, entry in result.items() if name != "inference"}
        inference_ms = result["inference"]["step_ms"]
        document = {**facts, "inference_ms": inference_ms, "methods": methods}
        options.json.write_text(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
