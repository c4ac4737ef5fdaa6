from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgetuner.adapt import job as jobs  # noqa: E402
from edgetuner.adapt import worker  # noqa: E402
from edgetuner.adapt.gate import Verdict, guards  # noqa: E402
from edgetuner.adapt.job import HOLDOUT, TRAIN, Ask, Job  # noqa: E402
from edgetuner.bundle import Backbone, Bundle, Tensors, write_bundle  # noqa: E402
from edgetuner.config import GateConfig  # noqa: E402
from edgetuner.errors import AdaptationError, BundleError, ModelError  # noqa: E402
from edgetuner.factories import build_module  # noqa: E402
from edgetuner.inference import ModelVersion  # noqa: E402
from edgetuner.peft import tt  # noqa: E402
from edgetuner.peft.suffixes import suffixes_to_keep  # noqa: E402
from tests.adapt.material import QUICK, job, windows  # noqa: E402
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
    assert {line["rung"] for line in said} == {*QUICK.rungs, "reference"}

    base, candidate = Bundle.load(wave_bundle), Bundle.load(made.path / jobs.CANDIDATE)
    assert candidate.version == result["version"] != base.version
    assert candidate.manifest.parent == base.version
    assert candidate.weights.keys() == base.weights.keys()
    for name, weight in base.weights.items():
        new = candidate.weights[name]
        assert (new.shape, new.dtype) == (weight.shape, weight.dtype)
    for name in ("mean", "std", "exemplar_y"):
        assert np.array_equal(getattr(candidate, name), getattr(base, name))
    x, y = windows().labelled(HOLDOUT)
    version = ModelVersion.load(made.path / jobs.CANDIDATE)
    assert (version.predict(x).predicted == y).all()
    assert not (ModelVersion.load(wave_bundle).predict(x).predicted == y).all()
    known = version.reference.calibration
    source = ModelVersion.load(wave_bundle).reference.calibration
    assert known is not None and source is not None
    assert known.run_length == source.run_length, "as rare a false alarm as before"


@pytest.mark.parametrize("policy", ["follow", "retain"])
def test_what_was_learned_stands_for_its_classes_next_time_and_guards_stay(
    tmp_path: Path, wave_bundle: Path, policy: str
) -> None:
    made = job(tmp_path, wave_bundle, settings=QUICK.model_copy(update={"policy": policy}))
    worker.run(made)
    base, candidate = Bundle.load(wave_bundle), Bundle.load(made.path / jobs.CANDIDATE)
    same = (candidate.exemplar_x == base.exemplar_x).all(axis=(1, 2))
    kept = guards(base.exemplar_y)
    assert same[kept].all(), "what guards the source is of the source"
    if policy == "retain":
        assert same.all()
        return
    assert set(base.exemplar_y[~same]) == {0, 1, 2}
    learned, _ = windows().labelled(TRAIN)
    known = learned.astype(np.float16)
    for new in candidate.exemplar_x[~same]:
        assert np.isclose(known, new, rtol=2e-3, atol=2e-3).all(axis=(1, 2)).any()


def test_a_candidate_that_the_gate_would_refuse_is_not_finished(
    tmp_path: Path, wave_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is served makes no error that anybody could mend."""
    perfect = replace(windows(), served=windows().y)
    gate = GateConfig(min_windows=4)
    ask = Ask(job="j", created="", why="", settings=QUICK, gate=gate)
    made = Job.create(tmp_path, ask, wave_bundle, perfect)
    monkeypatch.setattr(worker, "calibrate", None)  # not asked for
    result = worker.run(made)
    refused = Verdict(**result["verdict"])
    assert not refused.passed and refused.champion_f1 == 1.0
    assert refused.windows == (windows().split[windows().y >= 0] == HOLDOUT).sum()
    assert result["rungs"] and "version" not in result
    assert not (made.path / jobs.CANDIDATE).exists()


def test_stored_suffixes_spare_the_decomposition_and_change_nothing(
    tmp_path: Path, wave_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How many SVDs the ladder took: with a base that has suffixes, without, and of the next."""
    taken: list[int] = []
    truncated, climb = tt._truncated_svd, worker.climb

    def counted(*args: Any) -> Any:
        taken[-1] += 1
        return truncated(*args)

    def watched(*args: Any) -> Any:
        taken.append(0)
        climbed = list(climb(*args))
        taken.append(0)  # what comes after is for the next drift
        return climbed

    def adapted(name: str, base: Path) -> Bundle:
        made = job(tmp_path / name, base)
        worker.run(made)
        return Bundle.load(made.path / jobs.CANDIDATE)

    def with_suffixes(name: str, suffixes: dict[str, torch.Tensor]) -> Bundle:
        kept = {layer: values.numpy() for layer, values in suffixes.items()}
        known = Bundle.load(wave_bundle)
        about = known.manifest.description
        write_bundle(tmp_path / name, replace(_tensors(known), suffixes=kept), about)
        return Bundle.load(tmp_path / name)

    # the ranks that these settings allow, not the default ones
    source = with_suffixes("kept", _suffixes_to_keep(Bundle.load(wave_bundle)))
    bare = with_suffixes("bare", {})
    monkeypatch.setattr(tt, "_truncated_svd", counted)
    monkeypatch.setattr(worker, "climb", watched)
    ours, theirs = adapted("with", source.path), adapted("without", bare.path)
    adapted("again", ours.path)
    during = taken[0::2]
    assert during[0] == 0 and during[1] > 0 and during[2] == 0
    for name, weight in ours.weights.items():
        assert np.array_equal(weight, theirs.weights[name])

    fresh = _suffixes_to_keep(ours)
    assert ours.suffixes.keys() == theirs.suffixes.keys() == fresh.keys() == source.suffixes.keys()
    for name, values in fresh.items():
        assert np.array_equal(ours.suffixes[name], values.numpy())
        assert not np.array_equal(ours.suffixes[name], source.suffixes[name]), "of new kernels"


def _suffixes_to_keep(bundle: Bundle) -> dict[str, torch.Tensor]:
    return suffixes_to_keep(
        build_module(bundle), "head", QUICK.rank, QUICK.trained_fraction, QUICK.decomposition
    )


def _tensors(bundle: Bundle) -> Tensors:
    return Tensors(**{part.name: getattr(bundle, part.name) for part in fields(Tensors)})


def test_a_tampered_base_is_not_trained_on(tmp_path: Path, wave_bundle: Path) -> None:
    made = job(tmp_path, wave_bundle)
    (made.path / jobs.BASE / "weights.safetensors").write_bytes(b"")
    with pytest.raises(BundleError):
        worker.run(made)
    assert not (made.path / jobs.CANDIDATE).exists()


def test_a_gradient_that_is_not_finite_leaves_no_candidate(
    tmp_path: Path, wave_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nan = torch.tensor(float("nan"))
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *_: nan)
    made = job(tmp_path, wave_bundle, QUICK.model_copy(update={"rungs": ("cores",)}))
    with pytest.raises(AdaptationError, match="not finite"):
        worker.run(made)
    assert not (made.path / jobs.CANDIDATE).exists()


def test_a_rung_that_fails_leaves_the_ones_before_it(
    tmp_path: Path, wave_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nan = torch.tensor(float("nan"))
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *_: nan)
    result = worker.run(job(tmp_path, wave_bundle))
    assert result["rung"] == "statistics"
    assert "not finite" in result["refused"]["cores"]


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


PLANTED = """
from pathlib import Path
from edgetuner.models import small_cnn as build

Path(__file__).with_name("imported").touch()
"""
FACTORY = "planted:build"


@pytest.fixture
def planted(tmp_path: Path, wave_bundle: Path) -> Job:
    """A job from elsewhere: its base names a factory, and its job.json vouches for it.

    The module `planted` lies in the folder `plants` and leaves a file `imported` beside itself.
    """
    plants = tmp_path / "plants"
    plants.mkdir()
    (plants / "planted.py").write_text(PLANTED)
    base = Bundle.load(wave_bundle)
    backbone = Backbone(factory=FACTORY, args={"width": 8})
    about = base.manifest.description.model_copy(update={"backbone": backbone})
    made = job(tmp_path / "jobs", write_bundle(tmp_path / "base", replace(base), about).path)
    asked = json.loads((made.path / jobs.JOB).read_text())
    (made.path / jobs.JOB).write_text(json.dumps({**asked, "allow_factories": [FACTORY]}))
    return Job.open(made.path)


def replayed(made: Job, *options: str) -> subprocess.CompletedProcess[str]:
    """The worker at a desk, where the plants can be imported."""
    plants = made.path.parents[1] / "plants"
    path = os.pathsep.join([os.fspath(ROOT), os.fspath(plants)])
    return subprocess.run(
        [sys.executable, "-m", "edgetuner.adapt.worker", str(made.path), *options],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=plants,
        env={**os.environ, "PYTHONPATH": path},
        timeout=PATIENCE_S,
    )


def test_a_job_cannot_vouch_for_code_but_whoever_replays_it_can(planted: Job) -> None:
    imported = planted.path.parents[1] / "plants" / "imported"
    for options in ((), ("--allow-factory", "planted:other")):
        done = replayed(planted, *options)
        assert done.returncode == ModelError.exit_code
        assert FACTORY in done.stderr and "--allow-factory" in done.stderr
        result = planted.result()
        assert result is not None and result["error"]["code"] == "model"
        assert not imported.exists() and not (planted.path / jobs.CANDIDATE).exists()
    done = replayed(planted, "--allow-factory", "some.other:make", f"--allow-factory={FACTORY}")
    assert done.returncode == 0, done.stderr
    assert imported.exists() and Bundle.load(planted.path / jobs.CANDIDATE)


def test_a_job_is_run_without_any_factory_unless_the_caller_names_it(planted: Job) -> None:
    with pytest.raises(ModelError, match="not an allowed factory"):
        worker.run(planted)
    assert "planted" not in sys.modules


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "JOB"),
        (["one", "two"], "two"),
        (["job", "--allow-factory"], "--allow-factory"),
        (["job", "--allow", FACTORY], "--allow"),
        (["job", "--allow-factory", "planted"], "'planted' is not of the form"),
        (["job", "--allow-factory=--help"], "'--help' is not of the form"),
        (["job", "--allow-factory", f"{FACTORY}\n"], "is not of the form"),
    ],
)
def test_a_wrong_call_is_told_with_the_exit_code_of_usage(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert worker.main(arguments) == 64
    said = capsys.readouterr()
    assert message in said.err and "--help" in said.err and said.err.count("\n") == 1
    assert said.out == "" and list(tmp_path.iterdir()) == []


def test_an_error_without_a_message_is_told_by_its_name(
    tmp_path: Path,
    wave_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = job(tmp_path, wave_bundle)

    def out_of_memory(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(worker, "run", out_of_memory)
    monkeypatch.setattr(worker, "_make_expendable", lambda: None)
    monkeypatch.setattr(worker, "_die_with_parent", lambda: None)
    assert worker.main([str(made.path)]) == 70
    result = made.result()
    assert result is not None and "MemoryError" in result["error"]["message"]
    assert "MemoryError" in capsys.readouterr().err


@pytest.mark.parametrize("wanted", ["auto", "cuda"])
def test_training_that_fails_on_cuda_is_done_again_on_the_cpu_unless_cuda_was_demanded(
    wanted: str, tmp_path: Path, wave_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[dict[str, Any]] = []
    climb = worker.climb
    device = type("Device", (), {"total_memory": 8 * 2**30, "is_integrated": 0})
    monkeypatch.setattr(worker, "choose_device", lambda _: "cuda")
    monkeypatch.setattr(worker, "_report", lambda rung, **facts: told.append({rung: facts}))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: device)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda _: None)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: told.append({"forgotten": {}}))
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, *_: self)
    monkeypatch.setattr(worker.Material, "to", lambda self, device: "on " + device)

    def on_the_cpu_alone(module: Any, material: Any, *rest: Any) -> Any:
        if material == "on cuda":
            raise RuntimeError("NVML_SUCCESS == r INTERNAL ASSERT FAILED\nand more")
        return climb(module, material, *rest)

    monkeypatch.setattr(worker, "climb", on_the_cpu_alone)
    asked = job(tmp_path, wave_bundle, QUICK.model_copy(update={"device": wanted}))
    if wanted == "cuda":
        with pytest.raises(RuntimeError, match="INTERNAL ASSERT"):
            worker.run(asked)
        return
    result = worker.run(asked)
    assert "version" in result and result["rungs"]
    failed = told.index({"cpu": {"why": "NVML_SUCCESS == r INTERNAL ASSERT FAILED"}})
    assert told[failed + 1] == {"forgotten": {}}


@pytest.mark.parametrize("integrated", [0, 1])
def test_a_gpu_without_memory_of_its_own_has_to_share_the_budget(
    integrated: int, tmp_path: Path, wave_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed: list[float] = []
    gpu = type("Device", (), {"total_memory": 8 * 2**30, "is_integrated": integrated})
    monkeypatch.setattr(worker, "choose_device", lambda _: "cuda")
    monkeypatch.setattr(worker, "held_bytes", lambda: 476 << 20)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: gpu)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", allowed.append)
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, *_: self)
    monkeypatch.setattr(worker.Material, "to", lambda self, _: self)
    worker.run(job(tmp_path, wave_bundle, QUICK.model_copy(update={"memory_budget_mb": 1500})))
    assert allowed == [(1024 if integrated else 1500) / 8192]


def test_cores_can_be_trained_in_brain_floats(tmp_path: Path, wave_bundle: Path) -> None:
    asked = job(
        tmp_path, wave_bundle, QUICK.model_copy(update={"device": "cpu", "precision": "bfloat16"})
    )
    result = worker.run(asked)
    assert result["rung"] == "cores"
    assert result["precision"] == "bfloat16" and result["core_norm"] > 0
    # at the rate of a large net the loss rises before it falls; 0.29 is what the smoothing leaves
    assert result["last_loss"] < 0.35
    assert result["rungs"][-1]["held_f1"] == 1.0
    weights = Bundle.load(asked.path / jobs.CANDIDATE).weights
    assert {str(weight.dtype) for weight in weights.values()} <= {"float32", "int64"}


def test_a_job_can_be_done_again_and_what_it_gave_before_stays(
    tmp_path: Path, wave_bundle: Path
) -> None:
    asked = job(tmp_path, wave_bundle)
    path = os.fspath(asked.path)
    assert worker.main([path]) == 0
    first = asked.result()
    before = Bundle.load(asked.path / jobs.CANDIDATE)
    assert worker.main([path]) == 0
    again = asked.result()
    assert first is not None and again is not None
    assert again["last_loss"] == first["last_loss"]
    assert json.loads((asked.path / f"previous-{jobs.RESULT}").read_text()) == first
    assert Bundle.load(asked.path / f"previous-{jobs.CANDIDATE}").version == before.version
    (asked.path / jobs.JOB).write_text("{}")
    assert worker.main([path]) == 70
    assert asked.result() == again, "no job, no result"
