from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from edgetuner.config import Config, parse_config
from edgetuner.doctor.rehearsal import rehearsal
from edgetuner.errors import BudgetError
from tests.live import SETTINGS


def configured(bundle: Path, **adapt: Any) -> Config:
    return parse_config(
        {"bundle": str(bundle), "state_dir": "/nowhere", "adapt": SETTINGS["adapt"] | adapt}
    )


def test_all_of_the_ladder_is_climbed_in_the_real_process(wave_bundle: Path) -> None:
    found, *notes = rehearsal(configured(wave_bundle))
    assert found.state == "ok" and not notes, found
    assert list(found.facts["rungs"]) == ["head", "unlabelled", "statistics", "cores"]
    assert 0 < found.facts["trained_fraction"] <= 0.3
    assert found.facts["peak_rss_bytes"] > 50 << 20
    assert found.facts["train_seconds"] > 0


def test_memory_that_is_not_told_is_absent(wave_bundle: Path, tmp_path: Path) -> None:
    found, *_ = rehearsal(configured(wave_bundle, rungs=["head"]), tmp_path)
    assert "available_bytes_taken" not in found.facts
    found, *_ = rehearsal(configured(wave_bundle, rungs=["head"]))
    assert found.facts["available_bytes_taken"] >= 0


def test_cores_that_may_not_be_trained_are_noted(wave_bundle: Path) -> None:
    found, note = rehearsal(configured(wave_bundle, trained_fraction=0.001))
    assert found.state == "ok" and note.check == "training: cores"
    assert note.state == "note" and "adapt.trained_fraction" in note.said


def test_a_budget_that_is_too_small_is_found_before_a_drift_does(wave_bundle: Path) -> None:
    with pytest.raises(BudgetError, match=r"adapt\.memory_budget_mb"):
        list(rehearsal(configured(wave_bundle, memory_budget_mb=64)))
