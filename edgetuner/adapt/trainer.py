"""Trainings, one at a time: the job that each is given, the process that does it, its energy."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from edgetuner.adapt import job as jobs
from edgetuner.adapt.child import Progress as Hears
from edgetuner.adapt.child import train
from edgetuner.adapt.energy import DayEnergy
from edgetuner.adapt.job import Ask, Job, Windows
from edgetuner.adapt.progress import Progress
from edgetuner.errors import AdaptationError
from edgetuner.telemetry import Telemetry

Train = Callable[[Job, Hears, Sequence[str]], Coroutine[Any, Any, dict[str, Any]]]


class Trainer:
    """Has jobs done, and knows what they say and cost.

    Args:
        folder: where job folders are kept.
        telemetry: gives the energy, and is told which phase it is used in.
        changed: called whenever `progress` has something new.
        clock: seconds that a day's energy is counted in.
        replacement: does a job instead of a process of its own, as `child.train` does.

    Attributes:
        progress: of the training under way, or else of the last one.
        energy: what trainings have used.
    """

    def __init__(
        self,
        folder: Path,
        telemetry: Telemetry,
        changed: Callable[[], None],
        clock: Callable[[], float],
        replacement: Train | None = None,
    ) -> None:
        self._folder = folder
        self._telemetry = telemetry
        self._changed = changed
        self._replacement = replacement
        self._training: asyncio.Task[dict[str, Any]] | None = None
        self.progress = Progress(telemetry)
        self.energy = DayEnergy(clock)

    async def keep(self, ask: Ask, base: Path, windows: Windows) -> Job:
        """Makes a job folder, and drops the oldest ones where there are too many.

        Args:
            ask: what is to be done.
            base: the bundle that training starts from.
            windows: what there is to learn from.

        Raises:
            StoreError: the disk is full or fails.
        """
        # Before, and not after: on a board without a clock the newest job may have the oldest name.
        await asyncio.to_thread(jobs.prune, self._folder, ask.settings.keep_jobs - 1)
        return await asyncio.to_thread(Job.create, self._folder, ask, base, windows)

    async def train(self, job: Job, allow_factories: Sequence[str]) -> dict[str, Any]:
        """Does the job; its result. Cancelling this coroutine ends the training first.

        Args:
            job: made by `keep`.
            allow_factories: names of model factories that the operator trusts now.

        Raises:
            AdaptationError: it failed, or was ended by `stop`.
        """
        self._telemetry.phase("train")
        self.progress.begin()
        do = self._replacement or train
        training = self._training = asyncio.create_task(do(job, self._hear, allow_factories))
        try:
            await asyncio.wait([training])
            if training.cancelled():
                raise stopped(job)
            return training.result()
        except asyncio.CancelledError:  # the service is going down
            training.cancel()
            await asyncio.wait([training])
            raise
        finally:
            self._training = None
            self._telemetry.phase("infer")
            self.energy.use(self.progress.end())

    def stop(self) -> None:
        """Ends the training under way, if there is one."""
        if self._training is not None:
            self._training.cancel()

    def _hear(self, said: dict[str, Any]) -> None:
        self.progress.take(said)
        self._changed()


def stopped(job: Job) -> AdaptationError:
    """What is told of a job that an operator has stopped."""
    return AdaptationError(
        "stopped by an operator", field=job.ask.job, remedy="resume to adapt again"
    )
