import importlib.util
import json
import sys

import pytest

torch = pytest.importorskip("torch")

import numpy as np  # noqa: E402

if importlib.util.find_spec("seglearn") is None:
    pytest.skip("seglearn is not installed", allow_module_level=True)

from benchmarks import precision  # noqa: E402
from demo.bundle import OUT, PAIR  # noqa: E402
from demo.recordings import watch_windows  # noqa: E402
from edgetuner.bundle import Bundle  # noqa: E402


def test_what_is_learned_shares_no_sample_with_the_test():
    windows = watch_windows().select(subject=PAIR, position="left_wrist")
    learn, test = precision._halves(windows)
    recording, t = windows.groups["recording"], windows.groups["t"]
    for number in np.unique(recording):
        early, late = (t[rows[recording[rows] == number]] for rows in (learn, test))
        if len(early) and len(late):
            assert late.min() - early.max() >= 2, "neighbours share half of their samples"
    data = precision.split(Bundle.load(OUT), seed=0)
    assert torch.bincount(data.y).tolist() == [precision.LABELS_PER_CLASS] * 7
    assert len(data.test_y) == len(test) > 100


def test_the_command_leaves_a_row_for_each_form(tmp_path, monkeypatch):
    few = precision.SETTINGS.model_copy(update={"steps": 2, "batch_size": 8})
    monkeypatch.setattr(precision, "SETTINGS", few)
    monkeypatch.setattr(precision.torch, "set_num_threads", lambda _: None)
    forms = {name: precision.FORMS[name] for name in ("plain", "lean", "lean_cached")}
    monkeypatch.setattr(precision, "FORMS", {**forms, "lean_bfloat16": forms["lean"]})
    out = ["--seeds", "1", "--skip-bfloat16", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["precision", *out])
    precision.main()
    result = json.loads((tmp_path / "precision.json").read_text())
    assert result.keys() == {"zero_shot", *forms}
    assert result["plain"]["differs"] == [0.0]
    assert result["lean"]["f1"] == pytest.approx(result["plain"]["f1"], abs=0.02)
    assert "| lean, float32 | 0." in (tmp_path / "precision.md").read_text()
