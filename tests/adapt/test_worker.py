from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgetuner.adapt import job as jobs  # noqa: E402
from edgetuner.adapt import worker  # noqa: E402
from edgetuner.adapt.job import HOLDOUT, Job  # noqa: E402
from edgetuner.bundle import Bundle  # noqa: E402
from edgetuner.config import AdaptConfig  # noqa: E402
from edgetuner.errors import BundleError, EdgetunerError  # noqa: E402
from edgetuner.inference import ModelVersion  # noqa: E402
from tests.adapt.material import job, windows  # noqa: E402
from tests.live import PATIENCE_S, ROOT  # noqa: E402


def test_a_job_becomes_a_candidate(
    tmp_path: Path, wave_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = job(tmp_path, wave_bundle)
    result = worker.run(made)
    assert result["rung"] == "cores" and result["core_norm"] > 0
    assert (result["labelled"], result["held_out"]) == (21, 9)
    assert 0 < result["trained_fraction"] < 1
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {line["rung"] for line in said} == {"statistics", "head", "cores", "reference"}

    base, candidate = Bundle.load(wave_bundle), Bundle.load(made.path / jobs.CANDIDATE)
    assert candidate.version == result["version"] != base.version
    assert candidate.manifest.parent == base.version
    assert candidate.weights.keys() == base.weights.keys()
    for name, weight in base.weights.items():
        new = candidate.weights[name]
        assert (new.shape, new.dtype) == (weight.shape, weight.dtype)
    for name in ("mean", "std", "exemplar_x", "exemplar_y"):
        assert np.array_equal(getattr(candidate, name), getattr(base, name))
    x, y = windows().labelled(HOLDOUT)
    version = ModelVersion.load(made.path / jobs.CANDIDATE)
    assert (version.predict(x).predicted == y).all()
    assert not (ModelVersion.load(wave_bundle).predict(x).predicted == y).all()
    known = version.reference.calibration
    source = ModelVersion.load(wave_bundle).reference.calibration
    assert known is not None and source is not None
    assert known.run_length == source.run_length, "as rare a false alarm as before"


def test_a_tampered_base_is_not_trained_on(tmp_path: Path, wave_bundle: Path) -> None:
    made = job(tmp_path, wave_bundle)
    (made.path / jobs.BASE / "weights.safetensors").write_bytes(b"")
    with pytest.raises(BundleError):
        worker.run(made)
    assert not (made.path / jobs.CANDIDATE).exists()


def test_a_loss_that_is_not_finite_leaves_no_candidate(tmp_path: Path, wave_bundle: Path) -> None:
    made = job(tmp_path, wave_bundle, AdaptConfig(rungs=("cores",), steps=5, learning_rate=1e30))
    with pytest.raises(EdgetunerError):
        worker.run(made)
    assert not (made.path / jobs.CANDIDATE).exists()


def test_the_process_leaves_its_error_where_the_service_looks(
    tmp_path: Path, wave_bundle: Path
) -> None:
    made = job(tmp_path, wave_bundle)
    (made.path / jobs.WINDOWS).write_bytes(b"\x01" * 40)
    done = subprocess.run(
        [sys.executable, "-m", "edgetuner.adapt.worker", str(made.path)],
        stdin=subprocess.DEVNULL,  # as at a desk: nobody's end closes
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 70
    (line,) = done.stderr.splitlines()
    result = Job.open(made.path).result()
    assert result is not None and result["error"]["code"] == "adaptation"
    assert jobs.WINDOWS in line and jobs.WINDOWS in result["error"]["message"]


def test_an_error_without_a_message_is_told_by_its_name(
    tmp_path: Path,
    wave_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = job(tmp_path, wave_bundle)

    def out_of_memory(_: Job) -> None:
        raise MemoryError

    monkeypatch.setattr(worker, "run", out_of_memory)
    monkeypatch.setattr(worker, "_make_expendable", lambda: None)
    monkeypatch.setattr(worker, "_die_with_parent", lambda: None)
    assert worker.main([str(made.path)]) == 70
    result = made.result()
    assert result is not None and "MemoryError" in result["error"]["message"]
    assert "MemoryError" in capsys.readouterr().err
