"""Earlier versions are asked about the present context, before anything is trained for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from edgetuner.adapt.drifts import Drifts
from edgetuner.adapt.gate import Verdict
from edgetuner.adapt.judge import Judge
from edgetuner.adapt.observations import Observations
from edgetuner.adapt.recurrence import Recurrence, knows, may_know
from edgetuner.adapt.versions import Versions
from edgetuner.config import Config
from edgetuner.errors import EdgetunerError
from edgetuner.inference import ModelVersion
from edgetuner.pipeline import Pipeline

StreamKey = tuple[str, str]


class Recalled(NamedTuple):
    """What earlier versions did when they were asked.

    Attributes:
        asked: JSON-compatible, one of each: its verdict, or why it could not be loaded.
        best: the one that knows the context best, with its verdict; None if none knows it.
    """

    asked: list[dict[str, Any]]
    best: tuple[ModelVersion, Verdict] | None


class Recall:
    """Asks them, as soon and as often as `Recurrence` lets it, anew after each drift.

    Args:
        config: gives the configuration in force.
        pipeline: holds those who answer at present.
        drifts: those that wait for an answer; without any nobody is asked.
        observations: windows to ask about.
        versions: who may be asked.
        judge: of their answers.
    """

    def __init__(
        self,
        config: Callable[[], Config],
        pipeline: Pipeline,
        drifts: Drifts,
        observations: Observations,
        versions: Versions,
        judge: Judge,
    ) -> None:
        self._config = config
        self._pipeline = pipeline
        self._drifts = drifts
        self._observations = observations
        self._versions = versions
        self._judge = judge
        self._recurrence = Recurrence({})
        self._labels = 0  # labelled windows since the drift was found

    def waits(self, *, with_labels: bool) -> str | None:
        """Why training has to wait for it, in words, as of the last `ask`.

        Args:
            with_labels: labels keep coming.
        """
        return self._recurrence.waits(self._labels, self._config().gate, with_labels=with_labels)

    async def ask(self, starts: Mapping[StreamKey, int]) -> Recalled | None:
        """What earlier versions do in the present context; None where it is not time to ask.

        Args:
            starts: the first window of the present context of each stream.
        """
        # From the alarm on, not from the onset: that is an estimate, and a few windows of the old
        # context among a dozen would speak for the live version.
        alarms = self._drifts.alarms
        if alarms != self._recurrence.context:
            self._recurrence = Recurrence(alarms)
        versions = await asyncio.to_thread(self._versions.earlier) if alarms else []
        self._labels = (await self._observations.labels(alarms)).windows
        self._recurrence.versions = len(versions)
        if not versions or not self._recurrence.due(self._labels, self._config().gate):
            return None
        labelled = await self._observations.labelled({**starts, **alarms})
        # What the live version predicted came after it, and so after all that were before it.
        mine = labelled.take(labelled.version == self._pipeline.version.id)
        windows = self._drifts.present(mine)
        settings = self._recurrence.ask(self._labels, self._judge.settings, len(versions))
        asked, best = [], None
        for version in versions:
            try:
                candidate = await self._versions.load(version)
            except EdgetunerError as error:  # one that is damaged must not hold up the others
                asked.append({"version": version, "error": error.to_wire()})
                continue
            verdict = await self._judge.verdict(candidate, windows, settings, with_labels=False)
            asked.append({"version": version, **verdict.to_wire()})
            self._recurrence.promising |= may_know(verdict, candidate.manifest)
            if knows(verdict, candidate.manifest) and (
                best is None or (verdict.candidate_f1 or 0) > (best[1].candidate_f1 or 0)
            ):
                best = candidate, verdict
        return Recalled(asked, best)
