"""Windows wait here for the live model: batched over all streams, in order within each."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence

from edgetuner.config import InferenceConfig
from edgetuner.drift.monitor import Finding
from edgetuner.errors import StoreError
from edgetuner.pipeline import Pipeline, Predicted
from edgetuner.store import Window

_RECOVER = 256
_LATENCIES = 512  # windows over which the latency quantiles are taken
_RETRY_S = 1.0  # until a disk that was full is tried again

Done = Callable[[Sequence[Predicted], Sequence[Finding]], None]


class Predictor:
    """The prediction loop.

    Args:
        pipeline: predicts and records.
        settings: `max_batch`.
        max_backlog: windows that may wait; beyond it `put` waits, and with it whoever sends.
        done: called with each batch of predictions on record, and what the detectors found.
        failed: called when predictions cannot be recorded; they are kept, and it is tried again.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        settings: InferenceConfig,
        max_backlog: int,
        done: Done,
        failed: Callable[[StoreError], None],
    ) -> None:
        self._pipeline = pipeline
        self._max_batch = settings.max_batch
        self._done = done
        self._failed = failed
        self._queue: asyncio.Queue[tuple[Window, float]] = asyncio.Queue(max_backlog)
        self._latencies: deque[float] = deque(maxlen=_LATENCIES)
        self.predicted = 0
        self.overruled = 0  # of them, by labels of windows like them
        self.turns = 0  # the watchdog is fed while this moves, or nothing waits

    @property
    def backlog(self) -> int:
        """Windows that wait."""
        return self._queue.qsize()

    def latency_s(self) -> dict[str, float]:
        """Median and 99th percentile of the seconds from commit to prediction; empty before the
        first.
        """
        if not self._latencies:
            return {}
        ordered = sorted(self._latencies)
        return {
            "p50": round(ordered[len(ordered) // 2], 5),
            "p99": round(ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))], 5),
        }

    async def put(self, windows: Sequence[Window]) -> None:
        """Queues stored windows; waits while there is no room."""
        now = time.monotonic()
        for window in windows:
            await self._queue.put((window, now))

    async def recover(self) -> list[Predicted]:
        """Predicts what an earlier run acknowledged and did not predict, and sends again what it
        may not have sent; returns all of it, in order.
        """
        recovered = await self._pipeline.unpublished()
        if recovered:
            await self._publish(recovered, [])
        while windows := await self._pipeline.stored(lambda s: s.unpredicted(_RECOVER)):
            for start in range(0, len(windows), self._max_batch):
                recovered += await self._predict(windows[start : start + self._max_batch])
        return recovered

    async def serve(self) -> None:
        """Predicts what is queued, until cancelled."""
        while True:
            batch = [await self._queue.get()]
            while len(batch) < self._max_batch and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            await self._predict([window for window, _ in batch])
            now = time.monotonic()
            for _, since in batch:
                self._latencies.append(now - since)
                self._queue.task_done()
            self.turns += 1

    async def drain(self, seconds: float) -> bool:
        """Waits until every stored window has its prediction; False if that took too long.

        Nothing more may be put. A window whose sender was cancelled between its commit and `put`
        was never queued; it is taken from the store.
        """
        try:
            await asyncio.wait_for(self._finish(), seconds)
        except asyncio.TimeoutError:
            return False
        return True

    async def _finish(self) -> None:
        await self._queue.join()
        await self.recover()

    async def _predict(self, windows: Sequence[Window]) -> list[Predicted]:
        inferred, findings = await self._pipeline.infer(windows)
        predicted, more = await self._record(inferred)
        self.predicted += len(predicted)
        self.overruled += sum(one.overruled is not None for one in predicted)
        await self._publish(predicted, findings + more)
        return predicted

    async def _record(self, inferred: Sequence[Predicted]) -> tuple[list[Predicted], list[Finding]]:
        """Waits for a full disk: these windows are acknowledged, and giving up would lose them."""
        while True:
            try:
                return await self._pipeline.record(inferred)
            except StoreError as error:
                self._failed(error)
                self.turns += 1  # waiting, and not hung
                await asyncio.sleep(_RETRY_S)

    async def _publish(self, predicted: Sequence[Predicted], findings: Sequence[Finding]) -> None:
        self._done(predicted, findings)
        await self._pipeline.published(predicted)
