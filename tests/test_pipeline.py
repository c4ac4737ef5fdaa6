from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgetuner.config import Config  # noqa: E402
from edgetuner.errors import StoreError  # noqa: E402
from edgetuner.inference import ModelVersion  # noqa: E402
from edgetuner.label_cache import LabelCache  # noqa: E402
from edgetuner.pipeline import Pipeline, Predicted, watch_with  # noqa: E402
from edgetuner.serving import Serving  # noqa: E402
from edgetuner.store import Entry, LabelEntry, Store, Window  # noqa: E402
from tests import waves  # noqa: E402

Scene = Callable[[Pipeline], Coroutine[Any, Any, None]]


@pytest.fixture(scope="module")
def version(wave_bundle: Path) -> ModelVersion:
    return ModelVersion.load(wave_bundle)


@pytest.fixture
def play(version: ModelVersion) -> Callable[[Scene], None]:
    """Runs a scene with a pipeline."""

    async def run(scene: Scene) -> None:
        store = Store.open(None, shape=(3, 32), classes=waves.CLASSES, durability="memory")
        pipeline = Pipeline(store, Serving(version), watch_with(Config(), version), LabelCache())
        try:
            await scene(pipeline)
        finally:
            await pipeline.close()

    return lambda scene: asyncio.run(run(scene))


async def stored(pipeline: Pipeline, count: int, first: int = 0) -> list[Window]:
    seqs = range(first, first + count)
    entries = [Entry("c", "s", n, n, waves.window(n, waves.label_of(n)), n) for n in seqs]
    receipts = await pipeline.stored(lambda store: store.add(entries))
    return [receipt.window for receipt in receipts if receipt.window is not None]


def test_windows_are_predicted_and_recorded(play: Callable[[Scene], None]) -> None:
    async def scene(pipeline: Pipeline) -> None:
        windows = await stored(pipeline, 12)
        predicted, findings = await pipeline.predict(windows)
        assert [p.window.seq for p in predicted] == list(range(12))
        assert [p.predicted for p in predicted] == [waves.label_of(n) for n in range(12)]
        assert {finding.kind for finding in findings} <= {"warn"}
        context = await pipeline.stored(lambda store: store.context({("c", "s"): 0}, 100))
        assert context.predicted.tolist() == [p.predicted for p in predicted]
        assert set(context.version) == {pipeline.version.id}

    play(scene)


def test_a_window_has_one_prediction_however_often_it_is_predicted(
    play: Callable[[Scene], None],
) -> None:
    async def scene(pipeline: Pipeline) -> None:
        windows = await stored(pipeline, 4)
        assert len((await pipeline.predict(windows))[0]) == 4
        assert (await pipeline.predict(windows))[0] == []

    play(scene)


def test_what_is_recorded_and_not_published_is_told_again(play: Callable[[Scene], None]) -> None:
    async def scene(pipeline: Pipeline) -> None:
        predicted, _ = await pipeline.predict(await stored(pipeline, 6))
        await pipeline.published(predicted[:4])
        again = await pipeline.unpublished()
        assert [p.window.seq for p in again] == [4, 5]
        assert all(p.again for p in again) and not any(p.again for p in predicted)
        assert [p.predicted for p in again] == [p.predicted for p in predicted[4:]]

    play(scene)


def test_a_context_holds_no_window_of_a_broken_sensor(play: Callable[[Scene], None]) -> None:
    async def scene(pipeline: Pipeline) -> None:
        x = [waves.window(n, waves.label_of(n)) for n in range(100)]
        x[3][1] = 0.5  # one flat line: too short a fault to be reported
        x[70:73] = [1000 * window for window in x[70:73]]
        entries = [Entry("c", "s", n, n, x[n], n, label=waves.label_of(n)) for n in range(100)]
        receipts = await pipeline.stored(lambda store: store.add(entries))
        windows = [receipt.window for receipt in receipts if receipt.window is not None]
        # Recorded without being watched, as by a service that has been restarted since.
        out = pipeline.version.predict(np.stack([window.x for window in windows]))
        await pipeline.record(
            [
                Predicted(window, int(label), 1.0, "v")
                for window, label in zip(windows, out.predicted, strict=True)
            ]
        )
        for labelled in (False, True):
            context = await pipeline.context({("c", "s"): 0}, 1000, labelled=labelled)
            sound = [n for n in range(100) if n not in (3, 70, 71, 72)]
            assert context.seq.tolist() == sound
            assert np.array_equal(context.x, np.stack(x)[sound])

    play(scene)


def test_a_swap_falls_between_two_batches(play: Callable[[Scene], None], wave_bundle: Path) -> None:
    async def scene(pipeline: Pipeline) -> None:
        other = ModelVersion.load(wave_bundle)
        other.id = "other"
        windows = await stored(pipeline, 60)
        parts = [windows[n : n + 10] for n in range(0, 60, 10)]
        before = [asyncio.create_task(pipeline.predict(part)) for part in parts[:3]]
        swap = asyncio.create_task(pipeline.swap(Serving(other)))
        after = [asyncio.create_task(pipeline.predict(part)) for part in parts[3:]]
        batches, previous = await asyncio.gather(*before, *after), await swap
        before_it = previous.version.id
        assert before_it != "other" and pipeline.version is other
        versions = [{p.version for p in predicted} for predicted, _ in batches]
        assert versions == [{before_it}] * 3 + [{"other"}] * 3
        context = await pipeline.stored(lambda store: store.context({("c", "s"): 0}, 100))
        assert context.seq.tolist() == list(range(60))

    play(scene)


def alike(first: int, count: int = 4) -> list[Entry]:
    """Windows from a sensor that sits elsewhere, which all look the same; the model says 0."""
    x = waves.turned(waves.window(0, 0))
    return [Entry("c", "s", n, n, x, n) for n in range(first, first + count)]


async def answered(pipeline: Pipeline, entries: list[Entry]) -> list[Predicted]:
    receipts = await pipeline.stored(lambda store: store.add(entries))
    windows = [receipt.window for receipt in receipts if receipt.window is not None]
    return (await pipeline.predict(windows))[0]


@pytest.mark.parametrize("with_the_window", [False, True])
def test_labels_answer_for_the_next_windows_like_theirs(
    play: Callable[[Scene], None], with_the_window: bool
) -> None:
    """And what versions say by themselves is what they are judged by."""

    async def scene(pipeline: Pipeline) -> None:
        first = alike(0, 8)
        if with_the_window:
            first = [replace(entry, label=2) for entry in first]
        before = await answered(pipeline, first)
        assert {(p.predicted, p.overruled) for p in before} == {(0, None)}
        if not with_the_window:
            await pipeline.label([LabelEntry("c", "s", n, 2, n) for n in range(8)])
        after = await answered(pipeline, alike(8))
        assert {(p.predicted, p.overruled) for p in after} == {(2, 0)}
        others = await answered(
            pipeline, [Entry("c", "other", n, n, waves.window(0, 0), n) for n in range(4)]
        )
        assert {(p.predicted, p.overruled) for p in others} == {(0, None)}
        context = await pipeline.context({("c", "s"): 0}, 100)
        assert context.predicted.tolist() == [0] * 12
        again = await pipeline.unpublished()
        assert [(p.predicted, p.overruled) for p in again if p.window.stream == "s"] == [
            *[(0, None)] * 8,
            *[(2, 0)] * 4,
        ]
        receipts, _ = await pipeline.label([LabelEntry("c", "s", 8, 2, 8)])
        assert receipts[0].predicted == 0, "the error detector hears of the model's own word"

    play(scene)


def test_labels_on_record_answer_again_after_a_restart(
    version: ModelVersion, tmp_path: Path
) -> None:
    async def life(first: int, remember: bool) -> set[tuple[int, int | None]]:
        store = Store.open(tmp_path / "windows.db", shape=(3, 32), classes=waves.CLASSES)
        pipeline = Pipeline(store, Serving(version), watch_with(Config(), version), LabelCache())
        try:
            if remember:
                await pipeline.remember()
                assert await pipeline.labelled([("c", "s")]) == set(), "no window has come yet"
            told = await answered(pipeline, alike(first, 8))
            await pipeline.label([LabelEntry("c", "s", n, y, n) for n in range(first, first + 8)])
            return {(p.predicted, p.overruled) for p in told}
        finally:
            await pipeline.close()

    y = 2
    assert asyncio.run(life(0, remember=True)) == {(0, None)}, "there is nothing on record"
    assert asyncio.run(life(8, remember=False)) == {(0, None)}
    assert asyncio.run(life(16, remember=True)) == {(2, 0)}
    y = 0  # the model was right after all
    for first in (24, 32, 40):
        asyncio.run(life(first, remember=True))
    assert asyncio.run(life(48, remember=True)) == {(0, None)}, "trust in labels is told again, too"


def test_others_would_have_been_overruled_by_the_same_labels(play: Callable[[Scene], None]) -> None:
    async def scene(pipeline: Pipeline) -> None:
        await answered(pipeline, alike(0, 8))
        await pipeline.label([LabelEntry("c", "s", n, 2, n) for n in range(8)])
        served = await answered(pipeline, alike(8))
        assert {p.predicted for p in served} == {2} and all(p.overruled == 0 for p in served)
        x, rows = np.stack([p.window.x for p in served]), [p.window.row for p in served]
        again = await pipeline.would_serve(pipeline.serving, x, rows)
        assert set(again.tolist()) == {2}
        others = await pipeline.would_serve(pipeline.serving, x, [row + 1000 for row in rows])
        assert set(others.tolist()) == {0}, "nobody said anything of these"

    play(scene)


def test_a_label_that_is_taken_back_speaks_no_more(play: Callable[[Scene], None]) -> None:
    async def scene(pipeline: Pipeline) -> None:
        await answered(pipeline, alike(0, 8))
        for label in (2, 0):
            await pipeline.label([LabelEntry("c", "s", n, label, n) for n in range(8)])
        assert {p.predicted for p in await answered(pipeline, alike(8))} == {0}

    play(scene)


def test_a_label_taken_back_before_the_prediction_speaks_no_more(
    play: Callable[[Scene], None],
) -> None:
    async def scene(pipeline: Pipeline) -> None:
        entries = [replace(entry, label=2) for entry in alike(0, 8)]
        receipts = await pipeline.stored(lambda store: store.add(entries))
        await pipeline.label([LabelEntry("c", "s", n, 0, n) for n in range(8)])
        await pipeline.predict([r.window for r in receipts if r.window is not None])
        assert {p.predicted for p in await answered(pipeline, alike(8))} == {0}

    play(scene)


def test_the_cache_holds_what_is_on_record_whoever_comes_last(
    play: Callable[[Scene], None],
) -> None:
    """Labels quicker than their prediction, and others for the same windows at the same time."""

    async def scene(pipeline: Pipeline) -> None:
        receipts = await pipeline.stored(lambda store: store.add(alike(0, 32)))
        inferred, _ = await pipeline.infer([r.window for r in receipts if r.window is not None])
        await pipeline.label([LabelEntry("c", "s", n, 2, n) for n in range(32)])
        again = [LabelEntry("c", "s", n, 0, n) for n in range(32)]
        await asyncio.gather(pipeline.record(inferred), pipeline.label(again))
        assert {p.predicted for p in await answered(pipeline, alike(32))} == {0}

    play(scene)


def test_labels_that_can_say_nothing_cost_no_inference(
    play: Callable[[Scene], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(pipeline: Pipeline) -> None:
        entries = [replace(e, t_ns=n * 1000 * 10**9) for n, e in enumerate(alike(0, 8))]
        await answered(pipeline, entries)
        asked: list[int] = []
        predict = pipeline.version.predict

        def counted(x: Any) -> Any:
            asked.append(len(x))
            return predict(x)

        monkeypatch.setattr(pipeline.version, "predict", counted)
        await pipeline.label([LabelEntry("c", "s", n, 0, n) for n in range(8)])
        assert asked == [2], "hours go by between them: only the latest are near"
        await pipeline.label([LabelEntry("c", "s", 7, n % 2 + 1, n) for n in range(16)])
        assert asked == [2, 1], "of one window the last label counts"

    play(scene)


def test_a_swap_leaves_what_labels_said(play: Callable[[Scene], None], wave_bundle: Path) -> None:
    async def scene(pipeline: Pipeline) -> None:
        await answered(pipeline, alike(0, 8))
        await pipeline.label([LabelEntry("c", "s", n, 2, n) for n in range(8)])
        source, adapted = pipeline.version, ModelVersion.load(wave_bundle)
        adapted.id = "adapted"
        adapted.manifest = adapted.manifest.model_copy(update={"adaptation": {}})
        await pipeline.swap(Serving(adapted, (source,)))
        assert {p.predicted for p in await answered(pipeline, alike(8))} == {2}
        await pipeline.swap(Serving(adapted))  # keyed by other embeddings from now on
        assert {p.overruled for p in await answered(pipeline, alike(12))} == {None}
        await pipeline.label([LabelEntry("c", "s", n, 1, n) for n in range(12, 16)])
        assert {p.predicted for p in await answered(pipeline, alike(16))} == {1}

    play(scene)


def test_labels_weigh_only_who_answered_their_windows(
    play: Callable[[Scene], None], wave_bundle: Path
) -> None:
    async def scene(pipeline: Pipeline) -> None:
        def labels(first: int) -> list[LabelEntry]:
            return [LabelEntry("c", "s", n, waves.label_of(n), n) for n in range(first, first + 6)]

        await pipeline.predict(await stored(pipeline, 6))
        before, wrong = pipeline.version, ModelVersion.load(wave_bundle)
        wrong.id = "other"
        with torch.no_grad():
            for weight in wrong._module.get_submodule("head").parameters():
                weight.copy_(weight.roll(1, 0))
        await pipeline.swap(Serving(wrong, (before,)))
        await pipeline.predict(await stored(pipeline, 6, first=6))
        await pipeline.label(labels(0))
        assert pipeline.serving.shares == (0.5, 0.5), "these were answered before the swap"
        await pipeline.label(labels(6))
        assert pipeline.serving.shares[0] < 0.3
        shares = pipeline.serving.shares
        await pipeline.label(labels(6))
        assert pipeline.serving.shares == shares, "told twice is no further evidence"
        await pipeline.proven()
        assert pipeline.serving.shares == pytest.approx(shares)

    play(scene)


def test_a_label_that_is_quicker_than_the_prediction_counts_once(
    play: Callable[[Scene], None], wave_bundle: Path
) -> None:
    async def scene(pipeline: Pipeline) -> None:
        other = ModelVersion.load(wave_bundle)
        other.id = "other"
        with torch.no_grad():
            for weight in other._module.get_submodule("head").parameters():
                weight.copy_(weight.roll(1, 0))
        await pipeline.swap(Serving(other, (pipeline.version,)))
        windows = await stored(pipeline, 6)
        inferred, _ = await pipeline.infer(windows)
        said = [LabelEntry("c", "s", n, waves.label_of(n), n) for n in range(6)]
        await pipeline.label(said[:4])
        assert pipeline.serving.shares == (0.5, 0.5), "nobody has answered on record"
        recorded, _ = await pipeline.record(inferred)
        assert len(recorded) == 6
        after_four = pipeline.serving.shares
        assert after_four[0] < 0.4
        await pipeline.label(said[:4])
        assert pipeline.serving.shares == after_four
        await pipeline.label(said[4:])
        assert pipeline.serving.shares[0] < after_four[0]

    play(scene)


def test_what_cannot_be_read_costs_evidence_and_no_prediction(
    play: Callable[[Scene], None], wave_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(pipeline: Pipeline) -> None:
        other = ModelVersion.load(wave_bundle)
        other.id = "other"
        await pipeline.swap(Serving(other, (pipeline.version,)))
        windows = await stored(pipeline, 4)
        inferred, _ = await pipeline.infer(windows)
        await pipeline.label([LabelEntry("c", "s", n, waves.label_of(n), n) for n in range(4)])

        def broken(*_: object) -> None:
            raise StoreError("disk I/O error", field="windows.db", remedy="replace the card")

        with monkeypatch.context() as patch:
            patch.setattr(Store, "samples", broken)
            recorded, _ = await pipeline.record(inferred)
        assert len(recorded) == 4, "they are to be published"
        assert pipeline.serving.shares == (0.5, 0.5)

    play(scene)


def test_a_label_of_a_window_whose_samples_are_gone_is_taken(
    play: Callable[[Scene], None], wave_bundle: Path
) -> None:
    async def scene(pipeline: Pipeline) -> None:
        other = ModelVersion.load(wave_bundle)
        other.id = "other"
        await pipeline.swap(Serving(other, (pipeline.version,)))
        await pipeline.predict(await stored(pipeline, 4))
        await pipeline.stored(
            lambda store: store._database._connection.execute("DELETE FROM samples")
        )
        receipts, _ = await pipeline.label([LabelEntry("c", "s", 0, waves.label_of(0), 0)])
        assert [receipt.outcome for receipt in receipts] == ["stored"]
        assert pipeline.serving.shares == (0.5, 0.5), "nothing can be said of it"

    play(scene)


def test_drift_is_found(play: Callable[[Scene], None]) -> None:
    async def scene(pipeline: Pipeline) -> None:
        kinds = []
        entries = [
            Entry("c", "s", n, n, waves.turned(waves.window(n, waves.label_of(n))), n)
            for n in range(20)
        ]
        receipts = await pipeline.stored(lambda store: store.add(entries))
        for receipt in receipts:
            assert receipt.window is not None
            kinds += [finding.kind for finding in (await pipeline.predict([receipt.window]))[1]]
        assert kinds.count("drift") == 1, "and told once"
        start = await pipeline.watched(lambda monitor: monitor.context_start(("c", "s")))
        assert start <= 3

    play(scene)


def test_the_monitor_takes_every_stream_that_the_store_holds(version: ModelVersion) -> None:
    config = Config.model_validate({"ingest": {"max_streams": 1}})
    monitor = watch_with(config, version)
    x = np.stack([waves.window(n, 0) for n in range(3)])
    out = version.predict(x)
    keys = [("c", str(n)) for n in range(3)]  # held from the time of another configuration
    monitor.update_many(keys, [0, 0, 0], x, out.embeddings, out.predicted, out.confidence)
    assert len(monitor.state()["streams"]) == 3
