"""The training process, seen from the service: started, listened to, kept inside its budgets,
ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edgetuner.adapt import job as jobs
from edgetuner.adapt.job import Job
from edgetuner.errors import AdaptationError, BudgetError
from edgetuner.heap import held_bytes

_LOOK_S = 0.2  # how often the child's memory is looked at
_MB = 1024 * 1024

Progress = Callable[[dict[str, Any]], None]


async def train(
    job: Job, progress: Progress, allow_factories: Sequence[str] = ()
) -> dict[str, Any]:
    """Runs the job in a process of its own and returns its result; its `peak_held_bytes` is the
    most memory that it was seen to hold.

    Cancelling this coroutine kills the process.

    Args:
        job: what is to be done.
        progress: is given what the process says of itself, one dictionary at a time.
        allow_factories: names of model factories that the operator trusts; from the configuration,
            which has checked their form.

    Raises:
        BudgetError: it was killed for its memory or its time.
        AdaptationError: it failed.
    """
    settings = job.ask.settings
    process, guard = await _start(job, allow_factories), _Guard(settings.memory_budget_mb)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.setpriority(os.PRIO_PROCESS, process.pid, settings.nice)
    watch = [
        asyncio.ensure_future(_listen(process, job.ask.job, progress)),
        asyncio.ensure_future(guard.watch(process)),
    ]
    try:
        done, late = await asyncio.wait(
            watch, timeout=settings.deadline_s, return_when=asyncio.FIRST_EXCEPTION
        )
        for task in done:
            task.result()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        for task in watch:
            task.cancel()
        await asyncio.gather(*watch, return_exceptions=True)
        await process.wait()
    if late:
        raise BudgetError(
            "training took too long",
            field="adapt.deadline_s",
            value=settings.deadline_s,
            remedy="raise it, or lower adapt.steps or adapt.max_windows",
        )
    result = _result(job, process.returncode)
    if "peak_held_bytes" in result:  # at its end
        result["peak_held_bytes"] = max(guard.most, result["peak_held_bytes"])
    return result


async def _start(job: Job, allow_factories: Sequence[str]) -> asyncio.subprocess.Process:
    # Written as one word each, so that none can be read as an option of its own.
    allowed = [f"--allow-factory={name}" for name in allow_factories]
    try:
        with (job.path / jobs.LOG).open("wb") as log:
            return await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "edgetuner.adapt.worker"),
                *(os.fspath(job.path.resolve()), *allowed),
                stdin=asyncio.subprocess.PIPE,  # its end tells the child that we are gone
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=_environment(job.ask.settings.threads),
                cwd=os.sep,
                start_new_session=True,  # Ctrl-C is for the service, which then ends the child
            )
    except OSError as error:
        raise AdaptationError(
            "the training process cannot be started",
            field=job.ask.job,
            value=error.strerror,
            remedy="see that there is memory and disk space to spare",
        ) from None


async def _listen(process: asyncio.subprocess.Process, name: str, progress: Progress) -> None:
    assert process.stdout is not None
    while not process.stdout.at_eof():
        # A library that prints is not our business, be it no JSON or a line without end.
        with contextlib.suppress(ValueError):
            said = json.loads(await process.stdout.readline())
            if isinstance(said, dict):
                progress({"job": name, **said})
    await process.wait()


class _Guard:
    """Looks at what a process holds, and kills it beyond a budget. What it takes of a GPU is not
    seen here; it bounds that itself.

    Attributes:
        most: what was seen at most, bytes.
    """

    def __init__(self, budget_mb: int) -> None:
        self.most = 0
        self._budget_mb = budget_mb

    async def watch(self, process: asyncio.subprocess.Process) -> None:
        """Until it ends. Raises BudgetError if it was killed."""
        while process.returncode is None:
            held = held_bytes(process.pid) or 0
            self.most = max(self.most, held)
            if held > self._budget_mb * _MB:
                process.kill()
                raise BudgetError(
                    "training needed more memory than it was given",
                    field="adapt.memory_budget_mb",
                    value=f"{held // _MB} MB of {self._budget_mb} MB",
                    remedy="raise it, or lower adapt.batch_size or adapt.max_windows",
                )
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(process.wait(), _LOOK_S)


def _environment(threads: int) -> dict[str, str]:
    env = {name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"}
    # `-m` looks for every module in the current folder first, and that is the state directory of an
    # installed service: what lies there is data. So the child is told not to, and since Python 3.10
    # does not listen it is started in a folder that is root's. It finds edgetuner where it is
    # installed, or on PYTHONPATH, whose relative entries meant our own folder.
    paths = filter(None, env.get("PYTHONPATH", "").split(os.pathsep))
    search = os.pathsep.join(os.fspath(Path(path).resolve()) for path in paths)
    own = {"PYTHONPATH": search} if search else {}
    return env | own | {"OMP_NUM_THREADS": str(threads), "PYTHONSAFEPATH": "1"}


def _result(job: Job, code: int | None) -> dict[str, Any]:
    result = job.result()
    if result is None:
        ending = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        raise AdaptationError(
            "the training process ended without a result",
            field=job.ask.job,
            value=ending,
            remedy=f"read {job.path / jobs.LOG}",
        )
    if "error" in result:
        raise AdaptationError(
            f"training failed: {result['error']['message']}",
            field=job.ask.job,
            remedy=f"see {job.path}",
        )
    return result
