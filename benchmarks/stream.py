"""Streams of bouts through the service's own classes: what drift costs, with every policy.

    python -m benchmarks.stream [--quick] [--resume] [--json FILE]
    python -m benchmarks.stream --detection-only --datasets dsads --backbones small_cnn
    python -m benchmarks.stream --data FILE.npz --source position=0 --target position=1

Results are written after every unit of work, so that `--resume` goes on where a run was ended.
What was not measured is absent.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import detection
from benchmarks.bouts import Bouts
from benchmarks.homes import home
from benchmarks.shifts import SHIFTS, Shift
from benchmarks.stream_outcome import summary
from edgetuner.data import parse_selectors
from edgetuner.heap import keep_freed_memory

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
        rounds: of timing.
    """

    alarms: int
    correlated: int
    run_lengths: tuple[float, ...]
    delays: int
    rounds: int


FULL = Size(2_000_000, 1_500_000, (5_000.0, RUN_LENGTH), 60, 1000)
QUICK = Size(300_000, 300_000, (5_000.0,), 24, 400)

Unit = tuple[str, Callable[[], list[Row]]]


def detection_units(
    shifts: tuple[Shift, ...], backbones: tuple[str, ...], size: Size, seed: int
) -> Iterator[Unit]:
    """False alarms, delays and costs, a unit for each model and change."""
    for run_length in size.run_lengths:
        yield (
            f"synthetic {run_length:g}",
            lambda asked=run_length: [  # type: ignore[misc]
                {"kind": "false_alarms"}
                | detection.correlated_false_alarms(asked, BOUTS, size.correlated, seed)
            ],
        )
    played: set[tuple[Any, ...]] = set()
    for backbone in backbones:
        for shift in shifts:
            source = (shift.dataset, tuple(shift.source.items()), backbone)
            new = source not in played
            played.add(source)
            yield (
                f"detection {shift.dataset}, {shift.name}, {backbone}",
                lambda s=shift, b=backbone, n=new: _detect(s, b, size, seed, at_home=n),  # type: ignore[misc]
            )


def _detect(shift: Shift, backbone: str, size: Size, seed: int, *, at_home: bool) -> list[Row]:
    case = home(shift, backbone)
    reference = case.reference(RUN_LENGTH, BOUTS)
    known = {"dataset": shift.dataset, "shift": shift.name, "backbone": backbone, "seed": seed}
    with tempfile.TemporaryDirectory(prefix="edgetuner-") as folder:
        version = case.version(reference, Path(folder) / "source")
    rows: list[Row] = []
    if at_home:
        found = detection.false_alarms(case, version, reference, BOUTS, size.alarms, seed)
        rows.append({"kind": "false_alarms"} | known | found)
        spent = detection.cost(version, reference, case.home, size.rounds)
        rows.append({"kind": "cost"} | known | spent)
    for row in detection.delays(case, version, reference, BOUTS, size.delays, seed):
        rows.append({"kind": "delay"} | known | row)
    return rows


def main() -> None:
    """Entry point."""
    options = _parser().parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    rows: list[Row] = []
    if options.resume and options.json.exists():
        rows = json.loads(options.json.read_text())["rows"]
    done = {row["unit"] for row in rows}
    for name, work in units(options):
        if name in done:
            continue
        rows += [{"unit": name, **row} for row in work()]
        print(name, flush=True)
        if options.json:
            _write(options.json, rows)
    print(json.dumps(summary(rows), indent=1))


def units(options: argparse.Namespace) -> Iterator[Unit]:
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
        datasets = ("seglearn",) if options.quick else options.datasets
        shifts = tuple(shift for shift in SHIFTS if shift.dataset in datasets)
    size = QUICK if options.quick else FULL
    backbones = ("small_cnn",) if options.quick else options.backbones
    yield from detection_units(shifts, backbones, size, options.seed)


def _write(path: Path, rows: list[Row]) -> None:
    path.write_text(json.dumps({"rows": rows, "summary": summary(rows)}) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one set, the small CNN, minutes")
    parser.add_argument("--detection-only", action="store_true", help="adapt nothing")
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
