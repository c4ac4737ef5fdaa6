from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgetuner.adapt.answers import Answers, answers_of  # noqa: E402
from edgetuner.config import Config  # noqa: E402
from edgetuner.corrections import Correction  # noqa: E402
from edgetuner.inference import ModelVersion  # noqa: E402
from edgetuner.pipeline import Pipeline, watch_with  # noqa: E402
from edgetuner.serving import Serving  # noqa: E402
from edgetuner.store import Context, Entry, Store  # noqa: E402
from tests import waves  # noqa: E402

Scene = Callable[[Pipeline], Coroutine[Any, Any, None]]
Y = np.array([waves.label_of(n) for n in range(30)])
X = np.stack([waves.window(n, int(k)) for n, k in enumerate(Y)])


async def recorded(pipeline: Pipeline) -> Context:
    """Thirty windows that were answered."""
    entries = [Entry("c", "s", n, n, X[n], n) for n in range(30)]
    receipts = await pipeline.stored(lambda store: store.add(entries))
    await pipeline.predict([r.window for r in receipts if r.window is not None])
    return await pipeline.context({("c", "s"): 0}, 100)


@pytest.fixture(scope="module")
def version(wave_bundle: Path) -> ModelVersion:
    return ModelVersion.load(wave_bundle)


@pytest.fixture
def play(version: ModelVersion) -> Callable[[Scene], None]:
    async def run(scene: Scene) -> None:
        store = Store.open(None, shape=(3, 32), classes=waves.CLASSES, durability="memory")
        pipeline = Pipeline(store, Serving(version), watch_with(Config(), version))
        try:
            await scene(pipeline)
        finally:
            await pipeline.close()

    return lambda scene: asyncio.run(run(scene))


def test_what_is_on_record_is_not_asked_again(
    play: Callable[[Scene], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(pipeline: Pipeline) -> None:
        context = await recorded(pipeline)
        context.version[20:] = "another"
        context.predicted[20:] = 0
        asked = []
        predict = pipeline.version.predict
        monkeypatch.setattr(
            pipeline.version, "predict", lambda x: asked.append(len(x)) or predict(x)
        )
        assert (await Answers(pipeline).on_record(context)).tolist() == Y.tolist()
        assert sum(asked) == 10 and max(asked) <= 8, "and a few at a time"

    play(scene)


def test_windows_as_at_home_look_ordinary_and_turned_ones_do_not(
    play: Callable[[Scene], None],
) -> None:
    async def scene(pipeline: Pipeline) -> None:
        answers = Answers(pipeline)
        seen = await answers.look(X)
        assert seen.predicted.tolist() == Y.tolist() == (await answers.classes(X)).tolist()
        assert np.median(seen.p_values) > 0.2 and np.median(seen.confidence) > 0.8
        assert np.median((await answers.look(-X)).p_values) < 0.05
        assert [len(part) for part in await answers.look(X[:0])] == [0, 0, 0]

    play(scene)


def test_a_version_that_is_not_live_answers_beside_it(version: ModelVersion) -> None:
    async def scene() -> None:
        assert (await answers_of(Serving(version), X)).tolist() == Y.tolist()
        assert len(await answers_of(Serving(version), X[:0])) == 0

    asyncio.run(scene())


def test_statistics_of_the_present_answer_a_change_of_scale(
    play: Callable[[Scene], None],
) -> None:
    async def scene(pipeline: Pipeline) -> None:
        answers, louder = Answers(pipeline), 3 * X + 4
        before = (await answers.classes(louder) == Y).mean()
        after = (await answers.restated(pipeline.version, louder, louder) == Y).mean()
        assert after > before + 0.2
        assert (await answers.classes(X)).tolist() == Y.tolist(), "the version stays as it is"

    play(scene)


def test_versions_that_are_asked_while_they_serve_take_turns(
    play: Callable[[Scene], None], version: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two threads in one module would read each other's embeddings."""

    async def scene(pipeline: Pipeline) -> None:
        answers, threads = Answers(pipeline), set()
        context = await recorded(pipeline)
        predict = version.predict

        def noted(x: Any) -> Any:
            threads.add(threading.get_ident())
            return predict(x)

        monkeypatch.setattr(version, "predict", noted)
        asked = answers.would_serve(Serving(version), context)
        await asyncio.gather(asked, answers.classes(X), answers.look(X))
        assert len(threads) == 1
        assert (await answers.would_serve(Serving(version), context)).tolist() == Y.tolist()
        nothing = context.take(context.seq < 0)
        assert len(await answers.would_serve(Serving(version), nothing)) == 0

    play(scene)


def test_others_would_have_been_corrected_by_the_same_labels(
    play: Callable[[Scene], None], version: ModelVersion
) -> None:
    async def scene(pipeline: Pipeline) -> None:
        said = np.zeros((30, 3))
        said[:10, 2] = 9.0  # of the first ten windows
        context, answers = await recorded(pipeline), Answers(pipeline)
        pipeline._corrections.note(context.row.tolist(), Correction(np.ones(30), said))
        context.served[:10], context.served[20:] = 2, 0
        context.version[15:] = "another"
        expected = [2] * 10 + Y[10:].tolist()
        assert (await answers.served(context)).tolist() == expected
        assert (await answers.would_serve(Serving(version), context)).tolist() == expected
        assert (await answers.on_record(context)).tolist() == Y.tolist(), "their own word"
        context.served[10:15] = 2
        served = (await answers.served(context)).tolist()
        assert served == expected, "how labels corrected them is forgotten: nobody else could be"

    play(scene)


def test_what_others_helped_with_is_not_theirs(play: Callable[[Scene], None]) -> None:
    async def scene(pipeline: Pipeline) -> None:
        context = await recorded(pipeline)
        answers = Answers(pipeline)
        assert answers.fresh(context).all()
        answers.since = {("c", "s"): 20}
        assert answers.fresh(context).tolist() == [seq >= 20 for seq in context.seq]
        context.predicted[:] = 0
        answered = await answers.on_record(context)
        assert answered[:20].tolist() == Y[:20].tolist() and not answered[20:].any()
        assert not len(answers.fresh(context.take(context.seq < 0)))

    play(scene)
