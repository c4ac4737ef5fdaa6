"""Streams of bouts through the service's own classes: what drift costs, with every policy.

    python -m benchmarks.stream [--quick] [--resume] [--json FILE]
    python -m benchmarks.stream --detection-only --datasets dsads --backbones small_cnn
    python -m benchmarks.stream --data FILE.npz --source position=0 --target position=1

Results are written after every unit of work, so that `--resume` goes on where a run was ended.
What was not measured is absent.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import detection
from benchmarks.accuracy import result_of
from benchmarks.bouts import Bouts
from benchmarks.homes import Home, home
from benchmarks.live import live
from benchmarks.policies import POLICIES
from benchmarks.prequential import outcome, play
from benchmarks.scenarios import SCENARIOS, Cast
from benchmarks.shifts import SHIFTS, Shift
from benchmarks.stream_outcome import page, picture, summary
from edgetuner.data import parse_selectors
from edgetuner.heap import keep_freed_memory
from edgetuner.inference import ModelVersion

RESULTS = Path(__file__).parent / "results"
BOUTS = Bouts()
RUN_LENGTH = 50_000.0  # windows between false alarms, as asked
Row = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        alarms: windows of drift-free streams, for each model.
        correlated: windows of synthetic streams, for each run length.
        run_lengths: asked of the synthetic streams.
        delays: streams with a change, for each model and change.
        usual: windows of drift-free streams, and streams with a change, for the usual detectors.
        rounds: of timing.
        before, after: windows before a change and after it, of a stream that is adapted to.
        runs: what is adapted to: data set, shift, backbone, scenarios, seeds.
        live: windows before a change and after it through the sockets.
        rate: windows a second through the sockets.
    """

    alarms: int
    correlated: int
    run_lengths: tuple[float, ...]
    delays: int
    usual: tuple[int, int]
    rounds: int
    before: int
    after: int
    runs: tuple[tuple[str, str, str, tuple[str, ...], int], ...]
    live: tuple[int, int]
    rate: float


_ALL = tuple(SCENARIOS)
FULL = Size(
    alarms=1_000_000,
    correlated=1_000_000,
    run_lengths=(5_000.0, RUN_LENGTH),
    delays=60,
    usual=(8_000, 12),
    rounds=1000,
    before=200,
    after=950,
    runs=(
        ("dsads", "right arm to left arm", "small_cnn", _ALL, 2),
        ("dsads", "new person", "small_cnn", ("sudden", "gradual", "30 % wrong labels"), 2),
        ("seglearn", "right wrist to left wrist", "small_cnn", ("sudden", "attack"), 1),
        ("motionsense", "new person", "small_cnn", ("sudden",), 2),
        ("dsads", "right arm to left arm", "t_resnet", ("sudden",), 1),
    ),
    live=(200, 800),
    rate=20.0,
)
QUICK = Size(
    alarms=300_000,
    correlated=300_000,
    run_lengths=(5_000.0,),
    delays=24,
    usual=(4_000, 4),
    rounds=400,
    before=150,
    after=600,
    runs=(
        (
            "seglearn",
            "right wrist to left wrist",
            "small_cnn",
            ("sudden", "sensor faults", "attack"),
            1,
        ),
    ),
    live=(100, 400),
    rate=20.0,
)


@dataclass(frozen=True)
class Unit:
    """Something to measure, by itself and in any process.

    Attributes:
        name: unique; a run that is resumed leaves out what it has.
        work: gives rows.
    """

    name: str
    work: Callable[[], list[Row]]


def detection_units(
    shifts: Sequence[Shift], backbones: Sequence[str], size: Size, seed: int
) -> Iterator[Unit]:
    """False alarms, delays and costs, a unit for each model and change."""
    for run_length in size.run_lengths:
        yield Unit(f"synthetic {run_length:g}", partial(correlated, run_length, size, seed))
    played: set[tuple[str, str, str]] = set()
    for backbone in backbones:
        for shift in shifts:
            source = (shift.dataset, repr(shift.source), backbone)
            at_home = source not in played
            played.add(source)
            yield Unit(
                f"detection {shift.dataset}, {shift.name}, {backbone}",
                partial(detected, shift, backbone, size, seed, at_home),
            )


def run_units(size: Size, shifts: Sequence[Shift], policies: tuple[str, ...]) -> Iterator[Unit]:
    """Adaptation: a unit for each scenario and seed, in which all policies take turns."""
    for dataset, name, backbone, scenarios, seeds in size.runs:
        for shift in shifts:
            if (shift.dataset, shift.name) != (dataset, name):
                continue
            for seed in range(seeds):
                for scenario in scenarios:
                    yield Unit(
                        f"run {dataset}, {name}, {backbone}, {scenario}, seed {seed}",
                        partial(adapted, shift, backbone, scenario, seed, size, policies),
                    )


def correlated(run_length: float, size: Size, seed: int) -> list[Row]:
    """False alarms on synthetic streams."""
    found = detection.correlated_false_alarms(run_length, BOUTS, size.correlated, seed)
    return [{"kind": "false_alarms", "detector": "ours"} | found]


def detected(shift: Shift, backbone: str, size: Size, seed: int, at_home: bool) -> list[Row]:
    """Delays of one model after one change; false alarms and cost too, if nobody measured them."""
    case = home(shift, backbone)
    known = {"dataset": shift.dataset, "shift": shift.name, "backbone": backbone, "seed": seed}
    rows: list[Row] = []
    with _source(case) as version:
        reference = version.reference
        if at_home:
            found = detection.false_alarms(case, version, reference, BOUTS, size.alarms, seed)
            rows.append({"kind": "false_alarms", "detector": "ours"} | known | found)
            spent = detection.cost(case, version, reference, BOUTS, size.rounds)
            rows.append({"kind": "cost"} | known | spent)
            if backbone == "small_cnn":
                theirs = detection.usual(case, version, BOUTS, *size.usual, seed)
                rows += [known | row for row in theirs]
        for row in detection.delays(case, version, reference, BOUTS, size.delays, seed):
            rows.append({"kind": "delay", "detector": "ours"} | known | row)
    return rows


def adapted(
    shift: Shift, backbone: str, scenario: str, seed: int, size: Size, policies: tuple[str, ...]
) -> list[Row]:
    """A row for each policy on the same stream."""
    stranger = shift.strangers[seed % len(shift.strangers)] if shift.strangers else None
    case = home(shift, backbone, stranger)
    stream = SCENARIOS[scenario](Cast(case, size.before, size.after, seed))
    rate = learning_rate(shift.dataset, backbone)
    known = {
        "dataset": shift.dataset,
        "shift": shift.name,
        "backbone": backbone,
        "scenario": scenario,
        "change": detection.kind(case),
        "seed": seed,
        "learning_rate": rate,
    }
    rows = []
    with _source(case) as version:
        for policy in policies:
            with tempfile.TemporaryDirectory(prefix="edgetuner-") as folder:
                predicted, log = asyncio.run(play(stream, policy, version, Path(folder), rate))
                found = outcome(stream, predicted, log)
            rows.append({"kind": "run", "policy": policy} | known | found)
    return rows


def through_sockets(shift: Shift, backbone: str, size: Size) -> list[Row]:
    """A sudden change, sent to the running service."""
    case = home(shift, backbone)
    stream = SCENARIOS["sudden"](Cast(case, *size.live, seed=0))
    with _source(case) as version:
        found = live(stream, version, size.rate)
    known = {"dataset": shift.dataset, "shift": shift.name, "backbone": backbone}
    return [{"kind": "live"} | known | found]


@contextlib.contextmanager
def _source(case: Home) -> Iterator[ModelVersion]:
    with tempfile.TemporaryDirectory(prefix="edgetuner-") as folder:
        yield case.version(case.reference(RUN_LENGTH), Path(folder) / "source")


def learning_rate(dataset: str, backbone: str) -> float:
    """Of full fine-tuning, as `benchmarks.accuracy` chose it for this data set and backbone."""
    chosen = result_of(RESULTS / "accuracy.json.gz")["learning_rates"]
    rates = {(one["dataset"], one["backbone"]): one["rates"] for one in chosen}
    return float(rates.get((dataset, backbone), {"full": 1e-3})["full"])


def main() -> None:
    """Entry point."""
    options = _parser().parse_args()
    rows: list[Row] = []
    if options.resume and options.json and options.json.exists():
        rows = json.loads(options.json.read_text())["rows"]
    done = {row["unit"] for row in rows}
    asked = [unit for unit in units(options) if unit.name not in done]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.workers, mp_context=spawn, initializer=_quietly) as pool:
        running = {pool.submit(unit.work): unit.name for unit in asked}
        for ended in as_completed(running):
            name = running[ended]
            rows += [{"unit": name, **row} for row in ended.result()]
            print(name, flush=True)
            if options.json:
                write(options.json, rows)
    print(json.dumps(summary(rows), indent=1))


def units(options: argparse.Namespace) -> Iterator[Unit]:
    """What the options ask for."""
    size = QUICK if options.quick else FULL
    backbones = ("small_cnn",) if options.quick else options.backbones
    if options.data:
        own = Shift(
            str(options.data),
            f"{options.source} to {options.target}",
            parse_selectors(options.source),  # type: ignore[arg-type]
            parse_selectors(options.target),  # type: ignore[arg-type]
        )
        shifts: tuple[Shift, ...] = (own,)
        scenarios = size.runs[0][3]
        size = replace(size, runs=((own.dataset, own.name, backbones[0], scenarios, 1),))
    else:
        datasets = ("seglearn",) if options.quick else options.datasets
        shifts = tuple(shift for shift in SHIFTS if shift.dataset in datasets)
    if options.scenarios:
        size = replace(size, runs=tuple((*run[:3], options.scenarios, run[4]) for run in size.runs))
    if options.runs_only:
        yield from run_units(size, shifts, options.policies)
        return
    yield from detection_units(shifts, backbones, size, options.seed)
    if not options.detection_only:
        moved = [shift for shift in shifts if shift.source != shift.target]
        if moved:
            yield Unit("live", partial(through_sockets, moved[0], backbones[0], size))
        yield from run_units(size, shifts, options.policies)


def _quietly() -> None:
    torch.set_num_threads(1)
    keep_freed_memory()


def write(path: Path, rows: list[Row]) -> None:
    """The JSON, and beside it the same as tables and a picture."""
    path.write_text(json.dumps({"rows": rows, "summary": summary(rows)}) + "\n")
    path.with_suffix(".md").write_text(page(rows))
    if any(row["kind"] == "run" for row in rows):
        picture(rows, path.with_suffix(".png"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="one set, the small CNN, minutes")
    part = parser.add_mutually_exclusive_group()
    part.add_argument("--detection-only", action="store_true", help="adapt nothing")
    part.add_argument("--runs-only", action="store_true", help="adaptation, and nothing else")
    parser.add_argument("--scenarios", type=_names, help="such as sudden,attack")
    parser.add_argument("--policies", type=_names, default=tuple(POLICIES))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--data", type=Path, help="an .npz of your own, with --source and --target")
    parser.add_argument("--source", default="", help="selectors, such as position=0")
    parser.add_argument("--target", default="", help="selectors, such as position=1,subject=1")
    parser.add_argument("--datasets", type=_names, default=("dsads", "motionsense", "seglearn"))
    parser.add_argument("--backbones", type=_names, default=("small_cnn", "t_resnet"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="go on with what --json holds")
    parser.add_argument("--json", type=Path, help="where rows and summary go")
    return parser


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


if __name__ == "__main__":
    main()
