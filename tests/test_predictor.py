from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from edgetuner import predictor as module  # noqa: E402
from edgetuner.config import Config  # noqa: E402
from edgetuner.drift.monitor import Finding  # noqa: E402
from edgetuner.errors import StoreError  # noqa: E402
from edgetuner.inference import ModelVersion  # noqa: E402
from edgetuner.pipeline import Pipeline, Predicted, watch_with  # noqa: E402
from edgetuner.predictor import Predictor  # noqa: E402
from edgetuner.serving import Serving  # noqa: E402
from edgetuner.store import Entry, Store, Window  # noqa: E402
from tests import waves  # noqa: E402


class Stage:
    """A predictor, and what it did."""

    def __init__(self, pipeline: Pipeline, *, max_batch: int = 8, max_backlog: int = 100) -> None:
        settings = Config.model_validate({"inference": {"max_batch": max_batch}}).inference
        self.pipeline = pipeline
        self.told: list[Predicted] = []
        self.batches: list[int] = []
        self.failures: list[StoreError] = []
        self.predictor = Predictor(
            pipeline, settings, max_backlog, self._done, self.failures.append
        )

    def _done(self, predicted: Sequence[Predicted], findings: Sequence[Finding]) -> None:
        self.told += predicted
        self.batches.append(len(predicted))

    async def stored(self, count: int, first: int = 0) -> list[Window]:
        entries = [
            Entry("c", "s", n, n, waves.window(n, waves.label_of(n)), n)
            for n in range(first, first + count)
        ]
        receipts = await self.pipeline.stored(lambda store: store.add(entries))
        return [receipt.window for receipt in receipts if receipt.window is not None]


Scene = Callable[[Pipeline], Coroutine[Any, Any, None]]


@pytest.fixture
def play(wave_bundle: Path) -> Callable[[Scene], None]:
    version = ModelVersion.load(wave_bundle)

    async def run(scene: Scene) -> None:
        store = Store.open(None, shape=(3, 32), classes=waves.CLASSES, durability="memory")
        pipeline = Pipeline(store, Serving(version), watch_with(Config(), version))
        try:
            await scene(pipeline)
        finally:
            await pipeline.close()

    return lambda scene: asyncio.run(run(scene))


def test_what_is_queued_is_predicted_in_batches_and_in_order(play: Callable[[Scene], None]) -> None:
    async def scene(pipeline: Pipeline) -> None:
        stage = Stage(pipeline)
        assert stage.predictor.latency_s() == {}, "nothing measured is nothing, not 0"
        await stage.predictor.put(await stage.stored(20))
        assert stage.predictor.backlog == 20
        task = asyncio.create_task(stage.predictor.serve())
        assert await stage.predictor.drain(60)
        task.cancel()
        assert [p.window.seq for p in stage.told] == list(range(20))
        assert stage.batches == [8, 8, 4]
        assert stage.predictor.predicted == 20 and stage.predictor.backlog == 0
        assert stage.predictor.latency_s().keys() == {"p50", "p99"}
        assert await pipeline.unpublished() == []

    play(scene)


def test_a_full_queue_makes_the_sender_wait(play: Callable[[Scene], None]) -> None:
    async def scene(pipeline: Pipeline) -> None:
        stage = Stage(pipeline, max_backlog=4)
        sender = asyncio.create_task(stage.predictor.put(await stage.stored(6)))
        while stage.predictor.backlog < 4:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not sender.done()
        task = asyncio.create_task(stage.predictor.serve())
        await sender
        assert await stage.predictor.drain(60)
        task.cancel()
        assert [p.window.seq for p in stage.told] == list(range(6))

    play(scene)


def test_draining_gives_up_in_time(play: Callable[[Scene], None]) -> None:
    async def scene(pipeline: Pipeline) -> None:
        stage = Stage(pipeline)
        await stage.predictor.put(await stage.stored(1))
        assert not await stage.predictor.drain(0.01)

    play(scene)


def test_draining_predicts_what_was_stored_and_never_queued(play: Callable[[Scene], None]) -> None:
    async def scene(pipeline: Pipeline) -> None:
        stage = Stage(pipeline, max_backlog=4)
        sender = asyncio.create_task(stage.predictor.put(await stage.stored(10)))
        while stage.predictor.backlog < 4:
            await asyncio.sleep(0)
        sender.cancel()  # as the service does on SIGTERM
        task = asyncio.create_task(stage.predictor.serve())
        assert await stage.predictor.drain(60)
        task.cancel()
        assert [p.window.seq for p in stage.told] == list(range(10))
        assert not any(p.again for p in stage.told)
        assert await pipeline.unpublished() == []

    play(scene)


def test_recovery_makes_up_for_an_earlier_life(play: Callable[[Scene], None]) -> None:
    async def scene(pipeline: Pipeline) -> None:
        earlier = Stage(pipeline)
        windows = await earlier.stored(30)
        predicted, _ = await pipeline.predict(windows[:10])
        await pipeline.published(predicted[:7])

        stage = Stage(pipeline)
        recovered = await stage.predictor.recover()
        assert recovered == stage.told
        assert [p.window.seq for p in recovered] == list(range(7, 30))
        assert [p.again for p in recovered] == [True] * 3 + [False] * 20
        assert max(stage.batches) <= 8
        assert await Stage(pipeline).predictor.recover() == []

    play(scene)


def test_a_full_disk_delays_predictions_and_loses_none(
    play: Callable[[Scene], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(pipeline: Pipeline) -> None:
        monkeypatch.setattr(module, "_RETRY_S", 0.0)
        full, record = iter([True, True, False]), pipeline.record

        async def failing(predicted: Sequence[Predicted]) -> Any:
            if next(full, False):
                raise StoreError("database or disk is full", field="windows.db")
            return await record(predicted)

        monkeypatch.setattr(pipeline, "record", failing)
        stage = Stage(pipeline)
        await stage.predictor.put(await stage.stored(12))
        turns = stage.predictor.turns
        task = asyncio.create_task(stage.predictor.serve())
        assert await stage.predictor.drain(60)
        task.cancel()
        assert [p.window.seq for p in stage.told] == list(range(12))
        assert len(stage.failures) == 2
        assert stage.predictor.turns > turns + 2, "the watchdog sees that it is not hung"

    play(scene)
