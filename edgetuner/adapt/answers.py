"""What versions make of windows, asked so that no live window is late."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgetuner.inference import ModelVersion, Outputs
from edgetuner.pipeline import Pipeline
from edgetuner.serving import Answer, Serving
from edgetuner.store import Context

_TURN = 8  # windows of the past that are predicted between two live batches
_BATCH = 64  # of a version that is not live, beside it

IntArray = NDArray[np.int64]


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
        pipeline: holds it.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    async def on_record(self, context: Context) -> IntArray:
        """Their answers to the windows of a context, (N,): those on record, and new ones where
        another version gave them.
        """
        answers = context.predicted.copy()
        missing = context.version != self._pipeline.version.id
        answers[missing] = await self.classes(context.x[missing])
        return answers

    async def classes(self, x: NDArray[np.float32]) -> IntArray:
        """Their answers to windows x (N, C, T), (N,)."""
        parts = [np.empty(0, np.int64)]
        parts += [answer.predicted for _, answer, _ in await self._in_turns(x)]
        return np.concatenate(parts)

    async def look(self, x: NDArray[np.float32]) -> Look:
        """What the live version alone makes of windows x (N, C, T), how sure it is, and how
        ordinary they look to it.
        """
        looks = [Look(np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0))]
        for version, _, out in await self._in_turns(x):
            found = version.reference.p_values(out.embeddings, out.predicted, out.confidence)
            looks.append(Look(out.predicted, out.confidence, found["embedding"]))
        return Look(*(np.concatenate(parts) for parts in zip(*looks, strict=True)))

    async def _in_turns(self, x: NDArray[np.float32]) -> list[tuple[ModelVersion, Answer, Outputs]]:
        def predicted(few: NDArray[np.float32]) -> tuple[ModelVersion, Answer, Outputs]:
            serving = self._pipeline.serving
            return serving.version, *serving.answer(few)

        return [
            await self._pipeline.modelled(
                lambda few=x[start : start + _TURN]: predicted(few)  # type: ignore[misc]
            )
            for start in range(0, len(x), _TURN)
        ]


async def answers_of(serving: Serving, x: NDArray[np.float32]) -> IntArray:
    """The answers of others than those who answer at present to windows x (N, C, T), (N,)."""
    return await asyncio.to_thread(_predicted, serving, x)


async def restated_answers(
    version: ModelVersion, x: NDArray[np.float32], of: NDArray[np.float32]
) -> IntArray:
    """The answers to windows x (N, C, T), (N,), of a version whose batch norms take the statistics
    of the windows `of` (M, C, T).
    """
    return await asyncio.to_thread(lambda: _predicted(Serving(version.restated(of)), x))


def _predicted(serving: Serving, x: NDArray[np.float32]) -> IntArray:
    if not len(x):
        return np.empty(0, np.int64)
    parts = np.array_split(x, -(-len(x) // _BATCH))
    return np.concatenate([serving.predict(part).predicted for part in parts])
