"""The training process: one job in, a candidate out or why there is none, then gone, and its memory
with it.

    python -m edgetuner.adapt.worker JOB [--allow-factory NAME ...]

It says what it does on standard output, one JSON object a line, and leaves `result.json` and
`candidate/` in the job directory. It ends at once when its standard input closes, so it never
outlives the service.

Which factories may be imported is said by whoever starts it, never by the job.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import gc
import json
import os
import re
import stat
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgetuner.adapt import job as jobs
from edgetuner.adapt.gate import guards
from edgetuner.adapt.job import Job, Windows
from edgetuner.adapt.ladder import Climbed, chosen, climb, foretold, hopeless, predict
from edgetuner.adapt.material import Material
from edgetuner.bundle import Bundle, Tensors, describe, write_bundle
from edgetuner.config import FACTORY_PATTERN
from edgetuner.drift.calibrate import MIN_WINDOWS, calibrate
from edgetuner.drift.error import ErrorRate
from edgetuner.drift.life import bouts_of
from edgetuner.drift.reference import Reference
from edgetuner.errors import AdaptationError, BudgetError, EdgetunerError, UsageError
from edgetuner.factories import build_module
from edgetuner.heap import held_bytes, keep_freed_memory
from edgetuner.inference import choose_device
from edgetuner.models import embed
from edgetuner.peft.suffixes import suffixes_to_keep

_CHUNK = 64
_MB = 1024 * 1024
_RUN_LENGTH = 10_000.0  # windows between false alarms, where nobody ever said how many
_LEAST = 3  # windows of a class that its place among the embeddings is told from


class _Parser(argparse.ArgumentParser):
    """Complains in one line, with the exit code of sysexits."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, remedy=f"see `{self.prog} --help`")


def run(job: Job, allow_factories: Sequence[str] = ()) -> dict[str, Any]:
    """Does the job and returns what goes into `result.json`: the facts of a candidate, or of the
    best there was and why the gate would not have it.

    Args:
        job: data, wherever it came from.
        allow_factories: names of model factories that the caller trusts.

    Raises:
        EdgetunerError: no candidate; the message says why.
    """
    settings = job.ask.settings
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    start = time.perf_counter()
    base = Bundle.load(job.path / jobs.BASE)
    module = build_module(base, allow_factories)
    windows = job.windows()
    _check_labels(windows, len(base.manifest.classes))
    material = _material(base, windows, settings.policy)
    gc.freeze()  # what is there now stays to the end, and need not be looked through at every step
    climbed = _climb(module, material, job.ask)
    candidate = chosen(climbed)
    facts = {
        "job": job.ask.job,
        "why": job.ask.why,
        "rung": candidate.rung,
        "rungs": [rung.to_wire() for rung in climbed],
        "labelled": len(material.y),
        "held_out": len(material.held_y),
        "unlabelled": len(material.unlabelled),
        **candidate.facts,
    }
    verdict = foretold(candidate.module, module, material, job.ask.gate, base.manifest.classes)
    if hopeless(verdict, job.ask.gate):  # detectors for it would be in vain
        return {**facts, "verdict": verdict.to_wire(), **_spent(start)}
    _report("reference")
    reference, facts["calibrated_on"] = _reference(base, candidate, material, windows, job.ask)
    kept = settings.policy == "retain" or not settings.beside
    exemplars = _exemplars(base, candidate, None if kept else material)
    version = _write(job, base, candidate, reference, exemplars, facts)
    return {**facts, "version": version, **_spent(start)}


def _spent(start: float) -> dict[str, Any]:
    held = held_bytes()  # whoever started this process has looked at it more often
    spent = {"train_seconds": round(time.perf_counter() - start, 3)}
    return spent if held is None else {**spent, "peak_held_bytes": held}


def main(argv: list[str] | None = None) -> int:
    """Entry point; 0 if the job was done, the error's own exit code if not."""
    try:
        options = _parser().parse_args(argv)
    except UsageError as error:  # there is no job to leave it in
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    path: Path = options.job
    _make_expendable()
    keep_freed_memory()
    threading.Thread(target=_die_with_parent, daemon=True).start()
    try:
        job = Job.open(path)
    except EdgetunerError as error:  # no job, no result
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    try:
        job.set_aside()
        try:
            job.write_result(run(job, options.allow_factories))
        except (
            RuntimeError,
            MemoryError,
        ) as error:  # torch out of memory, on Tegra not even by that name
            reason = str(error) or type(error).__name__  # a MemoryError says nothing
            raise AdaptationError(
                "training failed", field=job.ask.job, value=reason.splitlines()[0]
            ) from error
    except EdgetunerError as error:
        with contextlib.suppress(OSError):
            job.write_result({"error": error.to_wire()})
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m edgetuner.adapt.worker",
        description="Does an adaptation, or does it again.",
        allow_abbrev=False,
    )
    parser.add_argument("job", type=Path, metavar="JOB", help="its folder")
    parser.add_argument(
        "--allow-factory",
        dest="allow_factories",
        action="append",
        type=_factory,
        default=[],
        metavar="NAME",
        help="package.module:callable that the job's base may build its model with; "
        "it is imported and run, so name only what you trust",
    )
    return parser


def _factory(text: str) -> str:
    if re.fullmatch(FACTORY_PATTERN, text) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form package.module:callable")
    return text


def _climb(module: nn.Module, material: Material, ask: jobs.Ask) -> list[Climbed]:
    """The rungs, on the device that the settings ask for; their modules are on the CPU."""
    settings = ask.settings
    device = choose_device(settings.device)
    if device == "cpu" and settings.device == "cpu":
        return list(climb(module, material, settings, _report, ask.gate))
    if device == "cuda":
        try:
            return _climb_on_cuda(module, material, ask)
        except (RuntimeError, BudgetError) as error:  # no memory, or no kernel for this chip
            if settings.device == "cuda":
                raise
            _report("cpu", why=str(error).splitlines()[0])
        _forget_cuda()
    # brain floats were asked for the sake of a GPU: most CPUs are many times slower in them
    settings = settings.model_copy(update={"precision": "float32"})
    return list(climb(module, material, settings, _report, ask.gate))


def _climb_on_cuda(module: nn.Module, material: Material, ask: jobs.Ask) -> list[Climbed]:
    """The rungs on a GPU, where no cgroup sees the memory that is taken."""
    gpu = torch.cuda.get_device_properties(0)
    budget = ask.settings.memory_budget_mb * _MB
    if gpu.is_integrated:  # the GPU of a Jetson has no memory but the CPU's
        budget = max(0, budget - (held_bytes() or 0))
    torch.cuda.set_per_process_memory_fraction(min(1.0, budget / gpu.total_memory))
    there = copy.deepcopy(module).to("cuda"), material.to("cuda")
    climbed = list(climb(*there, ask.settings, _report, ask.gate))  # each starts from the last
    return [
        replace(rung, reached=replace(rung.reached, module=rung.module.cpu())) for rung in climbed
    ]


def _forget_cuda() -> None:
    """Gives back the memory that the failed attempt took: on a Jetson it is the CPU's own."""
    gc.collect()
    with contextlib.suppress(RuntimeError):
        torch.cuda.empty_cache()


def _check_labels(windows: Windows, classes: int) -> None:
    """Ingest lets no such label in, but a job may come from elsewhere."""
    largest = int(windows.y.max(initial=-1))
    if largest >= classes:
        raise AdaptationError(
            "a class that the base does not know",
            field="y",
            value=largest,
            remedy=f"label with its {classes} classes, or adapt another base",
        )
    if not ((windows.split == jobs.TRAIN) & (windows.y >= 0)).any():
        raise AdaptationError(
            "no labelled window to train on", field="y", remedy="label some windows"
        )


def _material(base: Bundle, windows: Windows, policy: str) -> Material:
    def tensor(x: NDArray[Any]) -> Tensor:
        scaled = (x.astype(np.float32) - base.mean[:, None]) / base.std[:, None]
        return torch.from_numpy(scaled.astype(np.float32))

    x, y = windows.labelled(jobs.TRAIN)
    held_x, held_y = windows.labelled(jobs.HOLDOUT)
    kept = guards(base.exemplar_y) if policy == "retain" else np.zeros(len(base.exemplar_y), bool)
    return Material(
        x=tensor(x),
        y=torch.from_numpy(y),
        unlabelled=tensor(windows.unheld()),
        held_x=tensor(held_x),
        held_y=torch.from_numpy(held_y),
        held_served=torch.from_numpy(windows.held_served()),
        source_x=tensor(base.exemplar_x[~kept]),
        source_y=torch.from_numpy(base.exemplar_y[~kept]),
        classes=len(base.manifest.classes),
        head=base.manifest.backbone.head,
        suffixes={name: torch.from_numpy(values) for name, values in base.suffixes.items()},
    )


def _reference(
    base: Bundle, candidate: Climbed, material: Material, windows: Windows, ask: jobs.Ask
) -> tuple[Reference, str]:
    """The drift reference of the new version: its embeddings have moved, so the old one says
    nothing.
    """
    module = candidate.module
    x, y = material.with_source(_LEAST)
    embeddings, _, _ = _embed(module, x, material.head)
    unseen = (windows.split == jobs.HOLDOUT) | ((windows.split == jobs.TRAIN) & (windows.y < 0))
    calibrated_on = "windows not trained on"
    if unseen.sum() < MIN_WINDOWS:
        unseen, calibrated_on = np.ones_like(unseen), "all windows, trained-on ones included"
    raw = windows.x[unseen]
    held = torch.from_numpy((raw - base.mean[:, None]) / base.std[:, None])
    held_embeddings, predicted, confidence = _embed(module, held, material.head)
    before = Reference.from_arrays(base.reference)
    reference = Reference.fit(
        embeddings,
        y.numpy(),
        held_embeddings,
        predicted,
        confidence,
        base.manifest.classes,
        held_recording=_bouts(windows.stream[unseen], predicted),
        held_wearer=windows.stream[unseen],
        errors=_errors(candidate, material),
        before=before,
    )
    known, asked = before.calibration, ask.false_alarm_windows
    bouts = bouts_of(windows.x.shape[2] / base.manifest.hz) if known is None else known.bouts
    if asked is None:
        asked = _RUN_LENGTH if known is None else known.run_length
    # How much answered alarms save is a matter of life at home, of which this is too little.
    share = 1.0 if known is None else known.first_share
    seed = ask.settings.seed
    return calibrate(reference, asked, bouts=bouts, seed=seed, first_share=share), calibrated_on


def _exemplars(
    base: Bundle, candidate: Climbed, material: Material | None
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """What stands for a class where the next adaptation has no window of it: the windows of this
    context that the candidate itself recognises, as many of a class as the base has, and the base's
    own for the rest. Those that guard the source stay; and all of them where the material is None:
    under `retain`, or where no other version keeps what is known of the source.
    """
    x, y = base.exemplar_x.copy(), base.exemplar_y
    if material is None:
        return x, y
    known = material.y.cpu().numpy()
    scaled = material.x.cpu().numpy()
    with np.errstate(over="ignore"):
        raw = (scaled * base.std[:, None] + base.mean[:, None]).astype(x.dtype)
    recognised = predict(candidate.module, material.x.cpu()) == known
    recognised &= np.isfinite(raw).all(axis=(1, 2))  # what half precision cannot hold
    for k in np.unique(known):
        place = np.flatnonzero((y == k) & ~guards(y))
        new = np.flatnonzero((known == k) & recognised)
        count = min(len(place), len(new))
        chosen = new[np.linspace(0, len(new) - 1, count).astype(int)] if count else new
        x[place[:count]] = raw[chosen]
    return x, y


def _errors(candidate: Climbed, material: Material) -> ErrorRate | None:
    """How often the candidate is wrong on labelled windows left out, or held out altogether."""
    held_y = material.held_y.cpu().numpy()
    wrong = predict(candidate.module, material.held_x) != held_y
    left_out = candidate.reached.left_out
    if left_out is not None:
        own_y = material.y.cpu().numpy()
        wrong = np.append(wrong, left_out.predicted.numpy()[: len(own_y)] != own_y)
    return ErrorRate(int(wrong.sum()), len(wrong)) if len(wrong) else None


def _bouts(stream: NDArray[np.int64], predicted: NDArray[np.int64]) -> NDArray[np.int64]:
    """A number for each run of one class in one stream."""
    change = (np.diff(stream, prepend=stream[:1]) != 0) | (
        np.diff(predicted, prepend=predicted[:1]) != 0
    )
    return np.cumsum(change)


def _embed(
    module: nn.Module, x: Tensor, head: str
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
    """Embeddings (N, D), predicted class (N,) and its softmax probability (N,)."""
    with torch.inference_mode():
        pairs = [embed(module, chunk, head) for chunk in torch.split(x, _CHUNK)]
        confidence, predicted = torch.cat([logits for logits, _ in pairs]).softmax(1).max(1)
        embeddings = torch.cat([embedding for _, embedding in pairs])
    return embeddings.numpy(), predicted.numpy(), confidence.numpy()


def _write(
    job: Job,
    base: Bundle,
    candidate: Climbed,
    reference: Reference,
    exemplars: tuple[NDArray[Any], NDArray[np.int64]],
    facts: dict[str, Any],
) -> str:
    known = base.manifest
    metrics = {} if candidate.held_f1 is None else {"held_out_macro_f1": candidate.held_f1}
    description = describe(
        backbone=known.backbone,
        classes=known.classes,
        channels=known.channels,
        length=known.length,
        hz=known.hz,
        metrics=metrics,
        parent=known.version,
        adaptation=facts,
    )
    settings = job.ask.settings
    suffixes = suffixes_to_keep(
        candidate.module,
        known.backbone.head,
        settings.rank,
        settings.trained_fraction,
        settings.decomposition,
    )
    tensors = Tensors(
        weights={name: value.numpy() for name, value in candidate.module.state_dict().items()},
        mean=base.mean,
        std=base.std,
        reference=reference.to_arrays(),
        sensor=base.sensor,
        exemplar_x=exemplars[0],
        exemplar_y=exemplars[1],
        suffixes={name: values.numpy() for name, values in suffixes.items()},
    )
    prefix = f"a{job.ask.job.split('-')[-1]}"
    return write_bundle(job.path / jobs.CANDIDATE, tensors, description, prefix=prefix).version


def _report(rung: str, **facts: Any) -> None:
    sys.stdout.write(json.dumps({"rung": rung, **facts}) + "\n")
    sys.stdout.flush()


def _make_expendable() -> None:
    """First in line for the out-of-memory killer, so that it never takes the service instead."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _die_with_parent() -> None:
    """The service holds the other end of standard input: end of file means that it is gone.

    At a desk standard input is a terminal or nothing, and says nothing.
    """
    mode = os.fstat(0).st_mode
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
        return
    while os.read(0, 4096):  # not sys.stdin: its lock would be held when the interpreter ends
        pass
    os._exit(75)


if __name__ == "__main__":
    sys.exit(main())
