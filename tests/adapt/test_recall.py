from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from edgetuner.adapt.answers import Answers  # noqa: E402
from edgetuner.adapt.drifts import Drifts  # noqa: E402
from edgetuner.adapt.faults import Faults  # noqa: E402
from edgetuner.adapt.judge import Judge  # noqa: E402
from edgetuner.adapt.observations import Observations  # noqa: E402
from edgetuner.adapt.recall import Recall  # noqa: E402
from edgetuner.adapt.versions import Versions  # noqa: E402
from edgetuner.config import Config  # noqa: E402
from edgetuner.drift.monitor import Finding, StreamKey  # noqa: E402
from edgetuner.pipeline import Pipeline  # noqa: E402
from edgetuner.registry import Registry  # noqa: E402
from edgetuner.serving import Serving  # noqa: E402
from tests.adapt.material import KEY, renamed, seen  # noqa: E402

CONFIG = Config.model_validate({"gate": {"min_windows": 6}})
STARTS = {KEY: 0}


class Past:
    """Three versions proved themselves one after the other: the first knows waves as they are, each
    of the others calls every class by the name of the next one. The last is live.
    """

    def __init__(self, pipeline: Pipeline, folder: Path, bundle: Path) -> None:
        self.pipeline = pipeline
        self.drifts = Drifts()
        self.registry = Registry(folder / "models")
        self.ids = [self.registry.add(bundle)]
        self.registry.install(self.ids[0])
        for n in (1, 2):
            renamed(self.registry.path(self.ids[-1]), folder / f"v{n}", f"a{n}")
            self.ids.append(self.registry.add(folder / f"v{n}"))
            self.registry.promote(self.ids[-1], "")
        self.versions = Versions(lambda: CONFIG, pipeline, self.registry, "cpu")
        self.recall = Recall(
            lambda: CONFIG,
            pipeline,
            self.drifts,
            Observations(pipeline, Faults()),
            self.versions,
            Judge(lambda: CONFIG, Answers(pipeline)),
        )

    def drift(self, seq: int) -> None:
        key = StreamKey(*KEY)
        self.drifts.note(Finding("drift", "embedding", key, seq, max(0, seq - 5), 9.0, 1.0))


@pytest.fixture
async def past(pipeline: Pipeline, tmp_path: Path, wave_bundle: Path) -> Past:
    past = Past(pipeline, tmp_path, wave_bundle)
    await pipeline.swap(Serving(await past.versions.load(past.ids[-1])))
    return past


async def test_without_a_drift_nobody_is_asked(past: Past) -> None:
    await seen(past.pipeline, range(24))
    assert await past.recall.ask(STARTS) is None
    assert past.recall.waits(with_labels=True) is None


async def test_who_knows_the_context_is_found(past: Past) -> None:
    past.drift(0)
    await seen(past.pipeline, range(24))
    recalled = await past.recall.ask(STARTS)
    assert recalled is not None and recalled.best is not None
    version, verdict = recalled.best
    assert version.id == past.ids[0] and verdict.passed and verdict.candidate_f1 > 0.9
    assert [one["version"] for one in recalled.asked] == [past.ids[1], past.ids[0]]
    assert [one["passed"] for one in recalled.asked] == [False, True]


async def test_it_is_asked_with_enough_labels_and_again_with_half_as_many_more(past: Past) -> None:
    past.drift(0)
    asked = []
    for n in range(12):
        await seen(past.pipeline, [n], shift=2)  # as the live version has it: nobody is better
        recalled = await past.recall.ask(STARTS)
        if recalled is not None:
            assert recalled.best is None
            asked.append(n + 1)
    assert asked == [6, 9]
    assert past.recall.waits(with_labels=True) is None, "training need not wait for it"


async def test_training_waits_for_labels_since_the_alarm(past: Past) -> None:
    await seen(past.pipeline, range(12))
    past.drift(9)
    assert await past.recall.ask(STARTS) is None
    assert (past.recall.waits(with_labels=True) or "").startswith(
        "3 labelled windows since the drift was found, 6"
    )
    await seen(past.pipeline, range(12, 15))
    recalled = await past.recall.ask(STARTS)
    assert recalled is not None and recalled.asked[0]["windows"] == 6, "those before do not count"
    assert (past.recall.waits(with_labels=True) or "").startswith("6 labelled windows since"), (
        "one may know it"
    )
    await seen(past.pipeline, range(15, 18))
    recalled = await past.recall.ask(STARTS)
    assert recalled is not None and recalled.best is not None
    assert recalled.best[0].id == past.ids[0]


async def test_a_new_drift_begins_anew(past: Past) -> None:
    past.drift(0)
    await seen(past.pipeline, range(12), shift=2)
    assert await past.recall.ask(STARTS) is not None
    assert await past.recall.ask(STARTS) is None
    past.drift(6)
    assert await past.recall.ask(STARTS) is not None


async def test_a_damaged_version_holds_nobody_up(past: Past) -> None:
    (past.registry.path(past.ids[1]) / "weights.safetensors").write_bytes(b"")
    past.drift(0)
    await seen(past.pipeline, range(24))
    recalled = await past.recall.ask(STARTS)
    assert recalled is not None and recalled.best is not None
    assert recalled.asked[0]["error"]["code"] == "bundle" and recalled.asked[1]["passed"]


async def test_windows_that_another_version_answered_say_nothing_of_this_one(past: Past) -> None:
    live = past.pipeline.serving
    await past.pipeline.swap(Serving(await past.versions.load(past.ids[0])))
    await seen(past.pipeline, range(12))
    await past.pipeline.swap(live)
    past.drift(0)
    await seen(past.pipeline, range(12, 20))
    recalled = await past.recall.ask(STARTS)
    assert recalled is not None and [one["windows"] for one in recalled.asked] == [8, 8]
