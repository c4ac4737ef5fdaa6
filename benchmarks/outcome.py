"""What the rows of a comparison come to: numbers, a table, a picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import mean, pstdev
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt

OURS, RETAIN, FULL, PEER = "ladder", "retain", "full", "lora_c"
NAMES = {
    "full": "full fine-tuning",
    "head": "head, by gradient",
    "bias": "biases",
    "batch_norm": "batch norm",
    "lora_c": "LoRA-C",
    "lora_edge": "LoRA-Edge as published",
    "memflora": "MemFLoRA's geometry",
    "closed_head": "rung: head in closed form",
    "unlabelled": "rung: and unlabelled windows",
    "statistics": "rung: and target statistics",
    "cores": "rung: head and cores",
    "ladder": "**the ladder** (`follow`)",
    "retain": "**the ladder** (`retain`)",
}
_COLOURS = {
    "full": "#3d3d3a",
    "lora_c": "#c58b2a",
    "memflora": "#7a9e5f",
    "lora_edge": "#a8a8a2",
    "closed_head": "#8fb4dc",
    "ladder": "#1f5fa8",
    "retain": "#b0413e",
}
Row = dict[str, Any]
_CONDITIONS = """\
- Methods by gradient take 50 steps of 64 windows with Adam, at the best of three rates on
  validation windows of the target, chosen once a data set and backbone with all labels. The
  ladder has one rate for everything, which was found on these same data sets; its cores take 30
  steps and 3 more a convolution, 60 at most, warmed up and cooled down.
- LoRA-C, LoRA-Edge and MemFLoRA's geometry train no head, as published; the ladder always solves
  one. It also reads the windows of the target that have no label, and twelve windows a class of
  the source.
- *Trained*: weights found from labels, of all weights. A head of the ladder counts by the
  directions of the features that it weighs; which these are was found on the target without
  labels.
- *Gap*: points of macro-F1 behind full fine-tuning (batch norm in training mode); *worst*: of
  all settings. *±*: the spread over settings, not over seeds. *95 % of full after*: median of
  the runs that got there. The clock starts at raw windows; suffixes of ours come with the
  version."""


def summary(rows: Sequence[Row]) -> dict[str, float]:
    """Over all settings: a setting is a shift, a backbone and a label budget."""
    result: dict[str, float] = {}
    gaps = gaps_of(rows, OURS)
    if gaps:
        result |= {"mean_gap": mean(gaps.values()), "worst_gap": max(gaps.values())}
        few = [gap for setting, gap in gaps.items() if setting[-1] == 5]
        result |= {"gap_at_5_labels": mean(few)} if few else {}
    for name, key in ((FULL, "speedup_95_vs_full"), (PEER, "speedup_95_vs_lora_c")):
        ratios = list(_speedups(rows, name))
        if ratios:
            result[key] = math.exp(mean(map(math.log, ratios)))
    timed = [row for row in rows if row["method"] == OURS and "seconds_to_95" in row]
    if timed:
        result["reached_95"] = mean(row["seconds_to_95"] is not None for row in timed)
    kept = [row for row in rows if row["method"] == RETAIN]
    if kept:
        result["retain_forgetting"] = mean(map(_forgotten, kept))
        behind = gaps_of(rows, RETAIN)
        result |= {"retain_gap": mean(behind.values())} if behind else {}
    fractions = [row["trained_fraction"] for row in rows if row["method"] == OURS]
    return result | ({"trained_fraction": mean(fractions)} if fractions else {})


def gaps_of(rows: Sequence[Row], name: str) -> dict[tuple[Any, ...], float]:
    """Points behind full fine-tuning by setting, as means over seeds."""
    means: dict[tuple[Any, ...], dict[str, list[float]]] = {}
    for row in rows:
        if row["method"] in (name, FULL):
            scores = means.setdefault(_setting(row), {})
            scores.setdefault(row["method"], []).append(row["f1_target"])
    return {
        setting: 100 * (mean(scores[FULL]) - mean(scores[name]))
        for setting, scores in means.items()
        if FULL in scores and name in scores
    }


def _speedups(rows: Iterable[Row], other: str) -> Iterable[float]:
    """Seconds of the other over ours to 95 % of full fine-tuning's F1, of the runs in which ours
    got there: `reached_95` says how many.

    A run of the other's that never gets there counts with all the time that it took, in its favour.
    """
    runs: dict[tuple[Any, ...], dict[str, Row]] = {}
    for row in rows:
        runs.setdefault((*_setting(row), row["seed"]), {})[row["method"]] = row
    for methods in runs.values():
        if other in methods and OURS in methods and methods[OURS].get("seconds_to_95") is not None:
            theirs = methods[other]["seconds_to_95"] or methods[other]["seconds_total"]
            yield theirs / methods[OURS]["seconds_to_95"]


def _setting(row: Row) -> tuple[Any, ...]:
    return tuple(row[key] for key in ("dataset", "shift", "backbone", "labels_per_class"))


def _forgotten(row: Row) -> float:
    return float(100 * (row["f1_source_before"] - row["f1_source_after"]))


def page(rows: Sequence[Row]) -> str:
    """Markdown: under what conditions, and what came of it."""

    def distinct(key: str) -> str:
        return ", ".join(dict.fromkeys(str(row[key]) for row in rows))

    shifts = len({(row["dataset"], row["shift"]) for row in rows})
    seeds: dict[tuple[Any, ...], set[int]] = {}
    for row in rows:
        seeds.setdefault(_setting(row), set()).add(row["seed"])
    fewest, most = min(map(len, seeds.values())), max(map(len, seeds.values()))
    each = f"{fewest} to {most} seeds" if fewest < most else f"{most} seed{'s' * (most > 1)}"
    return "\n".join(
        [
            "# How well every method adapts, and how soon",
            "",
            "Made by `.venv/bin/python -m benchmarks.accuracy`; do not edit.",
            "",
            f"{shifts} shifts of {distinct('dataset')}; backbones {distinct('backbone')}; "
            f"{len(seeds)} settings of shift, backbone and label budget, {each} each; one "
            "thread a run, a run for each core side by side. Splits are by time and by person.",
            "",
            _CONDITIONS,
            "",
            table(rows),
            "",
        ]
    )


def table(rows: Sequence[Row]) -> str:
    """Markdown: every method over all settings, then the gap of ours by backbone and budget."""
    lines = [
        "| method | trained | macro-F1 | gap to full | worst | no worse than it, of all settings "
        "| source F1 lost | 95 % of full after |",
        "|---|---|---|---|---|---|---|---|",
    ]
    names = list(dict.fromkeys(row["method"] for row in rows))
    if rows:
        zero = mean(row["f1_zero_shot"] for row in rows)
        lines.append(f"| as it came | 0 | {zero:.3f} | | | | 0 | |")
    for name in names:
        own = [row for row in rows if row["method"] == name]
        scores = [row["f1_target"] for row in own]
        cells = [
            NAMES.get(name, name),
            f"{100 * mean(row['trained_fraction'] for row in own):.2f} %",
            f"{mean(scores):.3f} ± {pstdev(scores):.3f}",
            *_gap_cells(rows, name),
            f"{mean(map(_forgotten, own)):.1f}",
            _when(own),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *_by_budget(rows)])


def _gap_cells(rows: Sequence[Row], name: str) -> tuple[str, str, str]:
    gaps = gaps_of(rows, name)
    if not gaps:
        return "", "", ""
    ours = gaps_of(rows, OURS)
    both = [setting for setting in gaps if setting in ours]
    wins = sum(ours[setting] <= gaps[setting] for setting in both)
    share = f"{wins} / {len(both)}" if both and name != OURS else ""
    return f"{mean(gaps.values()):+.1f}", f"{max(gaps.values()):+.1f}", share


def _when(rows: Sequence[Row]) -> str:
    times = [row.get("seconds_to_95") for row in rows]
    reached = [seconds for seconds in times if seconds is not None]
    if not reached:
        return "never"
    return f"{float(np.median(reached)):.2f} s ({len(reached)} of {len(times)})"


def _by_budget(rows: Sequence[Row]) -> list[str]:
    """The gap of the ladder to full fine-tuning, a line a backbone."""
    gaps = gaps_of(rows, OURS)
    if not gaps:
        return []
    budgets = sorted({s[-1] for s in gaps}, key=lambda b: math.inf if b is None else b)
    lines = [
        "Points of macro-F1 that the ladder is behind full fine-tuning, by labels a class "
        "(negative: ahead), and over how many shifts:",
        "",
        f"| backbone | {' | '.join('all' if b is None else str(b) for b in budgets)} |",
        f"|---|{'---|' * len(budgets)}",
    ]
    for backbone in dict.fromkeys(setting[2] for setting in gaps):
        cells = []
        for budget in budgets:
            here = [g for s, g in gaps.items() if s[2] == backbone and s[-1] == budget]
            cells.append(f"{mean(here):+.1f} ({len(here)})" if here else "")
        lines.append(f"| {backbone} | {' | '.join(cells)} |")
    return lines


def picture(rows: Sequence[Row], path: Path) -> None:
    """F1 against seconds, F1 against labels, and what of the source is forgotten."""
    figure, panels = plt.subplots(1, 3, figsize=(14, 4.4), layout="constrained")
    shown = [name for name in _COLOURS if any(row["method"] == name for row in rows)]
    _against_seconds(panels[0], rows, shown)
    _against_labels(panels[1], rows, shown)
    _against_forgetting(panels[2], rows, shown)
    panels[0].legend(frameon=False, fontsize=8, loc="lower right")
    for axes in panels:
        axes.grid(color="#e4e4df", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _plain(name: str) -> str:
    return NAMES[name].replace("**", "").replace("`", "")


def _against_seconds(axes: Any, rows: Sequence[Row], shown: Sequence[str]) -> None:
    """The mean over all runs of what had been reached by then; before anything, as it came."""
    at = np.geomspace(0.03, max(row["seconds_total"] for row in rows) + 0.1, 120)
    for name in shown:
        curves = [_reached(row, at) for row in rows if row["method"] == name]
        wide = 2.4 if name in (OURS, RETAIN) else 1.3
        axes.plot(at, np.mean(curves, axis=0), color=_COLOURS[name], lw=wide, label=_plain(name))
    axes.set(xscale="log", xlabel="seconds of work, from raw windows", ylabel="macro-F1, target")
    axes.set_title("F1 against time, mean of all runs", fontsize=10)


def _reached(row: Row, at: Any) -> Any:
    seconds, f1 = zip((0.0, row["f1_zero_shot"]), *row["points"], strict=True)
    return np.asarray(f1)[np.searchsorted(seconds, at, side="right") - 1]


def _against_labels(axes: Any, rows: Sequence[Row], shown: Sequence[str]) -> None:
    """Backbones that were run with the most budgets, or the mean would be of other nets each
    time.
    """
    run_with = {
        backbone: {r["labels_per_class"] for r in rows if r["backbone"] == backbone}
        for backbone in dict.fromkeys(row["backbone"] for row in rows)
    }
    most = max(run_with.values(), key=len)
    whole = [backbone for backbone, budgets in run_with.items() if budgets == most]
    budgets = sorted(most, key=lambda b: math.inf if b is None else b)
    for name in shown:
        means = [
            mean(
                row["f1_target"]
                for row in rows
                if (row["method"], row["labels_per_class"]) == (name, budget)
                and row["backbone"] in whole
            )
            for budget in budgets
        ]
        wide = 2.4 if name in (OURS, RETAIN) else 1.3
        axes.plot(range(len(budgets)), means, "o-", ms=4, color=_COLOURS[name], lw=wide)
    axes.set_xticks(range(len(budgets)), ["all" if b is None else str(b) for b in budgets])
    axes.set(xlabel="labelled windows a class", ylabel="macro-F1, target")
    axes.set_title(f"F1 against labels ({', '.join(whole)})", fontsize=10)


def _against_forgetting(axes: Any, rows: Sequence[Row], shown: Sequence[str]) -> None:
    value: Callable[[Sequence[Row]], tuple[float, float]] = lambda own: (  # noqa: E731
        mean(map(_forgotten, own)),
        mean(row["f1_target"] for row in own),
    )
    for name in shown:
        lost, f1 = value([row for row in rows if row["method"] == name])
        axes.scatter(lost, f1, s=60, color=_COLOURS[name], zorder=3)
        axes.annotate(
            _plain(name), (lost, f1), xytext=(6, 5), textcoords="offset points", fontsize=8
        )
    axes.set(xlabel="points of macro-F1 lost on the source", ylabel="macro-F1, target")
    axes.margins(x=0.25, y=0.15)
    axes.set_title("What is forgotten", fontsize=10)
