"""How well every method adapts, and how soon: real shifts, label budgets, seeds.

    python -m benchmarks.accuracy [--quick] [--json FILE]
    python -m benchmarks.accuracy --data FILE.npz --source position=0 --target position=1

Every method that has a learning rate chooses it on the last part in time of what it may learn from,
once a shift and backbone, and never on the test. Rows are one run each; gaps in the summary are in
points of macro-F1, positive where full fine-tuning is ahead, and what was not measured is absent.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from benchmarks.learners import LEARNERS, Curve
from benchmarks.shifts import SHIFTS, Case, Shift, case
from edgetuner.adapt.ladder import predict
from edgetuner.data import parse_selectors
from edgetuner.heap import keep_freed_memory
from edgetuner.metrics import macro_f1

OURS, FULL, PEER = "ladder", "full", "lora_c"
VALIDATION = 0.3  # of what is learned from, its last part in time
_SHARES = (85, 95, 100)  # per cent of full fine-tuning's final F1
Row = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What is compared on one shift.

    Attributes:
        budgets: labels a class; None for all.
    """

    shift: Shift
    backbone: str
    stranger: int | None
    budgets: tuple[int | None, ...]
    seeds: int
    methods: tuple[str, ...]


def run(plan: Plan) -> list[Row]:
    """A row for each method, budget and seed; methods take turns within a seed."""
    torch.set_num_threads(1)
    keep_freed_memory()
    at = case(plan.shift, plan.backbone, plan.stranger)
    rates = {name: choose_rate(at, name) for name in plan.methods}
    before = _f1(at, at.test.x, at.test.y), _f1(at, at.home.x, at.home.y)
    rows = []
    for budget in plan.budgets:
        for seed in range(plan.seeds):
            labelled = at.labelled(budget, seed)
            curves = {
                name: LEARNERS[name][0](at, labelled, seed, rates[name]) for name in plan.methods
            }
            goal = curves[FULL].f1 if FULL in curves else None
            for name, curve in curves.items():
                known = {
                    "dataset": plan.shift.dataset,
                    "shift": plan.shift.name,
                    "backbone": plan.backbone,
                    "stranger": plan.stranger,
                    "method": name,
                    "seed": seed,
                    "labels_per_class": budget,
                    "learning_rate": rates[name],
                    "f1_zero_shot": before[0],
                    "f1_source_before": before[1],
                }
                rows.append(known | _outcome(curve, goal))
    return rows


def _outcome(curve: Curve, goal: float | None) -> Row:
    row: Row = {
        "f1_target": curve.f1,
        "f1_source_after": curve.home_f1,
        "trained_fraction": curve.trained_fraction,
        "seconds_total": curve.points[-1][0],
    }
    if goal is not None:
        for share in _SHARES:
            row[f"seconds_to_{share}"] = curve.seconds_to(goal * share / 100)
    return row


def choose_rate(at: Case, name: str) -> float:
    """The learning rate that does best on validation windows, with all other labels."""
    learn, rates = LEARNERS[name]
    if len(rates) == 1:
        return rates[0]
    early, late = at.pool.split_by_time(VALIDATION, at.shift.gap)
    trial = replace(at, pool=early, test=late)
    scores = {rate: learn(trial, early, 0, rate).f1 for rate in rates}
    return max(scores, key=lambda rate: scores[rate])


def _f1(at: Case, x: Any, y: Any) -> float:
    return macro_f1(y, predict(at.module, at.scaled(x)))


def summary(rows: Sequence[Row]) -> dict[str, float]:
    """Over all settings: a setting is a shift, a backbone and a label budget."""
    gaps = {setting: 100 * (full - ours) for setting, full, ours in _paired(rows, FULL)}
    result: dict[str, float] = {}
    if gaps:
        result |= {"mean_gap": mean(gaps.values()), "worst_gap": max(gaps.values())}
        few = [gap for setting, gap in gaps.items() if setting[-1] == 5]
        result |= {"gap_at_5_labels": mean(few)} if few else {}
    for name, key in ((FULL, "speedup_95_vs_full"), (PEER, "speedup_95_vs_lora_c")):
        ratios = list(_speedups(rows, name))
        if ratios:
            result[key] = math.exp(mean(map(math.log, ratios)))
    return result


def _paired(rows: Iterable[Row], other: str) -> list[tuple[tuple[Any, ...], float, float]]:
    """Mean F1 over the seeds of the other method and of ours, by setting."""
    by_setting: dict[tuple[Any, ...], dict[str, list[float]]] = {}
    for row in rows:
        by_setting.setdefault(_setting(row), {}).setdefault(row["method"], []).append(
            row["f1_target"]
        )
    return [
        (setting, mean(methods[other]), mean(methods[OURS]))
        for setting, methods in by_setting.items()
        if other in methods and OURS in methods
    ]


def _speedups(rows: Iterable[Row], other: str) -> Iterable[float]:
    """Seconds of the other over ours to 95 % of full fine-tuning's F1, run by run.

    A run that never gets there counts with all the time that it took: the ratio is then a bound,
    in favour of the other where that did not get there.
    """
    runs: dict[tuple[Any, ...], dict[str, Row]] = {}
    for row in rows:
        runs.setdefault((*_setting(row), row["seed"]), {})[row["method"]] = row
    for methods in runs.values():
        if other in methods and OURS in methods and "seconds_to_95" in methods[OURS]:
            theirs, ours = (
                methods[name]["seconds_to_95"] or methods[name]["seconds_total"]
                for name in (other, OURS)
            )
            yield theirs / ours


def _setting(row: Row) -> tuple[Any, ...]:
    keys = ("dataset", "shift", "backbone", "stranger", "labels_per_class")
    return tuple(row[key] for key in keys)


def table(rows: Sequence[Row]) -> str:
    """Mean over settings of every method: F1, gap to full fine-tuning, forgetting, time."""
    lines = [
        "| method | trained | macro-F1 | gap to full | worst gap | source F1 lost | s to 95 % |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == name]
        gaps = _gaps(rows, name)
        lost = mean(100 * (row["f1_source_before"] - row["f1_source_after"]) for row in own)
        reached = [row["seconds_to_95"] for row in own if row.get("seconds_to_95") is not None]
        when = f"{mean(reached):.1f} ({len(reached)} of {len(own)})" if reached else "-"
        lines.append(
            f"| {name} | {100 * mean(row['trained_fraction'] for row in own):.2f} % "
            f"| {mean(row['f1_target'] for row in own):.3f} "
            f"| {mean(gaps):+.1f} | {max(gaps):+.1f} | {lost:.1f} | {when} |"
            if gaps
            else f"| {name} | | {mean(row['f1_target'] for row in own):.3f} | | | {lost:.1f} | |"
        )
    return "\n".join(lines)


def _gaps(rows: Sequence[Row], name: str) -> list[float]:
    """Points behind full fine-tuning, by setting."""
    means: dict[tuple[Any, ...], dict[str, list[float]]] = {}
    for row in rows:
        if row["method"] in (name, FULL):
            means.setdefault(_setting(row), {}).setdefault(row["method"], []).append(
                row["f1_target"]
            )
    return [
        100 * (mean(methods[FULL]) - mean(methods[name]))
        for methods in means.values()
        if FULL in methods and name in methods
    ]


def plans(options: argparse.Namespace) -> list[Plan]:
    """What the options ask for."""
    if options.data:
        shifts: tuple[Shift, ...] = (
            Shift(
                str(options.data),
                f"{options.source} to {options.target}",
                parse_selectors(options.source),  # type: ignore[arg-type]
                parse_selectors(options.target),  # type: ignore[arg-type]
            ),
        )
    else:
        shifts = tuple(s for s in SHIFTS if s.dataset in options.datasets)
    return [
        Plan(shift, backbone, stranger, options.budgets, options.seeds, options.methods)
        for shift in shifts
        for backbone in options.backbones
        for stranger in (shift.strangers[:1] or (None,))
    ]


def main() -> None:
    """Entry point."""
    options = _parser().parse_args()
    if options.quick:
        options.datasets, options.backbones = ("seglearn",), ("small_cnn",)
        options.budgets, options.seeds = (5, None), 2
    rows: list[Row] = []
    asked = plans(options)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.workers, mp_context=spawn) as pool:
        for plan, found in zip(asked, pool.map(run, asked), strict=True):
            rows += found
            print(f"{plan.shift.dataset}: {plan.shift.name}, {plan.backbone}", flush=True)
    result = {"rows": rows, "summary": summary(rows)}
    print(table(rows))
    print(json.dumps(result["summary"], indent=1))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="one set, one backbone, two budgets")
    parser.add_argument("--data", type=Path, help="an .npz of your own, with --source and --target")
    parser.add_argument("--source", default="", help="selectors, such as position=0")
    parser.add_argument("--target", default="", help="selectors, such as position=1,subject=1")
    parser.add_argument("--datasets", type=_names, default=("dsads", "motionsense", "seglearn"))
    parser.add_argument("--backbones", type=_names, default=("t_resnet", "small_cnn"))
    parser.add_argument("--methods", type=_names, default=tuple(LEARNERS))
    parser.add_argument("--budgets", type=_budgets, default=(3, 5, 10, 20, None))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path)
    return parser


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _budgets(text: str) -> tuple[int | None, ...]:
    return tuple(None if part == "all" else int(part) for part in text.split(","))


if __name__ == "__main__":
    main()
