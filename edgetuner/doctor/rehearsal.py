"""A whole adaptation, before drift asks for one."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from edgetuner.adapt.child import train
from edgetuner.adapt.job import HOLDOUT, LOG, TRAIN, Ask, Job, Windows
from edgetuner.bundle import Bundle
from edgetuner.client.operator import Operator
from edgetuner.config import Config, GateConfig
from edgetuner.doctor.board import memory
from edgetuner.doctor.diagnosis import Diagnosis
from edgetuner.doctor.model import model_path
from edgetuner.doctor.place import running
from edgetuner.errors import AdaptationError, EdgetunerError
from edgetuner.telemetry.proc import Proc

_MB = 1024 * 1024
_LOOK_S = 0.05
_ANSWER_S = 2.0
_HELD_OUT = 3  # every third window of a class
_WINDOWS = 120  # at least; those of a bundle with fewer come again, each time with another gain
_GAIN = 0.4  # standard deviation of its logarithm: some have to be strange to the detectors
# Nothing can be better than the model is on its own windows, and all of the work is to be done: a
# gate that never has windows enough ends no training.
_ANYTHING = GateConfig(min_windows=10**9)


def rehearsal(config: Config, sysroot: Path = Path("/")) -> Iterator[Diagnosis]:
    """Trains on the version's own windows in the service's own child process, within its budgets.
    Nothing of it is kept.
    """
    path, busy = model_path(config), _hindrance(config, sysroot)
    if busy is not None:
        yield Diagnosis("training", "note", f"not rehearsed: {busy}")
        return
    settings = config.adapt.model_copy(update={"choose": "last"})
    ask = Ask(
        job="rehearsal",
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        why="edgetuner doctor",
        settings=settings,
        gate=_ANYTHING,
    )
    said: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="edgetuner-doctor-") as folder:
        job = Job.create(Path(folder), ask, path, _windows(Bundle.load(path)))
        try:
            result, taken = asyncio.run(
                _watched(job, said.append, config.inference.allow_factories, Proc(sysroot))
            )
        except AdaptationError as error:  # its log goes with the folder
            words = (job.path / LOG).read_text(errors="replace").splitlines()
            raise AdaptationError(
                error.problem, field="adapt", value=words[-1] if words else error.value
            ) from None
    yield _trained(result, config, taken)
    for one in said:
        if one.get("rung") == "cpu":
            yield Diagnosis("training: device", "note", f"on the CPU after all: {one['why']}")
    for rung in result["rungs"]:
        for name, why in rung.get("refused", {}).items():
            yield Diagnosis(f"training: {name}", "note", why)
        if rung.get("not_lean"):
            layers = ", ".join(rung["not_lean"])
            yield Diagnosis("training: lean", "note", f"under autograd, slower: {layers}")


def _hindrance(config: Config, sysroot: Path) -> str | None:
    """Why the service had better be left alone now; None if it may be disturbed."""
    if memory(config, sysroot).state == "trouble":
        return "less memory is free than it asks for"
    if running(config):
        with contextlib.suppress(EdgetunerError):
            with Operator(config.sockets.control, timeout_s=_ANSWER_S) as operator:
                state = operator.status()["state"]["state"]
            if state in ("training", "gate"):
                return f"the service is at it itself ({state})"
    return None


def _windows(bundle: Bundle) -> Windows:
    again = -(-_WINDOWS // len(bundle.exemplar_y))
    y, x = np.tile(bundle.exemplar_y, again), np.tile(bundle.exemplar_x, (again, 1, 1))
    gain = np.exp(np.random.default_rng(0).normal(0, _GAIN, (len(y), 1, 1)))
    order = np.argsort(y, kind="stable")
    place = np.empty(len(y), np.int64)  # of each window within its class
    place[order] = np.arange(len(y)) - np.searchsorted(y[order], y[order])
    return Windows(
        x=(x * gain).astype(np.float32),
        y=y,
        stream=np.zeros(len(y), np.int64),
        t_ns=np.arange(len(y)) * bundle.manifest.window_ns,
        split=np.where(place % _HELD_OUT == _HELD_OUT - 1, HOLDOUT, TRAIN),
    )


async def _watched(
    job: Job, progress: Any, allow_factories: tuple[str, ...], proc: Proc
) -> tuple[dict[str, Any], int | None]:
    """The result, and by how many bytes less was available in between: on a board whose GPU has no
    memory of its own, what a process takes there is not among its pages.
    """
    before = least = proc.read()["memory_available_bytes"]

    async def look() -> None:
        nonlocal least
        while True:
            now = proc.read()["memory_available_bytes"]
            least = None if least is None or now is None else min(least, now)
            await asyncio.sleep(_LOOK_S)

    watch = asyncio.create_task(look())
    try:
        result = await train(job, progress, allow_factories)
    finally:
        watch.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watch
    return result, None if before is None or least is None else max(0, before - least)


def _trained(result: dict[str, Any], config: Config, taken: int | None) -> Diagnosis:
    seconds, peak = result["train_seconds"], result.get("peak_held_bytes")
    where = result.get("device", "cpu")
    facts = {
        "rung": result["rung"],
        "trained_fraction": result["trained_fraction"],
        "device": where,
        "train_seconds": seconds,
        "rungs": {rung["rung"]: rung["seconds"] for rung in result["rungs"]},
    }
    measured = {"peak_held_bytes": peak, "available_bytes_taken": taken}
    facts |= {name: size for name, size in measured.items() if size is not None}
    budget = config.adapt.memory_budget_mb
    said = f"{100 * result['trained_fraction']:.2f} % of the weights in {seconds:.1f} s on {where}"
    if peak is not None:
        said += f", {peak // _MB} of {budget} MB"
    if taken is not None and taken > budget * _MB:
        said += f", but {taken // _MB} MB less were available: raise adapt.min_available_mb"
        return Diagnosis("training", "note", said, facts)
    return Diagnosis("training", "ok", said, facts)
