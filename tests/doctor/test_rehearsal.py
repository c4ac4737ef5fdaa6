from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from edgetuner.adapt.job import LOG, Job
from edgetuner.config import Config, parse_config
from edgetuner.doctor.rehearsal import rehearsal
from edgetuner.errors import AdaptationError, BudgetError
from tests.live import SETTINGS
from tests.telemetry.conftest import PROC, write


def configured(bundle: Path, **adapt: Any) -> Config:
    return parse_config(
        {"bundle": str(bundle), "state_dir": "/nowhere", "adapt": SETTINGS["adapt"] | adapt}
    )


def test_all_of_the_ladder_is_climbed_in_the_real_process(wave_bundle: Path) -> None:
    found, *notes = rehearsal(configured(wave_bundle))
    assert found.state == "ok" and not notes, found
    assert list(found.facts["rungs"]) == ["head", "unlabelled", "statistics", "cores"]
    assert 0 < found.facts["trained_fraction"] <= 0.3
    assert found.facts["peak_held_bytes"] > 50 << 20
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


def test_nothing_is_rehearsed_where_memory_is_short(wave_bundle: Path, tmp_path: Path) -> None:
    write(tmp_path, PROC)
    (note,) = rehearsal(configured(wave_bundle, memory_budget_mb=4000), tmp_path)
    assert (note.check, note.state) == ("training", "note")
    assert "memory" in note.said


def test_what_the_training_said_last_is_told(
    wave_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def dying(job: Job, *_: object) -> dict[str, Any]:
        (job.path / LOG).write_text("first\nno kernel image\n")
        raise AdaptationError("the training process ended without a result", value="exit code 1")

    monkeypatch.setattr("edgetuner.doctor.rehearsal.train", dying)
    with pytest.raises(AdaptationError, match="no kernel image"):
        list(rehearsal(configured(wave_bundle)))
