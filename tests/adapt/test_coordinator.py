"""The coordinator on a real pipeline and a real registry; only the training is quick."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgetuner.adapt import job as jobs  # noqa: E402
from edgetuner.adapt import trainer, trust, turns  # noqa: E402
from edgetuner.adapt.coordinator import Coordinator  # noqa: E402
from edgetuner.adapt.gate import Verdict  # noqa: E402
from edgetuner.adapt.job import Job  # noqa: E402
from edgetuner.config import Config  # noqa: E402
from edgetuner.corrections import Correction  # noqa: E402
from edgetuner.drift.monitor import Finding, StreamKey  # noqa: E402
from edgetuner.errors import AdaptationError, BusyError, StoreError  # noqa: E402
from edgetuner.inference import ModelVersion, Outputs  # noqa: E402
from edgetuner.label_cache import LabelCache  # noqa: E402
from edgetuner.pipeline import Pipeline, watch_with  # noqa: E402
from edgetuner.registry import Aliases, Registry  # noqa: E402
from edgetuner.serving import Serving  # noqa: E402
from edgetuner.store import Entry, LabelEntry, Store  # noqa: E402
from edgetuner.telemetry import open_telemetry  # noqa: E402
from tests import waves  # noqa: E402
from tests.adapt.material import renamed  # noqa: E402
from tests.awaiting import before_its_end  # noqa: E402
from tests.live import merged  # noqa: E402

KEY = StreamKey("c", "s")
SETTINGS = {
    "telemetry": {"sources": []},
    # All the labels are wrong to the champion: that is what `doubt_labels` is for, and not today.
    # A version answers alone, so that it can be told from the one before it.
    "adapt": {
        "min_labels": 24,
        "min_classes": 3,
        "cooldown_s": 10,
        "doubt_labels": False,
        "beside": False,
    },
    "gate": {"min_windows": 6},
    "probation": {"labels": 12, "windows": 100},
}


class Stage:
    """A coordinator whose clock stands still, whose child is quick, and what it published.

    The windows are wrong for the champion by one class, and the candidate knows it.
    """

    def __init__(self, folder: Path, base: Path, pipeline: Pipeline, config: Config) -> None:
        self.pipeline = pipeline
        self.config = config
        self.now = 0.0
        self.published: list[tuple[str, dict[str, Any]]] = []
        self.registry = Registry(folder / "models")
        self.registry.install(self.registry.add(base))
        self.champion = pipeline.version.id
        self.trainings: list[Job] = []
        self.allowed: list[tuple[str, ...]] = []
        self.outcome: Exception | None = None
        self.hopeless: Verdict | None = None
        self.facts: dict[str, Any] = {}  # of a training
        self.seq = 0
        self.telemetry = open_telemetry((), 1.0)
        self.coordinator = Coordinator(
            lambda: self.config,
            pipeline,
            self.registry,
            self.telemetry,
            lambda topic, data: self.published.append((topic, data)),
            "cpu",
            clock=lambda: self.now,
        )

    async def train(
        self,
        job: Job,
        progress: Callable[[dict[str, Any]], None],
        allow_factories: Sequence[str],
    ) -> dict[str, Any]:
        """In place of the child: turns the head by one class."""
        self.trainings.append(job)
        self.allowed.append(tuple(allow_factories))
        progress({"job": job.ask.job, "rung": "head"})
        progress({"job": job.ask.job, "rung": "head", "seconds": 0.5, "taken": True, "extra": 1})
        if self.outcome is not None:
            raise self.outcome
        if self.hopeless is not None:
            result = {"rung": "head", "verdict": self.hopeless.to_wire(), "train_seconds": 0.0}
            job.write_result(result)
            return result
        candidate, prefix = job.path / jobs.CANDIDATE, f"a{len(self.trainings)}"
        version = renamed(job.path / jobs.BASE, candidate, prefix)
        result = {"version": version, "rung": "head", "train_seconds": 0.0, **self.facts}
        job.write_result(result)
        return result

    async def see(
        self,
        count: int,
        *,
        shift: int = 1,
        labelled: bool = True,
        only: tuple[int, ...] = (0, 1, 2),
    ) -> None:
        """Windows are stored, predicted, labelled as `shift` classes on, if it is `only` these."""
        seqs = range(self.seq, self.seq + count)
        self.seq += count
        entries = [
            Entry(*KEY, n, (n + 1) * 10**9, waves.window(n, waves.label_of(n)), n) for n in seqs
        ]
        receipts = await self.pipeline.stored(lambda store: store.add(entries))
        stored = [receipt.window for receipt in receipts if receipt.window is not None]
        predicted, _ = await self.pipeline.predict(stored)
        self.coordinator.on_predictions(len(predicted))
        if labelled:
            said = [(n, (waves.label_of(n) + shift) % 3) for n in seqs]
            labels = [LabelEntry(*KEY, n, label, n) for n, label in said if label in only]
            await self.pipeline.stored(lambda store: store.add_labels(labels))
            self.coordinator.on_labels()

    def drift(self) -> None:
        self.coordinator.on_findings([Finding("drift", "embedding", KEY, 5, 0, 9.0, 1.0)])

    def events(self) -> list[str]:
        return [topic[6:] for topic, _ in self.published if topic.startswith("event.")]

    def told(self, event: str) -> dict[str, Any]:
        """The last event of this name."""
        return next(data for topic, data in reversed(self.published) if topic == f"event.{event}")

    async def swapped(self) -> str:
        """Goes as far as the probation; the candidate."""
        await self.see(36)
        self.drift()
        await self.coordinator.consider()
        assert self.coordinator.state == "probation", self.published
        return self.pipeline.version.id


Scene = Callable[[Stage], Coroutine[Any, Any, None]]


class Knowing(LabelCache):
    """Labels that say the right class of every window, one on from what the model says."""

    speaking = True

    def speaks(self, key: Any) -> bool:
        return self.speaking

    def correction(self, anchor: Any, out: Outputs, *of: Any) -> Correction | None:
        return Correction(np.ones(len(out.predicted)), 9.0 * np.eye(3)[(out.predicted + 1) % 3])


@pytest.fixture
def play(wave_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    version = ModelVersion.load(wave_bundle)

    async def run(scene: Scene, cache: LabelCache | None, over: dict[str, Any]) -> None:
        config = Config.model_validate({**merged(SETTINGS, over), "state_dir": tmp_path})
        store = Store.open(None, shape=(3, 32), classes=waves.CLASSES, durability="memory")
        pipeline = Pipeline(store, Serving(version), watch_with(config, version), cache)
        stage = Stage(tmp_path, wave_bundle, pipeline, config)
        monkeypatch.setattr(trainer, "train", stage.train)
        try:
            await scene(stage)
        finally:
            await pipeline.close()

    return lambda scene, cache=None, **over: asyncio.run(run(scene, cache, over))


def test_drift_leads_through_training_gate_and_probation_to_a_champion(
    play: Callable[..., None],
) -> None:
    async def scene(stage: Stage) -> None:
        candidate = await stage.swapped()
        assert stage.events() == ["adaptation_started", "gate", "swap"]
        assert stage.told("swap")["gate"]["passed"] and stage.told("swap")["rung"] == "head"
        assert stage.registry.aliases == Aliases(stage.champion, candidate, None)
        await stage.see(11)
        await stage.coordinator.consider()
        assert stage.coordinator.state == "probation", "one label short of the end"
        await stage.see(1)
        await stage.coordinator.consider()
        assert stage.events()[-1] == "promoted" and stage.coordinator.state == "watching"
        assert stage.registry.aliases == Aliases(candidate, None, stage.champion)
        assert stage.coordinator.counts == {
            **{"adaptations": 1, "swaps": 1, "promotions": 1},
            **{"reuses": 0, "refused": 0, "failed": 0, "rollbacks": 0},
        }

    play(scene)


def test_every_rung_tells_its_time_and_evidence(play: Callable[..., None]) -> None:
    async def scene(stage: Stage) -> None:
        await stage.swapped()
        rung = {"rung": "head", "seconds": 0.5, "taken": True}
        assert stage.told("swap")["rungs"] == [rung], "no rail here, so no energy"
        told = [data for topic, data in stage.published if topic == "status.adaptation"]
        heard = [data["progress"] for data in told if "progress" in data]
        assert [said.get("seconds") for said in heard] == [None, 0.5], "as it comes"
        assert "progress" not in stage.coordinator.describe(), "it is over"

    play(scene)


def test_under_retain_a_candidate_that_forgets_the_source_is_refused(
    play: Callable[..., None],
) -> None:
    async def scene(stage: Stage) -> None:
        await stage.see(36)
        stage.drift()
        await stage.coordinator.consider()
        assert stage.events()[-1] == "refused", stage.events()
        gate = stage.told("refused")
        assert "on the source" in gate["reason"]
        assert gate["source_candidate_f1"] < gate["source_champion_f1"]
        assert gate["candidate_f1"] > gate["champion_f1"]
        assert stage.pipeline.version.id == stage.champion

    play(scene, adapt={"policy": "retain"})


def test_labels_that_speak_for_the_previous_version_bring_it_back(
    play: Callable[..., None],
) -> None:
    async def scene(stage: Stage) -> None:
        candidate = await stage.swapped()
        await stage.see(8, shift=0)
        await stage.coordinator.consider()
        assert stage.told("rollback")["taken_back"] == candidate
        assert stage.pipeline.version.id == stage.champion
        assert stage.registry.aliases == Aliases(stage.champion, None, None)

    play(scene)


def test_without_labels_windows_alone_end_a_probation(play: Callable[..., None]) -> None:
    async def scene(stage: Stage) -> None:
        candidate = await stage.swapped()
        await stage.see(99, labelled=False)
        await stage.coordinator.consider()
        assert stage.coordinator.state == "probation"
        await stage.see(1, labelled=False)
        await stage.coordinator.consider()
        assert stage.registry.aliases.champion == candidate

    play(scene)


def test_too_few_labels_prove_nothing_until_the_end_of_the_probation(
    play: Callable[..., None],
) -> None:
    async def scene(stage: Stage) -> None:
        candidate = await stage.swapped()
        await stage.see(6, shift=0)
        await stage.coordinator.consider()
        assert stage.coordinator.state == "probation"
        assert stage.coordinator.describe()["probation"]["losses"] == 6
        await stage.see(94, labelled=False)
        await stage.coordinator.consider()
        assert stage.told("rollback")["taken_back"] == candidate
        assert stage.told("rollback")["labels"] == 6

    play(scene)


def test_each_rollback_is_waited_for_twice_as_long_until_a_version_proves_itself(
    play: Callable[..., None],
) -> None:
    async def scene(stage: Stage) -> None:
        waits = []
        for _ in range(3):
            await stage.swapped()
            await stage.see(8, shift=0)
            await stage.coordinator.consider()
            waits.append(stage.told("rollback")["wait_s"])
            stage.now += waits[-1]
        assert waits == [10, 20, 40]
        await stage.swapped()
        await stage.see(12)
        await stage.coordinator.consider()
        assert stage.events()[-1] == "promoted"
        stage.now += 10
        stage.outcome = AdaptationError("no luck")
        await stage.see(24, shift=2)
        for _ in range(2):
            stage.drift()
            await stage.coordinator.consider()
            stage.now += 10
        assert stage.coordinator.counts["failed"] == 2, "it begins anew with the first wait"

    play(scene)


def test_a_context_that_has_shown_more_activities_is_learned_anew_without_another_drift(
    play: Callable[..., None],
) -> None:
    async def scene(stage: Stage) -> None:
        await stage.see(72, only=(0, 1))
        stage.drift()
        await stage.coordinator.consider()
        await stage.see(18, only=(0, 1))
        await stage.coordinator.consider()
        assert stage.events()[-1] == "promoted"
        stage.now += 100
        for _ in range(2):
            await stage.see(9, only=(0, 1), shift=2)
            await stage.coordinator.consider()
        assert stage.events()[-1] == "promoted", "nothing new, and nobody is told so"
        await stage.see(36, shift=2)
        await stage.coordinator.consider()
        assert stage.told("adaptation_started")["why"] == "more activities are labelled"
        assert len(stage.trainings) == 2

    play(scene, adapt={"min_classes": 2})


def test_activities_that_labels_answered_for_are_learned_when_these_have_stopped(
    play: Callable[..., None],
) -> None:
    labels = Knowing()

    async def scene(stage: Stage) -> None:
        labels.speaking = False
        await stage.see(72, only=(0, 1))
        stage.drift()
        await stage.coordinator.consider()
        await stage.see(18, only=(0, 1))
        await stage.coordinator.consider()
        assert stage.events()[-1] == "promoted"
        stage.now += 100
        labels.speaking = True
        await stage.see(54, shift=2)
        await stage.coordinator.consider()
        assert stage.events()[-1] == "refused", "labels answer for the third one, too"
        stage.now += 100
        for speaking in (True, False):
            labels.speaking = speaking
            await stage.coordinator.consider()
            assert (stage.events()[-1] == "swap") == (not speaking), stage.events()

    play(scene, cache=labels, adapt={"min_classes": 2})


def test_too_few_labels_defer_and_say_so_once(play: Callable[..., None]) -> None:
    async def scene(stage: Stage) -> None:
        await stage.see(12)
        stage.drift()
        for _ in range(3):
            await stage.coordinator.consider()
        assert stage.events() == ["deferred"] and "12 labelled" in stage.told("deferred")["reason"]
        assert stage.coordinator.describe()["deferred"] == stage.told("deferred")["reason"]
        await stage.see(12)
        await stage.coordinator.consider()
        assert "swap" in stage.events() and "deferred" not in stage.coordinator.describe()

    play(scene)


def test_windows_of_a_faulty_sensor_are_not_trained_on(play: Callable[..., None]) -> None:
    async def scene(stage: Stage) -> None:
        await stage.see(180)
        stage.drift()
        stage.coordinator.on_findings([Finding("sensor_fault", "flat_line", KEY, 92, 90)])
        await stage.coordinator.consider()
        assert "sensor fault on c/s" in stage.told("deferred")["reason"]
        stage.coordinator.on_findings([Finding("sensor_ok", "flat_line", KEY, 104, 100)])
        await stage.coordinator.consider()
        (job,) = stage.trainings
        seqs = job.windows().t_ns // 10**9 - 1
        assert seqs.tolist() == [*range(30), *range(160, 180)], "nor what is sixty from its time"

    play(scene)


def test_a_sensor_that_broke_before_the_drift_is_what_drifted(play: Callable[..., None]) -> None:
    async def scene(stage: Stage) -> None:
        await stage.see(36)
        stage.coordinator.on_findings([Finding("drift", "embedding", KEY, 30, 21, 9.0, 1.0)])
        assert "drifted" in stage.coordinator.describe()
        stage.coordinator.on_findings([Finding("sensor_fault", "gain", KEY, 32, 20)])
        assert "drifted" not in stage.coordinator.describe()
        await stage.coordinator.consider()
        assert not stage.trainings

    play(scene)


def test_a_failure_is_told_and_waited_for_twice_as_long_each_time(
    play: Callable[..., None],
) -> None:
    async def scene(stage: Stage) -> None:
        stage.outcome = AdaptationError("no luck", remedy="try again")
        await stage.see(36)
        stage.drift()
        starts = []
        while stage.now < 100:
            await stage.coordinator.consider()
            if len(stage.trainings) > len(starts):
                starts.append(stage.now)
            stage.now += 5
        assert starts == [0, 10, 30, 70]
        assert stage.told("adaptation_failed")["error"]["remedy"] == "try again"
        assert stage.coordinator.counts["failed"] == 4
        assert stage.pipeline.version.id == stage.champion
        stage.outcome = None
        stage.coordinator.request("now")
        await stage.coordinator.consider()
        assert stage.coordinator.state == "probation", "an operator does not wait"

    play(scene)


def test_energy_is_budgeted_over_a_day_whatever_the_time_of_day_does(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(stage: Stage) -> None:
        spent = iter([0.0, 600.0])
        monkeypatch.setattr(stage.telemetry, "energy_j", lambda: {"train": next(spent, 600.0)})
        monkeypatch.setattr("time.time", lambda: 4e9)  # a clock that was set right just now
        stage.outcome = AdaptationError("no luck")
        await stage.see(36)
        stage.drift()
        for stage.now in (0.0, 100.0):
            await stage.coordinator.consider()
        assert "600 J used" in stage.told("deferred")["reason"]
        stage.now = 90_000.0
        await stage.coordinator.consider()
        assert len(stage.trainings) == 2

    play(scene, adapt={"energy_budget_j_per_day": 500})


def test_a_candidate_that_proves_nothing_is_refused(play: Callable[..., None]) -> None:
    async def scene(stage: Stage) -> None:
        await stage.see(36, shift=2)  # both are wrong
        stage.drift()
        await stage.coordinator.consider()
        assert stage.events()[-1] == "refused" and not stage.told("refused")["passed"]
        assert stage.registry.aliases == Aliases(stage.champion, None, None)
        assert stage.coordinator.describe()["drifted"] == ["c/s"], "more labels may help"

    play(scene)


def test_a_candidate_that_labels_make_needless_goes_live_when_nobody_labels_any_more(
    play: Callable[..., None],
) -> None:
    labels = Knowing()

    async def scene(stage: Stage) -> None:
        await stage.see(36)
        stage.drift()
        await stage.coordinator.consider()
        refused = stage.told("refused")
        assert refused["champion_f1"] == refused["candidate_f1"] == 1, "labels correct either"
        assert refused["reason"].endswith("it is tried again without")
        stage.now += 100
        await stage.coordinator.consider()
        assert len(stage.trainings) == 1
        assert (stage.coordinator.deferred or "").endswith("or none for five minutes")
        labels.speaking = False
        await stage.coordinator.consider()
        assert stage.events()[-1] == "swap" and len(stage.trainings) == 2
        gate = stage.told("swap")["gate"]
        assert gate["candidate_f1"] == 1 and gate["champion_f1"] < 0.5, "by themselves"

    play(scene, cache=labels)


@pytest.mark.parametrize("beside", [True, False])
def test_who_would_answer_if_a_candidate_went_live(play: Callable[..., None], beside: bool) -> None:
    async def scene(stage: Stage) -> None:
        proposed = stage.coordinator._judge.proposed(stage.pipeline.version)
        assert [version.id for version in proposed.beside] == [stage.champion] * beside

    play(scene, adapt={"beside": beside})


def test_what_was_asked_for_meanwhile_is_not_lost(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(stage: Stage) -> None:
        windows = stage.coordinator._observations.windows

        async def asked_meanwhile(*of: Any) -> Any:
            if not stage.trainings and stage.coordinator._requested is None:
                stage.coordinator.request("by hand")
            return await windows(*of)

        monkeypatch.setattr(stage.coordinator._observations, "windows", asked_meanwhile)
        await stage.see(36, shift=2)  # the candidate is no better
        stage.drift()
        await stage.coordinator.consider()
        assert stage.told("adaptation_started")["why"] != "by hand"
        assert stage.coordinator.describe()["requested"] == "by hand"
        stage.now += 10
        await stage.coordinator.consider()
        assert stage.told("adaptation_started")["why"] == "by hand"

    play(scene)


def test_windows_near_a_fault_are_not_read_again_and_again(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(stage: Stage) -> None:
        await stage.see(60)
        stage.drift()
        stage.coordinator.on_findings([Finding("sensor_fault", "flat_line", KEY, 32, 30)])
        stage.coordinator.on_findings([Finding("sensor_ok", "flat_line", KEY, 36, 34)])
        read: list[Any] = []
        windows = stage.coordinator._observations.windows

        async def counted(*of: Any) -> Any:
            read.append(of)
            return await windows(*of)

        monkeypatch.setattr(stage.coordinator._observations, "windows", counted)
        for _ in range(5):
            await stage.coordinator.consider()
        assert len(read) == 1
        reason = stage.told("deferred")["reason"]
        assert reason.startswith("0 labelled windows") and "60 more" in reason
        await stage.see(120)
        await stage.coordinator.consider()
        assert len(read) == 2 and len(stage.trainings) == 1

    play(scene)


def test_after_a_refusal_the_next_training_waits_as_after_a_success(
    play: Callable[..., None],
) -> None:
    async def scene(stage: Stage) -> None:
        for count in (36, 36, 36):
            await stage.see(count, shift=2)
            stage.drift()
            await stage.coordinator.consider()
            assert stage.events()[-1] == "refused"
            assert stage.coordinator._cooldown.wait_s == pytest.approx(10)
            stage.now += 10

    play(scene)


def test_labels_of_one_stream_do_not_answer_for_another_that_drifted(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = Knowing()
    monkeypatch.setattr(labels, "speaks", lambda key: key != KEY)

    async def scene(stage: Stage) -> None:
        entry = Entry("c", "other", 0, 1, waves.window(0, 0), 0)
        await stage.pipeline.stored(lambda store: store.add([entry]))
        await stage.see(36)
        stage.drift()
        await stage.coordinator.consider()
        assert stage.events()[-1] == "swap"

    play(scene, cache=labels)


def test_whoever_asks_for_a_version_is_not_told_that_labels_do_as_well(
    play: Callable[..., None],
) -> None:
    async def scene(stage: Stage) -> None:
        await stage.see(36)
        stage.coordinator.request("by hand")
        await stage.coordinator.consider()
        assert stage.events()[-1] == "swap"

    play(scene, cache=Knowing())


def test_after_a_refusal_the_next_candidate_waits_for_more_labels(
    play: Callable[..., None],
) -> None:
    async def scene(stage: Stage) -> None:
        await stage.see(36, shift=2)
        stage.drift()
        await stage.coordinator.consider()
        stage.now += 100
        await stage.see(14, shift=2)
        await stage.coordinator.consider()
        reason = "50 labelled windows, 51 are needed after the candidate that was refused"
        assert stage.told("deferred")["reason"] == reason
        stage.coordinator.request("now")
        await stage.coordinator.consider()
        assert len(stage.trainings) == 2, "unless an operator asks for it"

    play(scene)


def test_another_configuration_may_find_the_same_labels_enough(play: Callable[..., None]) -> None:
    async def scene(stage: Stage) -> None:
        await stage.see(30, only=(0, 1, 2))
        fault = Finding("sensor_fault", "flat_line", KEY, 20, 10)
        stage.coordinator.on_findings([fault, replace(fault, kind="sensor_ok", onset_seq=15)])
        stage.drift()
        await stage.coordinator.consider()
        reason = stage.coordinator.deferred or ""
        assert "near a sensor fault" in reason
        stage.config = stage.config.model_copy(
            update={"adapt": stage.config.adapt.model_copy(update={"min_labels": 500})}
        )
        await stage.coordinator.consider()
        assert "500" in (stage.coordinator.deferred or ""), "it is asked anew"

    play(scene)


def test_a_champion_that_does_as_well_as_at_home_had_not_drifted(
    play: Callable[..., None],
) -> None:
    async def scene(stage: Stage) -> None:
        await stage.see(36, shift=0)  # the champion is right
        stage.drift()
        await stage.coordinator.consider()
        assert stage.events() == ["false_alarm"]
        assert stage.coordinator.describe()["state"] == "watching"
        assert not stage.trainings, "and nothing is trained for it"

    play(scene)


def test_a_drift_that_is_found_while_another_is_acknowledged_goes_on_waiting(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(stage: Stage) -> None:
        loop, other = asyncio.get_running_loop(), StreamKey("c", "other")
        acknowledge = stage.pipeline._monitor.acknowledge

        def meanwhile(key: tuple[str, str]) -> None:
            finding = Finding("drift", "embedding", other, 5, 0, 9.0, 1.0)
            loop.call_soon_threadsafe(stage.coordinator.on_findings, [finding])
            acknowledge(key)

        monkeypatch.setattr(stage.pipeline._monitor, "acknowledge", meanwhile)
        await stage.see(36, shift=0)
        stage.drift()
        await stage.coordinator.consider()
        assert stage.events() == ["false_alarm"]
        assert stage.coordinator.describe()["state"] == "drifted"
        assert stage.coordinator.describe()["drifted"] == ["c/other"]

    play(scene)


def test_labels_of_one_stream_do_not_end_the_drift_of_another(play: Callable[..., None]) -> None:
    async def scene(stage: Stage) -> None:
        other = StreamKey("c", "other")
        await stage.see(36, shift=0)  # the champion is right, on a stream that did not drift
        stage.coordinator.on_findings([Finding("drift", "embedding", other, 5, 0, 9.0, 1.0)])
        await stage.coordinator.consider()
        assert "false_alarm" not in stage.events()
        assert stage.coordinator.describe()["drifted"] == ["c/other"]

    play(scene)


def test_a_candidate_for_a_champion_that_does_as_well_as_at_home_ends_the_drift(
    play: Callable[..., None],
) -> None:
    async def scene(stage: Stage) -> None:
        await stage.see(36, shift=0)
        stage.drift()
        stage.coordinator.request("all the same")
        await stage.coordinator.consider()
        assert stage.events()[-2:] == ["false_alarm", "refused"]
        assert "drifted" not in stage.coordinator.describe()
        stage.now += 100
        await stage.coordinator.consider()
        assert len(stage.trainings) == 1, "and nothing is trained again for it"

    play(scene)


def test_the_version_before_answers_beside_a_new_one_until_it_is_taken_back(
    play: Callable[..., None],
) -> None:
    async def scene(stage: Stage) -> None:
        candidate = await stage.swapped()
        serving = stage.pipeline.serving
        assert serving.version.id == candidate
        assert [version.id for version in serving.beside] == [stage.champion]
        assert stage.registry.aliases == Aliases(stage.champion, candidate)
        await stage.see(12)
        await stage.coordinator.consider()
        assert stage.registry.aliases == Aliases(candidate, None, stage.champion, stage.champion)
        await stage.coordinator.rollback("by hand")
        assert stage.pipeline.serving == Serving(stage.pipeline.version)
        assert stage.registry.aliases == Aliases(stage.champion, None, candidate)

    play(scene, adapt={"beside": True})


def test_a_rung_that_failed_is_no_refusal(play: Callable[..., None]) -> None:
    """The facts of the last rung say which ones before it did not fit a budget."""

    async def scene(stage: Stage) -> None:
        stage.facts = {"refused": {"cores": "the training process holds too much"}}
        await stage.swapped()

    play(scene)


def test_on_probation_the_version_before_answers_as_well(play: Callable[..., None]) -> None:
    async def scene(stage: Stage) -> None:
        first = await stage.swapped()
        await stage.see(12)
        await stage.coordinator.consider()
        assert stage.registry.aliases.champion == first
        stage.now += 1000
        await stage.see(36, shift=2)
        stage.drift()
        await stage.coordinator.consider()
        serving = stage.pipeline.serving
        assert [version.id for version in serving.beside] == [stage.champion, first]
        await stage.see(12, shift=2)
        await stage.coordinator.consider()
        assert stage.registry.aliases.champion == serving.version.id
        assert [version.id for version in stage.pipeline.serving.beside] == [stage.champion]

    play(scene, adapt={"beside": True, "reuse": 0})


def test_what_the_version_before_helps_with_does_not_prove_the_new_one(
    play: Callable[..., None],
) -> None:
    """Labels speak for the version before, which answers for the new one as long as it is there."""

    async def scene(stage: Stage) -> None:
        first = await stage.swapped()
        await stage.see(12)
        await stage.coordinator.consider()
        stage.now += 1000
        proven = stage.pipeline.serving
        await stage.pipeline.swap(replace(proven, shares=(0.95, 0.05)))  # labels spoke for it
        await stage.see(36, shift=2)
        stage.drift()
        await stage.coordinator.consider()
        assert stage.coordinator.state == "probation"
        await stage.see(6, shift=1)  # what the first one knows comes back
        await stage.see(6, shift=1)
        await stage.coordinator.consider()
        assert stage.told("rollback")["version"] == first

    play(scene, adapt={"beside": True, "reuse": 0})


def test_a_drift_that_is_found_on_probation_is_answered_by_a_rollback(
    play: Callable[..., None],
) -> None:
    """The detectors begin anew with the version before: an alarm of the other's says nothing."""

    async def scene(stage: Stage) -> None:
        await stage.swapped()
        stage.drift()
        assert stage.coordinator.describe()["drifted"]
        await stage.coordinator.rollback("by hand")
        about = stage.coordinator.describe()
        assert about["state"] == "watching" and "drifted" not in about

    play(scene)


def test_a_drift_that_passes_while_it_is_trained_for_changes_nothing(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The candidate is judged as any other: what passed may come back."""

    async def scene(stage: Stage) -> None:
        train = stage.train

        async def passes(*args: Any) -> dict[str, Any]:
            over = Finding("drift_over", "embedding", KEY, 35, 30)
            stage.coordinator.on_findings([over])
            return await train(*args)

        monkeypatch.setattr(trainer, "train", passes)
        await stage.swapped()
        assert "drifted" not in stage.coordinator.describe()

    play(scene)


def test_what_training_itself_saw_no_hope_for_is_refused(play: Callable[..., None]) -> None:
    async def scene(stage: Stage) -> None:
        stage.hopeless = Verdict(False, "may be chance", 12, 0.4, 0.45, 1.5, 0.0, 0.9)
        await stage.see(24)
        stage.drift()
        await stage.coordinator.consider()
        assert stage.events() == ["adaptation_started", "refused"]
        assert stage.registry.aliases == Aliases(stage.champion), "nothing was taken in"
        about = stage.coordinator.describe()
        assert (about["state"], about["refused"]) == ("drifted", 1)
        assert about["last"]["gate"]["evidence"] == 1.5
        stage.now += 1000
        await stage.coordinator.consider()
        assert "needed after the candidate" in (stage.coordinator.deferred or "")

    play(scene)


def test_drift_is_only_reported_where_adaptation_is_off(play: Callable[..., None]) -> None:
    async def scene(stage: Stage) -> None:
        await stage.see(36)
        stage.drift()
        await stage.coordinator.consider()
        assert stage.events() == []
        stage.coordinator.request("by hand")
        assert stage.published[-1][1]["requested"] == "by hand", "it shows before it begins"
        await stage.coordinator.consider()
        assert stage.told("adaptation_started")["why"] == "by hand"
        assert "requested" not in stage.coordinator.describe()

    play(scene, drift={"enabled": False})


def test_a_pause_ends_the_training_and_holds_until_resumed(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(stage: Stage) -> None:
        training = asyncio.Event()

        async def endless(job: Job, progress: Any, allowed: Any) -> dict[str, Any]:
            training.set()
            await asyncio.Event().wait()
            return {}

        monkeypatch.setattr(trainer, "train", endless)
        await stage.see(36)
        stage.drift()
        under_way = asyncio.create_task(stage.coordinator.consider())
        await before_its_end(under_way, training.wait())
        with pytest.raises(BusyError):
            stage.coordinator.request("again")
        stage.coordinator.pause()
        await under_way
        assert "operator" in stage.told("adaptation_failed")["error"]["message"]
        assert stage.coordinator.describe()["state"] == "paused"
        monkeypatch.setattr(trainer, "train", stage.train)
        stage.now = 1000.0
        await stage.coordinator.consider()
        assert stage.trainings == []
        stage.coordinator.resume()
        await stage.coordinator.consider()
        assert stage.coordinator.state == "probation"

    play(scene)


def test_the_end_of_the_service_ends_the_training(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(stage: Stage) -> None:
        training, ended = asyncio.Event(), asyncio.Event()

        async def endless(job: Job, progress: Any, allowed: Any) -> dict[str, Any]:
            training.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()
            return {}

        monkeypatch.setattr(trainer, "train", endless)
        await stage.see(36)
        stage.drift()
        task = asyncio.create_task(stage.coordinator.run())
        await before_its_end(task, training.wait())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended.is_set()

    play(scene)


def test_the_training_gets_the_factories_that_the_operator_allows_now(
    play: Callable[..., None],
) -> None:
    async def scene(stage: Stage) -> None:
        stage.outcome = AdaptationError("no luck")
        await stage.see(36)
        stage.coordinator.request("")
        await stage.coordinator.consider()
        stage.config = Config.model_validate(
            merged(stage.config.model_dump(), {"inference": {"allow_factories": ["other:make"]}})
        )
        stage.coordinator.request("")
        await stage.coordinator.consider()
        assert stage.allowed == [("mine.nets:make",), ("other:make",)]
        for job in stage.trainings:
            assert "make" not in (job.path / jobs.JOB).read_text(), "the job vouches for nothing"

    play(scene, inference={"allow_factories": ["mine.nets:make"]})


def test_a_fault_of_our_own_fails_the_adaptation_and_not_the_service(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(stage: Stage) -> None:
        async def outdated(job: Job) -> dict[str, Any]:
            return {}

        monkeypatch.setattr(trainer, "train", outdated)
        await stage.see(36)
        stage.drift()
        await stage.coordinator.consider()
        error = stage.told("adaptation_failed")["error"]
        assert error["code"] == "internal" and "outdated" in error["value"]
        assert "trainer.py:" in error["field"], "where to look"
        assert stage.pipeline.version.id == stage.champion
        loaded = await stage.coordinator.promote(stage.champion, "by hand")
        assert loaded == stage.champion, "and it holds no lock"

    play(scene)


def test_promoting_what_is_live_forgets_nothing(play: Callable[..., None]) -> None:
    async def scene(stage: Stage) -> None:
        await stage.see(6)
        stage.drift()
        assert await stage.coordinator.promote(stage.champion, "by hand") == stage.champion
        assert stage.events() == [] and stage.coordinator.counts["promotions"] == 0
        assert stage.coordinator.describe()["drifted"] == ["c/s"]
        candidate = await stage.swapped()
        assert await stage.coordinator.promote(candidate, "enough") == candidate
        assert stage.events()[-1] == "promoted", "from probation"

    play(scene)


def test_operators_do_not_wait_for_a_training(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(stage: Stage) -> None:
        monkeypatch.setattr(turns, "_PATIENCE_S", 0.01)
        training, finish = asyncio.Event(), asyncio.Event()

        async def slow(job: Job, progress: Any, allowed: Any) -> dict[str, Any]:
            training.set()
            await finish.wait()
            return await stage.train(job, progress, allowed)

        monkeypatch.setattr(trainer, "train", slow)
        await stage.see(36)
        stage.drift()
        under_way = asyncio.create_task(stage.coordinator.consider())
        await before_its_end(under_way, training.wait())
        with pytest.raises(BusyError, match="pause"):
            await stage.coordinator.promote(stage.champion, "")
        with pytest.raises(BusyError):
            await stage.coordinator.rollback("")
        finish.set()
        await under_way
        assert await stage.coordinator.rollback("by hand") == stage.champion
        assert stage.told("rollback")["reason"] == "by hand"

    play(scene)


def test_a_full_disk_stops_no_service_and_moves_nothing(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(stage: Stage) -> None:
        candidate = await stage.swapped()
        await stage.see(12)

        def full(*_: Any) -> None:
            raise StoreError("cannot move an alias", value="No space left", remedy="free space")

        told = asyncio.Event()
        publish = stage.published.append

        def listen(topic: str, data: dict[str, Any]) -> None:
            publish((topic, data))
            if topic in ("event.trouble", "event.promoted"):
                told.set()

        monkeypatch.setattr(stage.coordinator, "_publish", listen)
        with monkeypatch.context() as patch:
            patch.setattr(Registry, "_move", full)
            task = asyncio.create_task(stage.coordinator.run())
            await before_its_end(task, told.wait())
            assert stage.told("trouble")["error"]["code"] == "store"
            assert stage.pipeline.version.id == candidate
            assert stage.coordinator.state == "probation"
            with pytest.raises(StoreError):
                await stage.coordinator.rollback("")
            assert stage.pipeline.version.id == candidate, "disk and memory agree"
        told.clear()
        stage.coordinator.on_labels()
        await before_its_end(task, told.wait())
        task.cancel()
        assert stage.events()[-1] == "promoted" and stage.events().count("trouble") == 1

    play(scene)


def test_the_newest_job_is_kept_whatever_the_clock_says(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(stage: Stage) -> None:
        names = iter(["20260101T000000-0001", "19700101T000000-0002"])
        monkeypatch.setattr(jobs, "new_id", lambda number: next(names))
        stage.outcome = AdaptationError("no luck")
        await stage.see(36)
        stage.coordinator.request("")
        await stage.coordinator.consider()
        stage.outcome = None
        stage.coordinator.request("")
        await stage.coordinator.consider()
        assert stage.coordinator.state == "probation", stage.published
        left = [path.name for path in (stage.config.state_dir / "jobs").iterdir()]
        assert left == ["19700101T000000-0002"]

    play(scene, adapt={"keep_jobs": 1})


# ------------------------------------------------------------------ circumstances that come back


async def moved_on(stage: Stage) -> str:
    """A version for labels of another kind has proved itself; its id."""
    candidate = await stage.swapped()
    await stage.see(12)
    await stage.coordinator.consider()
    assert stage.events()[-1] == "promoted"
    stage.now += 10
    return candidate


def come_back(stage: Stage) -> None:
    """Drift is found where the windows that are seen next begin."""
    stage.coordinator.on_findings([Finding("drift", "embedding", KEY, stage.seq, 0, 9.0, 1.0)])
    monitor = stage.pipeline._monitor
    monitor._streams[KEY].context_start = stage.seq


def test_an_earlier_version_that_knows_the_context_is_taken_without_training(
    play: Callable[..., None],
) -> None:
    async def scene(stage: Stage) -> None:
        second = await moved_on(stage)
        come_back(stage)
        await stage.see(5, shift=0)
        await stage.coordinator.consider()
        assert stage.coordinator.state == "drifted", "five labels are too few for the gate"
        await stage.see(5, shift=0)
        await stage.coordinator.consider()
        swap = stage.told("swap")
        assert swap["version"] == stage.champion and swap["previous"] == second
        assert swap["reused"] and swap["gate"]["passed"] and "job" not in swap
        assert len(stage.trainings) == 1, "nothing was trained for it"
        assert stage.registry.aliases == Aliases(second, stage.champion, stage.champion)
        await stage.see(12, shift=0)
        await stage.coordinator.consider()
        assert stage.registry.aliases == Aliases(stage.champion, None, second)
        stage.now += 10
        come_back(stage)
        await stage.see(10)
        await stage.coordinator.consider()
        assert stage.told("swap")["version"] == second, "and forth again"
        assert stage.coordinator.counts["reuses"] == 2

    play(scene)


def test_an_earlier_version_that_does_not_know_the_context_leaves_it_to_training(
    play: Callable[..., None],
) -> None:
    async def scene(stage: Stage) -> None:
        await moved_on(stage)
        come_back(stage)
        for _ in range(2):  # with twelve labels, and then with more
            await stage.see(12, shift=2)
            await stage.coordinator.consider()
        recalls = [data for topic, data in stage.published if topic == "event.recall"]
        assert [len(one["asked"]) for one in recalls] == [1, 1]
        assert not recalls[0]["asked"][0]["passed"]
        told = [one["asked"][0]["confidence"] for one in recalls]
        assert told == pytest.approx([0.9, 0.9]), "evidence may be looked at again and again"
        assert len(stage.trainings) == 2

    play(scene)


def test_a_version_that_was_taken_back_is_not_tried_again(play: Callable[..., None]) -> None:
    async def scene(stage: Stage) -> None:
        await moved_on(stage)
        come_back(stage)
        await stage.see(10, shift=0)
        await stage.coordinator.consider()
        assert stage.told("swap")["reused"]
        await stage.see(8)
        await stage.coordinator.consider()
        assert stage.told("rollback")["taken_back"] == stage.champion
        stage.now += 100
        come_back(stage)
        await stage.see(23, shift=0)
        await stage.coordinator.consider()
        assert stage.coordinator.state == "drifted" and stage.coordinator.counts["reuses"] == 1

    play(scene)


@pytest.mark.parametrize("adapt", [{"reuse": 0}, {}])
def test_nothing_is_reused_where_it_is_not_wanted_or_an_operator_asks_for_training(
    play: Callable[..., None], adapt: dict[str, Any]
) -> None:
    async def scene(stage: Stage) -> None:
        await moved_on(stage)
        if adapt:
            come_back(stage)
        else:
            stage.pipeline._monitor._streams[KEY].context_start = stage.seq
            stage.coordinator.request("train")
        await stage.see(23, shift=0)
        await stage.coordinator.consider()
        assert "recall" not in stage.events() and stage.coordinator.counts["swaps"] == 1

    play(scene, adapt=adapt)


def test_a_damaged_earlier_version_holds_nothing_up(play: Callable[..., None]) -> None:
    async def scene(stage: Stage) -> None:
        await moved_on(stage)
        (stage.registry.path(stage.champion) / "weights.safetensors").write_bytes(b"")
        come_back(stage)
        await stage.see(36, shift=2)
        await stage.coordinator.consider()
        (asked,) = stage.told("recall")["asked"]
        assert asked["version"] == stage.champion and asked["error"]["code"] == "bundle"
        assert len(stage.trainings) == 2

    play(scene)


# ------------------------------------------------------------------ labels that may be wrong


def test_labels_that_rename_the_classes_wait_for_an_operator(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(stage: Stage) -> None:
        await stage.see(36)
        stage.drift()
        await stage.coordinator.consider()
        deferred = stage.told("deferred")["reason"]
        assert "by chance" in deferred and "--trust-labels" in deferred
        looked: list[int] = []
        weigh = stage.coordinator._belief.weigh

        async def counted(context: Any, live: Any, **how: Any) -> Any:
            looked.append(len(context))
            return await weigh(context, live, **how)

        monkeypatch.setattr(stage.coordinator._belief, "weigh", counted)
        await stage.see(6)
        await stage.coordinator.consider()
        assert looked == [] and stage.coordinator.deferred == deferred
        await stage.see(3)
        await stage.coordinator.consider()
        assert looked == [45], "there is a fifth more of them"
        stage.coordinator.request("I labelled them myself", trust_labels=True)
        await stage.coordinator.consider()
        assert stage.coordinator.state == "probation"
        assert stage.coordinator.deferred is None

    play(scene, adapt={"doubt_labels": True})


def test_who_was_put_right_is_believed_from_there_on(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trust, "_SEVERAL", 3)

    async def scene(stage: Stage) -> None:
        await stage.see(36)  # labels of the next class
        stage.drift()
        await stage.coordinator.consider()
        assert stage.trainings == []
        await stage.see(48, shift=0)
        stage.coordinator.request("")
        await stage.coordinator.consider()
        (job,) = stage.trainings
        windows = job.windows()
        believed = windows.y >= 0
        assert not believed[:30].any(), "what was said before stays out"
        assert believed[50:].all()
        assert stage.told("adaptation_started")["disputed"] == (~believed).sum()

    play(scene, adapt={"doubt_labels": True})


def test_labels_of_a_class_that_contradict_what_looks_as_at_home_are_left_out(
    play: Callable[..., None],
) -> None:
    async def scene(stage: Stage) -> None:
        await stage.see(60, labelled=False)
        labels = [(n, waves.label_of(n)) for n in range(60) if waves.label_of(n) < 2]
        entries = [LabelEntry(*KEY, n, 2 if k == 1 else k, n) for n, k in labels]
        await stage.pipeline.stored(lambda store: store.add_labels(entries))
        stage.coordinator.request("")
        await stage.coordinator.consider()
        reason = stage.told("deferred")["reason"]
        assert "20 labelled windows in this context, 24" in reason
        assert "20 more are doubted" in reason and "--trust-labels" in reason
        assert stage.told("deferred")["disputed"] == 20
        assert stage.trainings == []

    play(scene, adapt={"doubt_labels": True, "min_classes": 2})


def test_without_enough_labels_it_trains_on_its_guesses_and_labels_only_judge(
    play: Callable[..., None],
) -> None:
    async def scene(stage: Stage) -> None:
        await stage.see(60, shift=0, labelled=False)
        stage.drift()
        await stage.coordinator.consider()
        assert "6 are needed" in stage.told("deferred")["reason"]
        await stage.see(12)  # as the candidate of this stage has it
        await stage.coordinator.consider()
        (job,) = stage.trainings
        windows = job.windows()
        given = np.arange(72) >= 60
        assert (windows.split[given] == jobs.HOLDOUT).all()
        guesses = windows.y[~given] >= 0
        assert guesses.sum() >= 24 and (windows.split[~given][guesses] == jobs.TRAIN).all()
        true = np.array([waves.label_of(n) for n in range(60)])
        assert (windows.y[~given] == true)[guesses].all(), "the model knows these"
        assert stage.told("adaptation_started")["guessed"] == guesses.sum()
        assert stage.told("swap")["gate"]["windows"] == 12, "by the gate as ever"
        await stage.see(8, shift=0)
        await stage.coordinator.consider()
        assert stage.events()[-1] == "rollback", "and taken back as ever"

    play(scene, adapt={"self_train": True})
