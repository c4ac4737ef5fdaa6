"""How well every method adapts, and how soon: real shifts, label budgets, seeds, people.

    python -m benchmarks.accuracy [--quick] [--json FILE]
    python -m benchmarks.accuracy --data FILE.npz --source position=0 --target position=1

Every method that has a learning rate chooses it on the last part in time of what it may learn from,
once a data set and backbone, and never on the test. Rows are one run each; gaps in the summary are
in points of macro-F1, positive where full fine-tuning is ahead; what was not measured is absent.
"""

from __future__ import annotations

import argparse
import gzip
import json
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.learners import LEARNERS, Curve
from benchmarks.outcome import FULL, Row, page, picture, summary, table
from benchmarks.shifts import SHIFTS, Case, Shift, case
from edgetuner.adapt.ladder import predict
from edgetuner.data import parse_selectors
from edgetuner.heap import keep_freed_memory
from edgetuner.metrics import macro_f1

RESULTS = Path(__file__).parent / "results"
VALIDATION = 0.3  # of what is learned from, its last part in time
_KEY = ("backbone", "dataset", "shift", "labels_per_class", "seed")
_DIGITS = 5  # kept of a figure in the file
_SHARES = (85, 95, 100)  # per cent of full fine-tuning's final F1
# Label budgets by backbone, of which one seed takes about an hour on two cores: rather many shifts
# and budgets once than few of them often; --seeds asks for more.
SUITE: dict[str, tuple[int | None, ...]] = {
    "mobilenet_v2": (5, None),
    "t_resnet": (3, 5, 20, None),
    "small_cnn": (3, 5, 10, 20, None),
}
QUICK: dict[str, tuple[int | None, ...]] = {"small_cnn": (5, None)}


Rates = dict[tuple[str, str], dict[str, float]]  # by backbone and data set, then by method


@dataclass(frozen=True)
class Plan:
    """What is compared on one shift.

    Attributes:
        budget: labels a class; None for all.
        seed: of every random draw; each takes the next stranger as its target.
        rates: learning rate by method, for those that have one.
        classes: how many of them a person has shown, drawn by the seed; the test has all.
    """

    shift: Shift
    backbone: str
    budget: int | None
    seed: int
    methods: tuple[str, ...]
    rates: dict[str, float]
    classes: int | None = None

    @property
    def key(self) -> tuple[Any, ...]:
        """What its rows are told from others by: values of `_KEY`."""
        return self.backbone, self.shift.dataset, self.shift.name, self.budget, self.seed


def run(plan: Plan) -> list[Row]:
    """A row for each method; they take turns."""
    _quietly()
    seed, stranger = plan.seed, _stranger(plan.shift, plan.seed)
    at = _seen(case(plan.shift, plan.backbone, stranger), plan, seed)
    labelled = at.labelled(plan.budget, seed)
    curves = {
        name: LEARNERS[name][0](at, labelled, seed, plan.rates.get(name)) for name in plan.methods
    }
    goal = curves[FULL].f1 if FULL in curves else None
    known = {
        "dataset": plan.shift.dataset,
        "shift": plan.shift.name,
        "backbone": plan.backbone,
        "stranger": stranger,
        "seed": seed,
        "labels_per_class": plan.budget,
        "classes": plan.classes,
        "f1_zero_shot": _f1(at, at.test.x, at.test.y),
        "f1_source_before": _f1(at, at.home.x, at.home.y),
    }
    return [known | {"method": name} | _outcome(curve, goal) for name, curve in curves.items()]


def _seen(at: Case, plan: Plan, seed: int) -> Case:
    """The case of somebody who has done few things so far."""
    if plan.classes is None:
        return at
    present = np.unique(at.pool.y)
    shown = np.random.default_rng(seed).permutation(present)[: plan.classes]
    return replace(at, pool=at.pool.take(np.isin(at.pool.y, shown)))


def _quietly() -> None:
    torch.set_num_threads(1)
    keep_freed_memory()


def _stranger(shift: Shift, seed: int) -> int | None:
    return shift.strangers[seed % len(shift.strangers)] if shift.strangers else None


def _outcome(curve: Curve, goal: float | None) -> Row:
    row: Row = {
        "f1_target": curve.f1,
        "f1_source_after": curve.home_f1,
        "trained_fraction": curve.trained_fraction,
        "seconds_total": curve.points[-1][0],
        "points": [[round(seconds, 4), round(f1, 4)] for seconds, f1 in curve.points],
    }
    if goal is not None:
        for share in _SHARES:
            row[f"seconds_to_{share}"] = curve.seconds_to(goal * share / 100)
    return row


def tune(plan: Plan) -> dict[str, float]:
    """The learning rates that do best on validation windows of a shift, with all other labels."""
    _quietly()
    at = case(plan.shift, plan.backbone, _stranger(plan.shift, 0))
    early, late = at.pool.split_by_time(VALIDATION, at.shift.gap)
    trial = replace(at, pool=early, test=late)
    chosen = {}
    for name in plan.methods:
        learn, rates = LEARNERS[name]
        scores = {rate: learn(trial, early, 0, rate).f1 for rate in rates} if rates[1:] else {}
        if rates:
            chosen[name] = max(scores, key=lambda rate: scores[rate]) if scores else rates[0]
    return chosen


def _f1(at: Case, x: Any, y: Any) -> float:
    return macro_f1(y, predict(at.module, at.scaled(x)))


def plans(options: argparse.Namespace) -> list[Plan]:
    """What the options ask for, seed after seed, the slowest first, without learning rates."""
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
    suite = QUICK if options.quick else SUITE
    return [
        Plan(
            shift,
            backbone,
            budget,
            seed,
            options.methods,
            {},
            options.classes,
        )
        for seed in range(options.seeds)
        for backbone in options.backbones or suite
        for shift in shifts
        for budget in options.budgets or suite.get(backbone, SUITE[backbone])
    ]


def main() -> None:
    """Entry point."""
    options = _parser().parse_args()
    if options.quick:
        options.datasets = ("seglearn",)
    rows, rates = _before(options.json) if options.resume else ([], {})
    done = {tuple(row[key] for key in _KEY) for row in rows}
    asked = [plan for plan in plans(options) if plan.key not in done]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.workers, mp_context=spawn) as pool:
        first = {
            key: plan
            for plan in reversed(asked)
            if (key := (plan.backbone, plan.shift.dataset)) not in rates
        }
        rates |= dict(zip(first, pool.map(tune, first.values()), strict=True))
        asked = [replace(p, rates=rates[p.backbone, p.shift.dataset]) for p in asked]
        for plan, found in zip(asked, pool.map(run, asked), strict=True):
            rows += found
            print(*plan.key, sep=", ", flush=True)
            if options.json:
                _write(options.json, rows, rates)
    print(table(rows))
    print(json.dumps(summary(rows), indent=1))


def _write(path: Path, rows: Sequence[Row], rates: Rates) -> None:
    """The JSON, and beside it the same as a table and a picture."""
    chosen = [{"backbone": key[0], "dataset": key[1], "rates": rates[key]} for key in rates]
    short = [
        {key: round(v, _DIGITS) if isinstance(v, float) else v for key, v in row.items()}
        for row in rows
    ]
    result = {"rows": short, "learning_rates": chosen, "summary": summary(rows)}
    text = json.dumps(result, separators=(",", ":")) + "\n"
    packed = path.suffix == ".gz"
    path.write_bytes(gzip.compress(text.encode(), mtime=0) if packed else text.encode())
    beside = path.with_suffix("") if packed else path
    beside.with_suffix(".md").write_text(page(rows))
    picture(rows, beside.with_suffix(".png"))


def result_of(path: Path) -> dict[str, Any]:
    """What `--json` left in a file; one that ends in .gz is packed."""
    data = path.read_bytes()
    result: dict[str, Any] = json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)
    return result


def _before(path: Path) -> tuple[list[Row], Rates]:
    """What an earlier run left in the file."""
    result = result_of(path)
    chosen = result["learning_rates"]
    return result["rows"], {(one["backbone"], one["dataset"]): one["rates"] for one in chosen}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="one set, one backbone, two budgets")
    parser.add_argument("--data", type=Path, help="an .npz of your own, with --source and --target")
    parser.add_argument("--source", default="", help="selectors, such as position=0")
    parser.add_argument("--target", default="", help="selectors, such as position=1,subject=1")
    parser.add_argument("--datasets", type=_names, default=("dsads", "motionsense", "seglearn"))
    parser.add_argument("--backbones", type=_names)
    parser.add_argument("--methods", type=_names, default=tuple(LEARNERS))
    parser.add_argument("--budgets", type=_budgets, help="labels a class, such as 5,20,all")
    parser.add_argument("--seeds", type=int, default=1, help="how many, from 0 on")
    parser.add_argument("--classes", type=int, help="how many classes the target has shown so far")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with what --json holds: settings and seeds that are missing",
    )
    parser.add_argument(
        "--json",
        type=Path,
        help="where rows and summary go (packed if it ends in .gz), a table and a picture beside",
    )
    return parser


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _budgets(text: str) -> tuple[int | None, ...]:
    return tuple(None if part == "all" else int(part) for part in text.split(","))


if __name__ == "__main__":
    main()
