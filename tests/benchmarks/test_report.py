import json
import sys

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("matplotlib")

from benchmarks import report  # noqa: E402
from benchmarks.methods import METHODS  # noqa: E402


def test_every_method_has_a_name():
    assert report.NAMES.keys() == METHODS.keys()


def test_the_command_leaves_table_picture_and_figures(tmp_path, monkeypatch):
    facts = {
        "step_ms": 2.0,
        "ratio_to_full": 0.5,
        "ratio_to_inference": 2.0,
        "saved_bytes": 8e5,
        "state_peak_bytes": 3e6,
        "peak_bytes": 1e7,
        "trained": 2304,
        "trained_fraction": 0.0041,
    }
    monkeypatch.setattr(report, "measure", lambda *_, **__: dict.fromkeys(METHODS, facts))
    monkeypatch.setattr(report, "keep_freed_memory", lambda: True)
    monkeypatch.setattr(report.torch, "set_num_threads", lambda _: None)
    monkeypatch.setattr(sys, "argv", ["report", "--out", str(tmp_path), "--rounds", "1"])
    report.main()
    assert json.loads((tmp_path / "step.json").read_text())["settings"]["rounds"] == 1
    page = (tmp_path / "step.md").read_text()
    assert "### MobileNetV2" in page
    assert "| LoRA-Edge, lean | 0.500 | 2.00 | 0.800 | 3.00 | 10.0 | 0.41 % |" in page
    assert (tmp_path / "step.png").stat().st_size > 10_000
