"""The usual detectors run in whichever Python has them."""

import sys

import numpy as np
import pytest

from benchmarks import usual
from benchmarks.usual import DETECTORS, interpreter, usual_alarms

CHANGE = 400


def _stream(draw, windows, shift):
    return {
        "embeddings": draw.normal(size=(windows, 4)) + shift,
        "confidence": np.clip(draw.normal(0.9 - 0.4 * shift, 0.05, windows), 0, 1),
    }


def test_a_shift_in_everything_is_noticed_by_both_and_nothing_by_neither():
    python = interpreter()
    if python is None:
        pytest.skip("neither river and frouros nor build/detectors are there")
    draw = np.random.default_rng(0)
    home, calm, quiet = (_stream(draw, 600, 0.0) for _ in range(3))
    before, after = _stream(draw, CHANGE, 0.0), _stream(draw, 200, 1.0)
    changed = {key: np.concatenate([before[key], after[key]]) for key in before}
    found = usual_alarms(python, home, calm, [quiet, changed], DETECTORS)
    assert set(found) == {"ADWIN", "MMD"}
    for name, (calmly, loudly) in found.items():
        assert len(calmly) <= 1, name
        assert any(CHANGE <= at < CHANGE + 100 for at in loudly), name


def test_without_the_packages_there_is_no_interpreter(monkeypatch, tmp_path):
    monkeypatch.setattr(usual, "ENVIRONMENT", tmp_path / "none")
    monkeypatch.setattr(usual, "find_spec", lambda name: None)
    assert interpreter() is None
    monkeypatch.setattr(usual, "find_spec", lambda name: object())
    assert interpreter() == sys.executable
    monkeypatch.setattr(usual, "find_spec", lambda name: None)
    (tmp_path / "python").touch()
    monkeypatch.setattr(usual, "ENVIRONMENT", tmp_path / "python")
    assert interpreter() == str(tmp_path / "python")
