from __future__ import annotations

from dataclasses import replace

import pytest

from edgetuner.adapt.admission import Situation, refusal
from edgetuner.config import Config
from edgetuner.telemetry import Sample

CONFIG = Config.model_validate(
    {
        "adapt": {
            "min_labels": 40,
            "min_classes": 3,
            "memory_budget_mb": 1000,
            "min_available_mb": 200,
            "max_temperature_c": 80,
            "energy_budget_j_per_day": 500,
        }
    }
)
_MB = 1024 * 1024
BOARD = Sample(
    source="host",
    t=0.0,
    monotonic_s=0.0,
    memory_available_bytes=1200 * _MB,
    temperature_c={"cpu": 80.0, "gpu": 40.0},
)
GOOD = Situation(labels=40, classes=3, known=4, faults=[], board=BOARD, spent_j=499.0, wait_s=0.0)


def test_what_is_just_enough_is_admitted() -> None:
    assert refusal(GOOD, CONFIG) is None


def test_what_the_board_does_not_say_refuses_nothing() -> None:
    assert refusal(replace(GOOD, board=None), CONFIG) is None
    silent = Sample(source="host", t=0.0, monotonic_s=0.0)
    assert refusal(replace(GOOD, board=silent), CONFIG) is None


def test_without_a_budget_energy_refuses_nothing() -> None:
    assert refusal(replace(GOOD, board=None, spent_j=1e9), Config()) is None


def test_where_it_trains_itself_labels_are_needed_for_the_gate_alone() -> None:
    over = {"adapt": {"self_train": True}, "gate": {"min_windows": 12}}
    config = Config.model_validate(over)
    assert refusal(replace(GOOD, labels=12, board=None), config) is None
    assert "12 are needed" in (refusal(replace(GOOD, labels=11, board=None), config) or "")


@pytest.mark.parametrize(
    ("short", "words"),
    [
        (replace(GOOD, wait_s=0.1), ["cool-down"]),
        (replace(GOOD, faults=["w/left"]), ["w/left", "repair"]),
        (replace(GOOD, labels=39), ["39", "40"]),
        (replace(GOOD, classes=2), ["2 classes", "3"]),
        (
            replace(GOOD, board=BOARD.model_copy(update={"memory_available_bytes": 1199 * _MB})),
            ["1199 MB", "1200 MB"],
        ),
        (
            replace(GOOD, board=BOARD.model_copy(update={"temperature_c": {"cpu": 1, "gpu": 81}})),
            ["gpu", "81 C", "80 C"],
        ),
        (replace(GOOD, spent_j=500.0), ["500 J"]),
    ],
)
def test_what_is_short_is_named(short: Situation, words: list[str]) -> None:
    reason = refusal(short, CONFIG)
    assert reason is not None and all(word in reason for word in words)
