"""Joules by phase: the trapezoid rule, its gaps and its seams."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetuner.telemetry import Sample
from edgetuner.telemetry.energy import Energy


def sample(at_s: float, watts: float | None, source: str = "sysfs") -> Sample:
    return Sample(source=source, t=0.0, monotonic_s=at_s, total_power_w=watts)


def measured(energy: Energy) -> dict[str, float]:
    return energy.joules(simulated=False)


def test_the_trapezoid_rule() -> None:
    energy = Energy(1.0, "infer")
    for at_s, watts in [(0, 4.0), (1, 6.0), (3, 6.0)]:
        energy.add(sample(at_s, watts))
    assert measured(energy) == {"infer": 17.0}


def test_one_reading_is_no_energy() -> None:
    energy = Energy(1.0)
    energy.add(sample(0, 4.0))
    assert measured(energy) == {}


def test_an_interval_is_split_where_the_phase_changed() -> None:
    energy = Energy(4.0, "infer")
    energy.add(sample(0, 0.0))
    energy.phase("train", 1.0)
    energy.add(sample(4, 8.0))  # 2 W/s: 1 J in the first second, 15 J in the other three
    assert measured(energy) == {"infer": 1.0, "train": 15.0}


def test_a_phase_without_power_is_absent() -> None:
    energy = Energy(1.0, "infer")
    energy.add(sample(0, 4.0))
    energy.add(sample(1, 4.0))
    energy.phase("train", 1.0)
    energy.add(sample(2, None))
    energy.add(sample(3, 4.0))
    energy.phase("idle", 3.0)
    energy.add(sample(4, 4.0))
    assert measured(energy) == {"infer": 4.0, "idle": 4.0}


@pytest.mark.parametrize(("gap_s", "joules"), [(3.0, 12.0), (3.1, None)])
def test_a_gap_of_more_than_three_intervals_is_not_integrated(
    gap_s: float, joules: float | None
) -> None:
    energy = Energy(1.0, "infer")
    energy.add(sample(0, 4.0))
    energy.add(sample(gap_s, 4.0))
    assert measured(energy).get("infer") == joules


def test_no_reading_breaks_the_integral_and_keeps_the_phase() -> None:
    energy = Energy(1.0, "infer")
    energy.add(sample(0, 4.0))
    energy.phase("train", 0.5)
    energy.add(None)
    energy.add(sample(1, 4.0))
    energy.add(sample(2, 4.0))
    assert measured(energy) == {"train": 4.0}


def test_the_same_reading_twice_counts_once() -> None:
    energy = Energy(1.0, "infer")
    for at_s in (0, 0, 1, 1, 2):
        energy.add(sample(at_s, 4.0))
    assert measured(energy) == {"infer": 8.0}


def test_two_sources_are_not_joined_and_simulated_joules_stay_apart() -> None:
    energy = Energy(1.0, "infer")
    for at_s, source in enumerate(
        ["jtop", "sysfs", "sysfs", "simulated", "simulated", "simulated"]
    ):
        energy.add(sample(at_s, 4.0, source))
    assert measured(energy) == {"infer": 4.0}
    assert energy.joules(simulated=True) == {"infer": 8.0}


@given(
    powers=st.lists(st.floats(0, 60), min_size=2, max_size=20),
    switches=st.lists(st.tuples(st.floats(0, 20), st.sampled_from("abc")), max_size=10).map(sorted),
)
def test_phases_never_lose_or_add_a_joule(
    powers: list[float], switches: list[tuple[float, str]]
) -> None:
    energy = Energy(1.0, "a")
    pending = list(switches)
    for at_s, watts in enumerate(powers):
        while pending and pending[0][0] < at_s:
            when, name = pending.pop(0)
            energy.phase(name, when)
        energy.add(sample(at_s, watts))
    total = sum((one + other) / 2 for one, other in itertools.pairwise(powers))
    assert sum(measured(energy).values()) == pytest.approx(total)
