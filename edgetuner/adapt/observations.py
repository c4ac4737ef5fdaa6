"""Windows of the past that an adaptation may learn from or be judged by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from edgetuner.adapt.faults import Faults
from edgetuner.pipeline import Pipeline
from edgetuner.store import Context

StreamKey = tuple[str, str]
_NEWEST = 1000  # labelled windows that a gate or a probation looks at


class Labels(NamedTuple):
    """How much somebody has said.

    Attributes:
        windows: labelled ones.
        classes: different labels among them.
    """

    windows: int
    classes: int

    @classmethod
    def of(cls, context: Context) -> Labels:
        """Those of a context."""
        labelled = context.y[context.y >= 0]
        return cls(len(labelled), len(np.unique(labelled)))


class Observations:
    """What the streams have shown; no window from the time of a sensor's fault, or near it, is
    handed out.

    Args:
        pipeline: holds the store and the detectors.
        faults: when each sensor was faulty.
    """

    def __init__(self, pipeline: Pipeline, faults: Faults) -> None:
        self._pipeline = pipeline
        self._faults = faults

    async def starts(self) -> dict[StreamKey, int]:
        """The first window of the present context of each stream: where it last drifted."""
        keys = await self._pipeline.stored(lambda store: list(store.next_seqs()))
        return await self._pipeline.watched(
            lambda monitor: {key: monitor.context_start(key) for key in keys}
        )

    async def labels(self, starts: Mapping[StreamKey, int]) -> Labels:
        """How many there are from these windows on, those of faulty sensors among them.

        Reading thousands of windows at every label, only to count, would hold up the store.
        """
        counts = await self._pipeline.stored(lambda store: store.count_labels(starts))
        return Labels(int(counts.sum()), int((counts > 0).sum()))

    async def windows(self, starts: Mapping[StreamKey, int], most: int) -> Context:
        """The newest ones from these on, `most` of them at most."""
        return self._sound(await self._pipeline.context(starts, most))

    async def labelled(self, starts: Mapping[StreamKey, int]) -> Context:
        """The newest labelled ones from these on."""
        return self._sound(await self._pipeline.context(starts, _NEWEST, labelled=True))

    def _sound(self, context: Context) -> Context:
        return context.take(~self._faults.cover(context))
