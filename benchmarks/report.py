"""Measures a step of every method on both backbones, and leaves table and picture behind.

    python -m benchmarks.report [--rounds N] [--out FOLDER]

About three minutes on a core that nobody else uses. See `benchmarks.step` for how it measures.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import torch

from benchmarks.step import ARGS, measure, positive
from edgetuner.heap import keep_freed_memory

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.lines import Line2D

RESULTS = Path(__file__).parent / "results"
TITLES = {"t_resnet": "T-ResNet", "mobilenet_v2": "MobileNetV2"}
NAMES = {
    "full": "full fine-tuning",
    "head": "head alone",
    "bias": "biases",
    "batch_norm": "batch norm",
    "lora_c": "LoRA-C",
    "memflora": "MemFLoRA's geometry",
    "lora_edge": "LoRA-Edge, plain autograd",
    "lora_edge_lean": "LoRA-Edge, lean",
    "lora_edge_fp16": "lean, q in float16",
    "lora_edge_micro_8": "lean, 8 windows at once",
    "lora_edge_first_cached": "lean, first layers cached",
    "lora_edge_cached": "lean, last stage alone, rest cached",
}
_OURS = "#1f5fa8"
_THEIRS = "#8a8a85"
Result = dict[str, dict[str, float]]


def table(backbone: str, result: Result) -> str:
    """Markdown: a row for each method."""
    lines = [
        f"### {TITLES[backbone]}",
        "",
        "| method | step / full | step / inference | kept, MB | state, MB | peak, MB | trained |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, title in NAMES.items():
        facts = result[name]
        lines.append(
            f"| {title} | {facts['ratio_to_full']:.3f} | {facts['ratio_to_inference']:.2f} "
            f"| {facts['saved_bytes'] / 1e6:.3f} | {facts['state_peak_bytes'] / 1e6:.2f} "
            f"| {facts['peak_bytes'] / 1e6:.1f} | {100 * facts['trained_fraction']:.2f} % |"
        )
    return "\n".join(lines)


def draw(results: dict[str, Result], path: Path) -> None:
    """A row for each method: time of a step, what it keeps, and its peak."""
    columns: tuple[tuple[str, Callable[[dict[str, float]], float], Any], ...] = (
        ("time of a step / full fine-tuning", lambda facts: facts["ratio_to_full"], "linear"),
        ("kept for the backward pass, MB", lambda facts: facts["saved_bytes"] / 1e6, "log"),
        ("peak, without the cache, MB", lambda facts: facts["peak_bytes"] / 1e6, "log"),
    )
    figure, panels = plt.subplots(1, len(columns), figsize=(12, 4.8), layout="constrained")
    rows = {name: len(NAMES) - row for row, name in enumerate(NAMES)}
    for axes, (title, value, scale) in zip(panels, columns, strict=True):
        for backbone, result in results.items():
            for name, row in rows.items():
                colour = _OURS if name.startswith("lora_edge_") else _THEIRS
                face = colour if backbone == "t_resnet" else "white"
                axes.scatter(value(result[name]), row, s=46, ec=colour, color=face, zorder=3)
        axes.set(title=title, xscale=scale, yticks=list(rows.values()))
        axes.set_yticklabels(NAMES.values() if axes is panels[0] else [])
        axes.grid(alpha=0.3)
    panels[0].set_xlim(0, 1.06)
    for label, name in zip(panels[0].get_yticklabels(), NAMES, strict=True):
        label.set_color(_OURS if name.startswith("lora_edge_") else "#333")
    figure.legend(
        handles=[
            Line2D([], [], marker="o", ls="", mec="#444", mfc=fill, label=TITLES[backbone])
            for backbone, fill in (("t_resnet", "#444"), ("mobilenet_v2", "white"))
        ],
        loc="outside lower center",
        ncols=2,
        frameon=False,
    )
    figure.savefig(path, dpi=130)
    plt.close(figure)


def page(results: dict[str, Result], settings: dict[str, Any]) -> str:
    """The whole Markdown page."""
    head = (
        "# What one step costs\n\n"
        "Made by `.venv/bin/python -m benchmarks.report`; do not edit.\n\n"
        f"Batch {settings['batch']}, rank {settings['rank']}, windows of 97 x 60, 17 classes, "
        f"{settings['threads']} thread, {settings['rounds']} rounds in which the methods took "
        "turns; ratios are medians over the rounds. *Kept*: for the backward pass, by autograd. "
        "*State*: weights, gradients, Adam's moments and what is kept. *Peak*: the most that torch "
        "held at once, feature maps on their way included; of a method that caches, without its "
        "cache. MobileNetV2 sees the window as an image of three equal colours, and its pointwise "
        "convolutions are adapted. No row says how well a method learns.\n\n"
        "![step time and memory](step.png)\n\n"
    )
    return head + "\n\n".join(table(name, result) for name, result in results.items()) + "\n"


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=positive, default=15)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    settings = {"batch": 64, "rank": 2, "threads": 1, "rounds": options.rounds}
    torch.set_num_threads(settings["threads"])
    keep_freed_memory()
    results = {
        backbone: measure(backbone, rounds=options.rounds, batch=64, rank=2) for backbone in ARGS
    }
    options.out.mkdir(parents=True, exist_ok=True)
    document = json.dumps({"settings": settings, "results": results}, indent=1) + "\n"
    (options.out / "step.json").write_text(document)
    (options.out / "step.md").write_text(page(results, settings))
    draw(results, options.out / "step.png")


if __name__ == "__main__":
    main()
