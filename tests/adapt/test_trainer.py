from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from edgetuner.adapt import job as jobs
from edgetuner.adapt.job import Ask, Job
from edgetuner.adapt.trainer import Train, Trainer
from edgetuner.config import AdaptConfig
from edgetuner.errors import AdaptationError
from edgetuner.telemetry import Telemetry, open_telemetry
from tests.adapt.material import windows
from tests.awaiting import before_its_end

Said = Callable[[dict[str, Any]], None]


class Bench:
    """A trainer, the clock and the energy of its board, and what it was heard to say."""

    def __init__(self, folder: Path, train: Train) -> None:
        self.now = 0.0
        self.train_j = 0.0
        self.heard: list[dict[str, Any]] = []
        self.telemetry = open_telemetry((), 1.0)
        self.base = folder / "base"
        self.base.mkdir()
        self.folder = folder / "jobs"
        self.trainer = Trainer(self.folder, self.telemetry, self.hear, lambda: self.now, train)

    def hear(self) -> None:
        self.heard.append(self.trainer.progress.now)

    async def job(self, name: str = "20260101T000000-0001", keep: int = 5) -> Job:
        settings = AdaptConfig(keep_jobs=keep)
        ask = Ask(job=name, created="2026-01-01T00:00:00+00:00", why="", settings=settings)
        return await self.trainer.keep(ask, self.base, windows(12))


def phases(telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the telemetry is told from now on."""
    told: list[str] = []
    monkeypatch.setattr(telemetry, "phase", told.append)
    return told


async def test_a_training_is_heard_and_its_energy_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def train(job: Job, said: Said, allow_factories: Sequence[str]) -> dict[str, Any]:
        assert told == ["train"] and allow_factories == ("mine.nets:make",)
        bench.train_j += 7.5
        said({"rung": "head", "seconds": 0.5})
        bench.train_j += 2.5
        return {"job": job.ask.job}

    bench = Bench(tmp_path, train)
    told = phases(bench.telemetry, monkeypatch)
    monkeypatch.setattr(bench.telemetry, "energy_j", lambda: {"train": bench.train_j})
    result = await bench.trainer.train(await bench.job(), ("mine.nets:make",))
    assert result == {"job": "20260101T000000-0001"} and told == ["train", "infer"]
    assert bench.heard == [{"rung": "head", "seconds": 0.5, "energy_j": 7.5}]
    assert bench.trainer.progress.rungs == bench.heard and not bench.trainer.progress.now
    assert bench.trainer.energy.used_j == 10
    bench.now = 90_000.0
    assert bench.trainer.energy.used_j == 0, "that was yesterday"


async def test_the_energy_of_a_training_that_fails_counts_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def train(job: Job, said: Said, allow_factories: Sequence[str]) -> dict[str, Any]:
        bench.train_j += 600
        raise AdaptationError("no luck")

    bench = Bench(tmp_path, train)
    told = phases(bench.telemetry, monkeypatch)
    monkeypatch.setattr(bench.telemetry, "energy_j", lambda: {"train": bench.train_j})
    with pytest.raises(AdaptationError, match="no luck"):
        await bench.trainer.train(await bench.job(), ())
    assert bench.trainer.energy.used_j == 600 and told == ["train", "infer"]


async def test_a_training_that_is_stopped_says_so(tmp_path: Path) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def train(job: Job, said: Said, allow_factories: Sequence[str]) -> dict[str, Any]:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return {}

    bench = Bench(tmp_path, train)
    bench.trainer.stop()  # nothing is under way
    training = asyncio.create_task(bench.trainer.train(await bench.job(), ()))
    await before_its_end(training, begun.wait())
    bench.trainer.stop()
    with pytest.raises(AdaptationError, match=r"stopped by an operator.*resume"):
        await training
    assert ended.is_set()


async def test_whoever_gives_up_waiting_ends_the_training_first(tmp_path: Path) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def train(job: Job, said: Said, allow_factories: Sequence[str]) -> dict[str, Any]:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.set()
        return {}

    bench = Bench(tmp_path, train)
    training = asyncio.create_task(bench.trainer.train(await bench.job(), ()))
    await before_its_end(training, begun.wait())
    training.cancel()
    with pytest.raises(asyncio.CancelledError):
        await training
    assert ended.is_set()


async def test_the_job_that_is_made_is_kept_and_the_oldest_ones_are_not(tmp_path: Path) -> None:
    async def train(job: Job, said: Said, allow_factories: Sequence[str]) -> dict[str, Any]:
        return {}

    bench = Bench(tmp_path, train)
    names = [f"20260101T00000{n}-000{n}" for n in range(3)] + ["19700101T000000-0004"]
    for name in names:
        job = await bench.job(name, keep=2)
        assert job.path == bench.folder / name and (job.path / jobs.WINDOWS).exists()
    left = sorted(path.name for path in bench.folder.iterdir())
    assert left == [names[3], names[2]], "the newest, whatever the clock says"
