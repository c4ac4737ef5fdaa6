"""The invented board: repeatable, plausible, and marked."""

from __future__ import annotations

from pathlib import Path

from edgetuner.telemetry import Sample
from edgetuner.telemetry.simulated import Simulated
from edgetuner.telemetry.source import Options

from .conftest import Clock


def run(root: Path, phases: list[str], *, seed: int = 0, step_s: float = 1.0) -> list[Sample]:
    clock, current = Clock(), ["idle"]
    source = Simulated(Options(sysroot=root, seed=seed, clock=clock, phase=lambda: current[0]))
    samples = []
    for current[0] in phases:
        clock.advance(step_s)
        samples.append(source.read())
    return samples


def facts(samples: list[Sample]) -> list[tuple[object, ...]]:
    return [(s.monotonic_s, s.power_w, s.temperature_c, s.gpu_load) for s in samples]


def test_the_same_seed_and_phases_give_the_same_board(computer: Path) -> None:
    phases = ["idle"] * 3 + ["infer"] * 3 + ["train"] * 3
    assert facts(run(computer, phases)) == facts(run(computer, phases))
    assert facts(run(computer, phases)) != facts(run(computer, phases, seed=1))


def test_power_follows_the_phase_within_the_range_of_the_board(computer: Path) -> None:
    idle, infer, train = (
        [s.total_power_w or 0.0 for s in run(computer, [phase] * 50)]
        for phase in ("idle", "infer", "train")
    )
    assert max(idle) < min(infer)
    assert max(infer) < min(train)
    assert min(idle) > 3.5
    assert max(train) < 25.0


def test_temperature_climbs_under_load_and_stays_below_the_trip(computer: Path) -> None:
    samples = run(computer, ["train"] * 600)
    celsius = [s.temperature_c["tj"] for s in samples]
    assert celsius[0] < celsius[60] < celsius[-1] < samples[0].passive_trip_c["tj"]


def test_it_is_marked_and_its_memory_is_the_hosts(computer: Path) -> None:
    (sample,) = run(computer, ["infer"])
    assert sample.source == "simulated"
    assert sample.simulated
    assert sample.memory_available_bytes == 4 * 1024**3


def test_memory_it_cannot_read_is_not_invented(tmp_path: Path) -> None:
    (sample,) = run(tmp_path, ["infer"])
    assert sample.memory_total_bytes is None
