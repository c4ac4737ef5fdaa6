"""Drift upon drift in one process: real streams, files, detectors and trainings."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgetuner.adapt.coordinator import Coordinator  # noqa: E402
from edgetuner.config import Config  # noqa: E402
from edgetuner.inference import ModelVersion  # noqa: E402
from edgetuner.metrics import macro_f1  # noqa: E402
from edgetuner.pipeline import Pipeline, watch_with  # noqa: E402
from edgetuner.registry import Registry  # noqa: E402
from edgetuner.serving import Serving  # noqa: E402
from edgetuner.store import Entry, LabelEntry, Store  # noqa: E402
from edgetuner.telemetry import open_telemetry  # noqa: E402
from tests import waves  # noqa: E402
from tests.live import merged  # noqa: E402

KEY = ("c", "s")
CHUNK = 12  # windows between two looks of the coordinator: every class once
SETTINGS = {
    "telemetry": {"sources": []},
    "adapt": {
        **{
            "min_labels": 42,
            "min_classes": 3,
            "cooldown_s": 0,
            "trained_fraction": 0.3,
            "steps": 60,
        },
        "doubt_labels": False,  # what is fast in one gear is brisk in another: only labels tell
    },
    "gate": {"max_p_value": 0.2},  # four windows that tell two versions apart will do
    "probation": {"labels": 24},
    "registry": {"keep": 5},
}

# How the machine runs: the frequency of each class, and which way round the sensor is. No model can
# know all of them: three turns a second are brisk for one gear, and fast for another.
Way = tuple[tuple[float, float, float], int]
WAYS: dict[str, Way] = {
    "home": ((1, 3, 5), 1),
    "low gear": ((1, 2, 3), 1),
    "upside down": ((1, 3, 5), -1),
    "both": ((1, 2, 3), -1),
}


Label = Callable[[int, int], int]


def honest(seq: int, label: int) -> int:
    """The class that it is."""
    return label


def one_in_four_wrong(seq: int, label: int) -> int:
    """As somebody labels who does not look closely."""
    return (label + 1 + seq % 2) % 3 if seq % 4 == 1 else label


def renamed(seq: int, label: int) -> int:
    """An attack: every class under the name of another one."""
    return (label + 1) % 3


class Life:
    """A service without its sockets, and a wearer who labels every window."""

    def __init__(self, pipeline: Pipeline, registry: Registry, config: Config) -> None:
        self.pipeline = pipeline
        self.seq = 0
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.coordinator = Coordinator(
            lambda: config,
            pipeline,
            registry,
            open_telemetry((), 1.0),
            self.hear,
            "cpu",
        )

    def hear(self, topic: str, data: dict[str, Any]) -> None:
        if topic.startswith("event."):
            self.events.append((topic.removeprefix("event."), data))

    async def see(self, way: Way, count: int = CHUNK, label: Label = honest) -> float:
        """So many windows go all the way, are labelled, and the coordinator looks; macro-F1."""
        seqs = range(self.seq, self.seq + count)
        self.seq += count
        y = [waves.label_of(n) for n in seqs]
        hz, turn = way
        entries = [
            Entry(*KEY, n, n * 10**9, turn * waves.window(n, k, hz[k]), n)
            for n, k in zip(seqs, y, strict=True)
        ]
        receipts = await self.pipeline.stored(lambda store: store.add(entries))
        windows = [receipt.window for receipt in receipts if receipt.window is not None]
        predicted, findings = await self.pipeline.predict(windows)
        self.coordinator.on_findings(findings)
        self.coordinator.on_predictions(len(predicted))
        labels = [LabelEntry(*KEY, n, label(n, k), n) for n, k in zip(seqs, y, strict=True)]
        _, findings = await self.pipeline.label(labels)
        self.coordinator.on_findings(findings)
        self.coordinator.on_labels()
        await self.coordinator.consider()
        return macro_f1(np.array(y), np.array([p.predicted for p in predicted]))

    async def settle(self, way: Way) -> dict[str, Any]:
        """Goes on until a version has proved itself for this way of wearing; its swap."""
        first = len(self.events)
        for _ in range(20):
            await self.see(way)
            new = self.events[first:]
            if "promoted" in [name for name, _ in new]:
                return next(data for name, data in new if name == "swap")
        pytest.fail(f"nothing proved itself: {self.events[first:]}")


Scene = Callable[[Life], Coroutine[Any, Any, None]]


@pytest.fixture
def play(wave_bundle: Path, tmp_path: Path) -> Callable[..., None]:
    async def run(scene: Scene, over: dict[str, Any]) -> None:
        config = Config.model_validate(merged(SETTINGS, over) | {"state_dir": tmp_path})
        version = ModelVersion.load(wave_bundle)
        registry = Registry(tmp_path / "models", config.registry.keep)
        registry.install(registry.add(wave_bundle))
        store = Store.open(tmp_path / "windows.db", shape=(3, 32), classes=waves.CLASSES)
        pipeline = Pipeline(store, Serving(version), watch_with(config, version))
        life = Life(pipeline, registry, config)
        try:
            for _ in range(4):
                await life.see(WAYS["home"])
            await scene(life)
        finally:
            await pipeline.close()

    return lambda scene, **over: asyncio.run(run(scene, over))


def test_six_drifts_in_a_row_and_what_comes_back_is_known(play: Callable[..., None]) -> None:
    async def scene(life: Life) -> None:
        served: dict[str, str] = {"home": life.pipeline.version.id}
        trained = 0
        for way in ("low gear", "home", "upside down", "low gear", "both", "home"):
            swap = await life.settle(WAYS[way])
            if way in served:
                assert swap.get("reused") and swap["version"] == served[way], way
            else:
                trained += 1
                served[way] = swap["version"]
            assert await life.see(WAYS[way], 48) > 0.75, way
        counts = life.coordinator.counts
        assert counts["swaps"] == counts["promotions"] == 6 and counts["rollbacks"] == 0
        assert counts["reuses"] == trained == 3

    play(scene, adapt={"beside": False})


def test_what_comes_back_is_answered_by_the_version_beside_and_nothing_is_trained(
    play: Callable[..., None],
) -> None:
    async def scene(life: Life) -> None:
        home = life.pipeline.version.id
        away = (await life.settle(WAYS["upside down"]))["version"]
        serving = life.pipeline.serving
        assert serving.version.id == away
        assert [version.id for version in serving.beside] == [home]
        for way in ("home", "upside down", "home", "upside down"):
            for _ in range(3):  # within some labels
                await life.see(WAYS[way])
            assert await life.see(WAYS[way], 48) > 0.9, way
            assert (life.pipeline.serving.shares[0] > 0.5) == (way == "upside down")
        counts = life.coordinator.counts
        assert counts["adaptations"] == counts["swaps"] == 1 and not counts["rollbacks"]
        assert "false_alarm" in [name for name, _ in life.events], "it looked strange all the same"

    play(scene)


@pytest.mark.parametrize("way", ["home", "both"])
def test_an_attack_by_consistently_wrong_labels_swaps_nothing(
    play: Callable[..., None], way: str
) -> None:
    async def scene(life: Life) -> None:
        before = life.pipeline.version.id
        for _ in range(18):
            if life.coordinator.state == "watching":
                life.coordinator.request("the labels say that it is always wrong")
            await life.see(WAYS[way], label=renamed)
        assert life.pipeline.version.id == before
        assert life.coordinator.counts["swaps"] == 0
        reasons = [data["reason"] for name, data in life.events if name == "deferred"]
        assert any("--trust-labels" in reason for reason in reasons), life.events

    play(scene, adapt={"doubt_labels": True})


def test_a_quarter_of_wrong_labels_keeps_nobody_from_adapting(play: Callable[..., None]) -> None:
    async def scene(life: Life) -> None:
        for _ in range(20):
            await life.see(WAYS["upside down"], label=one_in_four_wrong)
            if life.coordinator.counts["promotions"]:
                break
        assert life.coordinator.counts["swaps"] >= 1, life.events
        later = [await life.see(WAYS["upside down"], label=one_in_four_wrong) for _ in range(16)]
        assert np.mean(later[-4:]) > 0.8, "200 windows later"

    play(scene, adapt={"doubt_labels": True})
