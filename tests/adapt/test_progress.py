from __future__ import annotations

from typing import Any

from edgetuner.adapt.progress import Progress


class Rail:
    """A telemetry on which so much was read."""

    def __init__(self) -> None:
        self.train_j: float | None = None

    def energy_j(self) -> dict[str, float]:
        return {} if self.train_j is None else {"train": self.train_j}


def made() -> tuple[Progress, Rail]:
    rail: Any = Rail()
    return Progress(rail), rail


def test_rungs_are_kept_with_their_evidence_and_the_energy_read_while_they_ran() -> None:
    progress, rail = made()
    rail.train_j = 100.0
    progress.begin()
    progress.take({"rung": "head"})
    assert progress.now == {"rung": "head"} and progress.rungs == []
    rail.train_j = 107.5
    progress.take({"rung": "head", "seconds": 0.5, "taken": True, "windows": 40})
    assert progress.now["energy_j"] == 7.5
    progress.take({"rung": "statistics", "seconds": 0.1, "taken": False})
    progress.take({"rung": "cores", "refused": "does not fit", "extra": 1})
    assert progress.rungs == [
        {"rung": "head", "seconds": 0.5, "taken": True, "energy_j": 7.5},
        {"rung": "statistics", "seconds": 0.1, "taken": False},
        {"rung": "cores", "refused": "does not fit"},
    ]
    rail.train_j = 110.0
    assert progress.end() == 10 and progress.now == {}
    assert len(progress.rungs) == 3, "they are told of when it is over"


def test_what_failed_on_a_gpu_is_forgotten_when_the_cpu_begins() -> None:
    progress, _ = made()
    progress.begin()
    progress.take({"rung": "head", "seconds": 0.5, "taken": True})
    progress.take({"rung": "cpu", "why": "no kernel"})
    assert progress.rungs == []


def test_without_a_rail_there_is_no_energy() -> None:
    progress, _ = made()
    progress.begin()
    progress.take({"rung": "head", "seconds": 0.5, "taken": True})
    assert "energy_j" not in progress.now and progress.end() == 0
