"""`edgetuner bundle`, from the files that a person would bring."""

from __future__ import annotations

import inspect
import json
import re
import shutil
from dataclasses import fields
from pathlib import Path

import pytest

from edgetuner.cli import main
from tests import waves
from tests.cli.child import ROOT, answer, complaint, edgetuner
from tests.cli.recordings import save, worn_twice, write_csv

# Of so tiny a net the default share of the weights is not even a head.
SHARE = "trained_fraction: 0.3"

QUICK = ("--backbone", "small_cnn", "--epochs", 2, "--false-alarm-every", 300)


@pytest.fixture
def enough(tmp_path: Path) -> tuple[str, Path]:
    """Options that leave something for the cores."""
    config = tmp_path / "enough.yaml"
    config.write_text(f"adapt: {{{SHARE}}}")
    return "-c", config


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return save(worn_twice(waves.source(3, 40)), tmp_path / "source.npz")


def test_create_from_a_window_set(source: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    out = tmp_path / "made" / "bundle"
    manifest = answer(
        *("bundle", "create", source, "-o", out, *QUICK),
        *("--select", "position=upright", "--unseen", "2", "--hold-out", "0.3", "--seed", "4"),
    )
    assert manifest["classes"] == list(waves.CLASSES)
    assert manifest["backbone"]["name"] == "small_cnn"
    assert (manifest["training"]["epochs"], manifest["training"]["seed"]) == (2, 4)
    assert {"held_out_macro_f1", "unseen_subjects_macro_f1"} <= set(manifest["metrics"])
    assert answer("bundle", "show", out) == manifest
    verified = answer("bundle", "verify", out)
    assert verified == {"version": manifest["version"], "verified": sorted(manifest["files"])}
    assert (
        "does already exist" in (again := complaint(65, *_create(source, out))) or "exists" in again
    )


def _create(source: Path, out: Path) -> tuple[object, ...]:
    return ("bundle", "create", source, "-o", out, *QUICK, "--select", "position=upright")


def test_create_from_recordings(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    columns = {"label": "activity", "time": "seconds"}
    files = [write_csv(tmp_path / f"{s}.csv", s, 30, columns) for s in (1, 2)]
    out = tmp_path / "bundle"
    manifest = answer(
        *("bundle", "create", *files, "-o", out, *QUICK, "--length", 32, "--hop", 16, "--hz", 32),
        *("--channels", "acc_x,acc_y,acc_z", "--label", "activity", "--time", "seconds"),
        *("--groups", "subject"),
    )
    assert (manifest["length"], manifest["hz"]) == (32, 32.0)
    assert manifest["channels"] == list(waves.CHANNELS)
    assert manifest["classes"] == sorted(waves.CLASSES)


def test_create_from_a_module_of_ones_own(source: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    from edgetuner.models import build

    (tmp_path / "mynets.py").write_text(
        "from edgetuner.models import build\n\n\n"
        "def make(channels, length, classes):\n"
        '    return build("small_cnn", channels, length, classes, {"width": 4})\n'
    )
    torch.manual_seed(0)
    weights = tmp_path / "w.safetensors"
    save_file(build("small_cnn", 3, waves.LENGTH, 3, {"width": 4}).state_dict(), weights)
    manifest = answer(
        *("bundle", "create", source, "-o", tmp_path / "b", "--select", "position=upright"),
        *("--factory", "mynets:make", "--weights", weights, "--false-alarm-every", 300),
        environment={"PYTHONPATH": f"{ROOT}:{tmp_path}"},
    )
    assert manifest["backbone"]["factory"] == "mynets:make"
    assert "training" not in manifest


def test_the_defaults_of_the_help_are_those_of_the_library() -> None:
    pytest.importorskip("torch")
    from edgetuner.cli.bundles import BACKBONES
    from edgetuner.models import BACKBONES as BUILT
    from edgetuner.pretrain import Evidence, Recipe

    assert sorted(BACKBONES) == sorted(BUILT)
    text = " ".join(edgetuner("bundle", "create", "--help").stdout.split())
    for said in (
        f"passes over the windows (default: {Recipe().epochs})",
        f"its last part in time (default: {Evidence().hold_out})",
        f"aim at (default: {Evidence().arl_windows})",
        f"(default: {Evidence().gap}; of recordings",
    ):
        assert said in text
    assert inspect.signature(Recipe).parameters["seed"].default == 0


def test_overlapping_windows_do_not_straddle_the_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hop of a quarter leaves three windows out between those trained on and those held out."""
    pytest.importorskip("torch")
    from edgetuner import pretrain

    asked = []

    def create_bundle(*_: object, evidence: pretrain.Evidence, **__: object) -> None:
        asked.append(evidence.gap)
        raise KeyboardInterrupt

    monkeypatch.setattr(pretrain, "create_bundle", create_bundle)
    file = write_csv(tmp_path / "1.csv", 1, 4, {})
    rule = ["--length", "32", "--hop", "8", "--hz", "32", "--channels", "acc_x,acc_y"]
    for more in ([], ["--gap", "5"]):
        main(["bundle", "create", str(file), "-o", str(tmp_path / "b"), *rule, *more])
    assert asked == [3, 5]


# ------------------------------------------------------------------ what is wrong with the input


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--select", "position=sideways"), "position"),
        (("--select", "subject=9"), "selects no window"),
        (("--unseen", "9"), "selects no window"),
        (("--hold-out", "1.5"), "fraction"),
        (("--gap", "-1"), "gap"),
        (("--factory", "nowhere:make", "--weights", "absent.safetensors"), "nowhere"),
    ],
)
def test_wrong_windows_are_named(
    source: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("torch")
    out = tmp_path / "b"
    assert main(["bundle", "create", str(source), "-o", str(out), *arguments]) in (64, 65, 70)
    complained = capsys.readouterr().err
    assert said in complained
    assert complained.count("\n") == 1, complained
    assert not out.exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is missing"),
        ("time,acc_x,label\n0,1,a\n", "column acc_y"),
        ("time,acc_x,acc_y,label\n0,one,1,a\n", "is not a number"),
        ("time,acc_x,acc_y,label\n0,1\n", "line 2 has 2 fields"),
        ("time,acc_x,acc_y,label\n0,1,1,a\n", "long enough"),
    ],
)
def test_a_wrong_recording_is_named(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "r.csv"
    file.write_text(text)
    rule = ("--length", 8, "--hz", 8, "--channels", "acc_x,acc_y")
    assert said in complaint(65, "bundle", "create", file, "-o", tmp_path / "b", *rule)


def test_a_file_of_another_kind_is_named(tmp_path: Path) -> None:
    rule = ("--length", 8, "--hz", 8, "--channels", "acc_x")
    assert ".csv, .parquet" in complaint(65, "bundle", "create", "x.txt", "-o", "b", *rule)


# ------------------------------------------------------------------ show and verify


def test_show_is_a_page_for_a_person(wave_bundle: Path) -> None:
    done = edgetuner("bundle", "show", wave_bundle)
    assert done.returncode == 0
    assert "3 channels: acc_x, acc_y, acc_z; windows of 32 samples at 32 Hz (1 s)" in done.stdout
    assert "3 classes: slow, brisk, fast" in done.stdout
    assert "small_cnn(width=8), last layer head" in done.stdout
    assert "held out macro-F1" in done.stdout
    assert "sha256" not in done.stdout


def test_show_plans_what_a_training_costs(wave_bundle: Path, enough: tuple[str, Path]) -> None:
    pytest.importorskip("torch")
    arguments = ("bundle", "show", wave_bundle, "--plan", *enough)
    done = edgetuner(*arguments, "--rank", 2, "--memory", 900)
    assert done.returncode == 0
    assert "features.conv1" in done.stdout and "lean" in done.stdout
    assert "a step on 64 windows keeps" in done.stdout
    assert "given adapt.memory_budget_mb 900, for Python and torch too: 64 windows" in done.stdout
    planned = answer(*arguments)
    ranks = {layer["name"]: layer["rank"] for layer in planned["layers"]}
    assert [ranks[f"features.conv{n}"] for n in (1, 2, 3)] == [4, 4, 4]
    assert planned["peak_bytes"] > planned["state_peak_bytes"] > planned["saved_bytes"] > 0
    assert planned["memory_budget_mb"] == 1800
    assert planned["course"]["peak_bytes"] >= planned["peak_bytes"]
    assert "add --plan" in complaint(64, "bundle", "show", wave_bundle, "--rank", 2)


def test_a_plan_without_weights_for_the_cores_names_the_setting(wave_bundle: Path) -> None:
    pytest.importorskip("torch")
    said = complaint(75, "bundle", "show", wave_bundle, "--plan")
    assert "adapt.trained_fraction" in said and "0 are left beside the head" in said


def test_a_plan_takes_the_layers_and_the_settings_that_it_is_given(
    wave_bundle: Path, tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    config = tmp_path / "edgetuner.yaml"
    config.write_text(f"adapt: {{rank: 3, batch_norm_beta: false, batch_size: 16, {SHARE}}}")
    arguments = ("bundle", "show", wave_bundle, "--plan", "-c", config)
    planned = answer(*arguments, "--layers", "*.conv3", "--memory", 900)
    adapted = {layer["name"]: layer["rank"] for layer in planned["layers"] if layer["rank"]}
    assert adapted == {"features.conv3": 3}
    assert planned["batch"] == planned["course"]["micro_batch"] == 16
    assert "fits no convolution" in complaint(65, *arguments, "--layers", "*.conv9")
    assert re.search(
        r"holds \d+ MB .* needs some \d+ MB", complaint(75, *arguments, "--memory", 64)
    )


def test_a_plan_of_ones_own_module_needs_ones_word_for_it(
    tmp_path: Path, wave_bundle: Path, enough: tuple[str, Path]
) -> None:
    pytest.importorskip("torch")
    from edgetuner.bundle import Backbone, Bundle, Tensors, write_bundle

    known = Bundle.load(wave_bundle)
    name = "edgetuner.models:small_cnn"
    backbone = Backbone(factory=name, args=known.manifest.backbone.args)
    description = known.manifest.description.model_copy(update={"backbone": backbone})
    tensors = Tensors(**{field.name: getattr(known, field.name) for field in fields(Tensors)})
    write_bundle(tmp_path / "own", tensors, description)
    arguments = ("bundle", "show", tmp_path / "own", "--plan", *enough)
    assert "not an allowed factory" in complaint(65, *arguments)
    assert answer(*arguments, "--allow-factory", name)["layers"]


def test_verify_finds_what_was_altered(wave_bundle: Path, tmp_path: Path) -> None:
    altered = tmp_path / "altered"
    shutil.copytree(wave_bundle, altered)
    weights = altered / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert str(weights) in complaint(65, "bundle", "verify", altered)
    manifest = json.loads((altered / "manifest.json").read_text())
    (altered / "manifest.json").write_text(json.dumps({**manifest, "hz": 31.0}))
    assert "does not match the hash" in complaint(65, "bundle", "show", altered)
