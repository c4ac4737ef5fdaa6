"""What the lean form's savings do to what is learned: macro-F1 beside that of plain autograd.

    python -m benchmarks.precision [--seeds N] [--skip-bfloat16] [--out FOLDER]

The demo's model, trained on right wrists, is adapted to the left wrists of two people that it does
not know: ten labelled windows a class from the first half of each recording, and what comes after a
gap of one window, the last two fifths, is the test. All forms take the same steps on the same
draws. A CPU without instructions for brain floats takes a quarter of an hour for them alone.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.report import RESULTS
from demo.bundle import OUT, PAIR
from demo.recordings import watch_windows
from edgetuner.adapt.ladder import predict
from edgetuner.adapt.train import train_cores
from edgetuner.bundle import Bundle
from edgetuner.config import AdaptConfig
from edgetuner.data import WindowSet
from edgetuner.factories import build_module
from edgetuner.metrics import macro_f1
from edgetuner.peft.lean_lora_edge import LeanLoraEdge
from edgetuner.peft.lora_edge import LoraEdge
from edgetuner.peft.plan import Course

LABELS_PER_CLASS = 10
SETTINGS = AdaptConfig(steps=60)
_WHOLE = Course(SETTINGS.batch_size, cached=False, peak_bytes=0)


@dataclass(frozen=True)
class Form:
    """A way to take the same steps."""

    title: str
    options: dict[str, Any] | None  # of `LeanLoraEdge`; None: plain autograd
    course: Course = _WHOLE


FORMS = {
    "plain": Form("plain autograd, float32", None),
    "lean": Form("lean, float32", {}),
    "lean_fp16_q": Form("lean, q in float16", {"q_dtype": torch.float16}),
    "lean_micro_8": Form("lean, 8 windows at once", {}, Course(8, False, 0)),
    "lean_cached": Form(
        "lean, first layers cached in float16",
        {"apart": True},
        Course(SETTINGS.batch_size, cached=True, peak_bytes=0),
    ),
    "lean_bfloat16": Form("lean, bfloat16", {"dtype": torch.bfloat16}),
}


@dataclass(frozen=True)
class Split:
    """Normalised windows `(N, C, T)` and labels to learn from, and to be judged on."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: NDArray[np.int64]


def split(bundle: Bundle, seed: int) -> Split:
    """By time within each recording, with a gap of one window, since neighbours share samples."""
    windows = watch_windows().select(subject=PAIR, position="left_wrist")
    learn, test = _halves(windows)
    draw = np.random.default_rng(seed)
    chosen = np.concatenate(
        [draw.permutation(learn[windows.y[learn] == k])[:LABELS_PER_CLASS] for k in range(7)]
    )
    scaled = (windows.x - bundle.mean[:, None]) / bundle.std[:, None]
    x = torch.from_numpy(scaled.astype(np.float32))
    y = torch.from_numpy(windows.y)
    return Split(x[chosen], y[chosen], x[test], windows.y[test])


def _halves(windows: WindowSet) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    learn, test = [], []
    for recording in np.unique(windows.groups["recording"]):
        rows = np.flatnonzero(windows.groups["recording"] == recording)
        rows = rows[np.argsort(windows.groups["t"][rows])]
        half, rest = len(rows) // 2, max(len(rows) // 2 + 1, round(0.6 * len(rows)))
        learn.append(rows[:half])
        test.append(rows[rest:])
    return np.concatenate(learn), np.concatenate(test)


def adapt(module: nn.Module, form: Form, data: Split, seed: int) -> NDArray[np.int64]:
    """Classes of the test windows after the cores were trained."""
    shared: dict[str, Any] = {"rank": SETTINGS.rank, "batch_norm_beta": True, "head": "head"}
    adapter: LoraEdge
    if form.options is None:
        adapter = LoraEdge(module, **shared)
    else:
        adapter = lean = LeanLoraEdge(module, data.x[:2], **shared, **form.options)
        assert lean.program is not None, lean.why
    settings = SETTINGS.model_copy(update={"seed": seed})
    train_cores(adapter, data.x, data.y, settings, lambda *_: None, form.course)
    return _classes(module, adapter.fused_state(), data.test_x)


def _classes(module: nn.Module, state: dict[str, Tensor], x: Tensor) -> NDArray[np.int64]:
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    module.load_state_dict(state)
    found = predict(module, x)
    module.load_state_dict(before)
    return found


def measure(
    forms: dict[str, Form], seeds: int, report: Callable[[str], None]
) -> dict[str, dict[str, Any]]:
    """F1 of every seed, and the share of test windows that plain autograd calls otherwise."""
    bundle = Bundle.load(OUT)
    module = build_module(bundle)
    result: dict[str, dict[str, Any]] = {name: {"f1": [], "differs": []} for name in forms}
    zero_shot = []
    for seed in range(seeds):
        data = split(bundle, seed)
        zero_shot.append(macro_f1(data.test_y, predict(module, data.test_x)))
        answers: dict[str, NDArray[np.int64]] = {}
        for name, form in forms.items():
            answers[name] = adapt(module, form, data, seed)
            result[name]["f1"].append(macro_f1(data.test_y, answers[name]))
            differs = answers[name] != answers["plain"]
            result[name]["differs"].append(float(differs.mean()))
            report(f"seed {seed}  {form.title:40} F1 {result[name]['f1'][-1]:.3f}")
    return {"zero_shot": {"f1": zero_shot, "windows": len(data.test_y)}, **result}


def page(result: dict[str, dict[str, Any]], seeds: int) -> str:
    """Markdown."""
    lines = [
        "# What the lean form does to what is learned",
        "",
        "Made by `.venv/bin/python -m benchmarks.precision`; do not edit.",
        "",
        f"Right wrist to the left wrist of two people the model does not know; {LABELS_PER_CLASS} "
        f"labels a class, split by time, {SETTINGS.steps} steps, rank {SETTINGS.rank}, {seeds} "
        f"seeds. *Otherwise*: of the {result['zero_shot']['windows']} test windows, those that get "
        "another class than from plain autograd.",
        "",
        "| form | macro-F1, mean (spread) | otherwise |",
        "|---|---|---|",
        f"| before | {mean(result['zero_shot']['f1']):.3f} | - |",
    ]
    for name, form in FORMS.items():
        if name in result:
            f1 = result[name]["f1"]
            spread = f" ({stdev(f1):.3f})" if len(f1) > 1 else ""
            otherwise = mean(result[name]["differs"])
            lines.append(f"| {form.title} | {mean(f1):.3f}{spread} | {100 * otherwise:.1f} % |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--skip-bfloat16", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    forms = dict(FORMS)
    if options.skip_bfloat16:
        del forms["lean_bfloat16"]
    result = measure(forms, options.seeds, lambda line: print(line, flush=True))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "precision.json").write_text(json.dumps(result, indent=1) + "\n")
    (options.out / "precision.md").write_text(page(result, options.seeds))


if __name__ == "__main__":
    main()
