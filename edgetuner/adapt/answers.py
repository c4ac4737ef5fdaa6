"""What versions make of windows, asked so that no live window is late."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgetuner.corrections import Correction
from edgetuner.inference import ModelVersion
from edgetuner.pipeline import Pipeline
from edgetuner.serving import Serving
from edgetuner.store import Context

_TURN = 8  # windows of the past that are predicted between two live batches
_BATCH = 64  # of a version that is not live, beside it

IntArray = NDArray[np.int64]
StreamKey = tuple[str, str]
_T = TypeVar("_T")


class Look(NamedTuple):
    """What a version sees in N windows.

    Attributes:
        predicted: class index, (N,).
        confidence: softmax probability of that class, (N,).
        p_values: of the embeddings: low where a window is strange to it, (N,).
    """

    predicted: IntArray
    confidence: NDArray[np.float32]
    p_values: NDArray[np.float64]


class Answers:
    """Of those who answer at present, who take turns with the live windows.

    Args:
        pipeline: holds them.

    Attributes:
        since: first window of each stream that they have answered as they are; none where they
            have been the same since the live version went live.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self.since: Mapping[StreamKey, int] = {}

    @property
    def serving(self) -> Serving:
        """Who answers at present."""
        return self._pipeline.serving

    def fresh(self, context: Context) -> NDArray[np.bool_]:
        """Which windows those who answer at present have answered, and nobody else with them."""
        first = np.array([self.since.get(key, 0) for key in context.keys] or [0], np.int64)
        fresh: NDArray[np.bool_] = context.version == self._pipeline.version.id
        return fresh & (context.seq >= first[context.stream])

    async def on_record(self, context: Context) -> IntArray:
        """Their own answers to the windows of a context, (N,): those on record, and new ones where
        others gave them.
        """
        answers = context.predicted.copy()
        missing = ~self.fresh(context)
        answers[missing] = await self.classes(context.x[missing])
        return answers

    async def served(self, context: Context) -> IntArray:
        """What was served for the windows of a context, (N,), labels and all; where others
        answered, what they would have served. Where it is forgotten how labels corrected it, what
        they said by themselves: nobody else could be corrected alike.
        """
        known = (await self.corrections(context)).speaks.any(axis=1)
        served, missing = np.where(known, context.served, context.predicted), ~self.fresh(context)
        served[missing] = await self.would_serve(self.serving, context.take(missing))
        return served

    async def corrections(self, context: Context) -> Correction:
        """How labels corrected the answers to the windows of a context, as far as it is known."""
        return await self._pipeline.corrections(context.row.tolist())

    async def would_serve(self, serving: Serving, context: Context) -> IntArray:
        """What others, of whom some answer at present as well, would have served for the windows of
        a context, (N,), with the labels that were known when they came.
        """
        parts = [np.empty(0, np.int64)]
        for start in range(0, len(context), _TURN):
            some = slice(start, start + _TURN)
            rows = context.row[some].tolist()
            parts.append(await self._pipeline.would_serve(serving, context.x[some], rows))
        return np.concatenate(parts)

    async def classes(self, x: NDArray[np.float32]) -> IntArray:
        """Their answers to windows x (N, C, T), (N,)."""
        parts = await self._in_turns(x, lambda few: self._pipeline.serving.predict(few))
        return np.concatenate([np.empty(0, np.int64), *(part.predicted for part in parts)])

    async def look(self, x: NDArray[np.float32]) -> Look:
        """What the live version alone makes of windows x (N, C, T), how sure it is, and how
        ordinary they look to it.
        """

        def seen(few: NDArray[np.float32]) -> Look:
            version = self._pipeline.version
            out = version.predict(few)
            found = version.reference.p_values(out.embeddings, out.predicted, out.confidence)
            return Look(out.predicted, out.confidence, found["embedding"])

        none = Look(np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0))
        looks = [none, *await self._in_turns(x, seen)]
        return Look(*(np.concatenate(parts) for parts in zip(*looks, strict=True)))

    async def restated(
        self, version: ModelVersion, x: NDArray[np.float32], of: NDArray[np.float32]
    ) -> IntArray:
        """The answers to windows x (N, C, T), (N,), of a version whose batch norms take the
        statistics of the windows `of` (M, C, T).
        """
        twin = await self._pipeline.modelled(version.twin)
        return await asyncio.to_thread(lambda: _predicted(Serving(twin.restated(of)), x))

    async def _in_turns(
        self, x: NDArray[np.float32], ask: Callable[[NDArray[np.float32]], _T]
    ) -> list[_T]:
        return [
            await self._pipeline.modelled(lambda few=x[start : start + _TURN]: ask(few))  # type: ignore[misc]
            for start in range(0, len(x), _TURN)
        ]


async def answers_of(serving: Serving, x: NDArray[np.float32]) -> IntArray:
    """The answers of others, of whom nobody answers at present, to windows x (N, C, T), (N,)."""
    return await asyncio.to_thread(_predicted, serving, x)


def _predicted(serving: Serving, x: NDArray[np.float32]) -> IntArray:
    if not len(x):
        return np.empty(0, np.int64)
    parts = np.array_split(x, -(-len(x) // _BATCH))
    return np.concatenate([serving.predict(part).predicted for part in parts])
