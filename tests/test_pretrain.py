from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from safetensors.numpy import save_file  # noqa: E402
from torch import Tensor  # noqa: E402

from edgetuner.augment import Augmentation  # noqa: E402
from edgetuner.bundle import Bundle  # noqa: E402
from edgetuner.config import AdaptConfig  # noqa: E402
from edgetuner.data import WindowSet  # noqa: E402
from edgetuner.drift import Reference, SensorProfile  # noqa: E402
from edgetuner.errors import BundleError, DataError  # noqa: E402
from edgetuner.factories import build_module, weights_of  # noqa: E402
from edgetuner.metrics import macro_f1  # noqa: E402
from edgetuner.peft.suffixes import suffixes_to_keep  # noqa: E402
from edgetuner.pretrain import (  # noqa: E402
    Evidence,
    Recipe,
    choose_exemplars,
    create_bundle,
    create_bundle_from_module,
)

RECIPE = Recipe(epochs=10, batch_size=32, lr=1e-2, augmentation=Augmentation(5, 0.05, 0.05))
EVIDENCE = Evidence(exemplars=4, arl_windows=200, bouts=(4, 16), unseen_subjects=(4,))
ARGS = {"width": 8}


def waves(subjects: int = 4, per_recording: int = 30) -> WindowSet:
    """Three classes that differ in frequency, and people who differ in amplitude and offset."""
    rng = np.random.default_rng(0)
    rows = [
        (s, k, t) for s in range(1, subjects + 1) for k in range(3) for t in range(per_recording)
    ]
    subject, y, t = np.array(rows).T
    phase = rng.uniform(0, 2 * np.pi, (len(rows), 3, 1))
    clock = np.arange(32) / 32 * 2 * np.pi
    x = (1 + 0.1 * subject[:, None, None]) * np.sin(2 * (y + 1)[:, None, None] * clock + phase)
    x += 9.81 + 0.3 * rng.normal(size=x.shape)
    return WindowSet(
        x=x.astype(np.float32),
        y=y.copy(),
        classes=("slow", "brisk", "fast"),
        channels=("acc_x", "acc_y", "acc_z"),
        hz=32.0,
        groups={"subject": subject.copy(), "t": t.copy()},
    )


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("made") / "bundle"
    return create_bundle(
        waves(), "small_cnn", out, backbone_args=ARGS, recipe=RECIPE, evidence=EVIDENCE
    )


def logits(bundle: Bundle, windows: WindowSet) -> Tensor:
    scaled = (windows.x - bundle.mean[:, None]) / bundle.std[:, None]
    with torch.inference_mode():
        answer: Tensor = build_module(bundle, ["mine:build"])(torch.from_numpy(scaled))
    return answer


def test_the_bundle_recognises_what_it_was_taught(bundle: Bundle) -> None:
    windows = waves()
    held = windows.select(subject=[1, 2, 3]).split_by_time(0.2, 1)[1]
    unseen = windows.select(subject=4)
    metrics = bundle.manifest.metrics
    for name, part in (("held_out", held), ("unseen_subjects", unseen)):
        f1 = macro_f1(part.y, logits(bundle, part).argmax(1).numpy())
        assert f1 == metrics[f"{name}_macro_f1"]
        assert f1 > 0.9


def test_the_manifest_says_how_it_was_made(bundle: Bundle) -> None:
    manifest = bundle.manifest
    assert manifest.version.startswith("source-")
    assert manifest.backbone.name == "small_cnn"
    assert manifest.backbone.args == ARGS
    assert (manifest.classes, manifest.channels) == (waves().classes, waves().channels)
    assert (manifest.length, manifest.hz, manifest.parent) == (32, 32.0, None)
    assert manifest.training is not None
    assert manifest.training["epochs"] == 10
    assert manifest.training["augmentation"]["rotation_deg"] == 5


def test_normalisation_comes_from_the_training_part(bundle: Bundle) -> None:
    train, _ = waves().select(subject=[1, 2, 3]).split_by_time(0.2, 1)
    mean, std = train.normalisation()
    np.testing.assert_array_equal(bundle.mean, mean)
    np.testing.assert_array_equal(bundle.std, std)


def test_confidence_is_that_of_the_likeliest_temperature(bundle: Bundle) -> None:
    held = waves().select(subject=[1, 2, 3]).split_by_time(0.2, 1)[1]
    scores, y = logits(bundle, held), torch.from_numpy(held.y)

    def loss(temperature: float) -> float:
        return float(torch.nn.functional.cross_entropy(scores / temperature, y))

    assert loss(1) <= min(loss(0.9), loss(1.1))


def test_the_drift_reference_is_that_of_held_out_windows(bundle: Bundle) -> None:
    reference = Reference.from_arrays(bundle.reference)
    assert reference.classes == waves().classes
    assert len(reference.held_predicted) == 3 * 3 * 6
    assert sorted(np.bincount(reference.held_recording)) == [6] * 9
    assert (np.diff(reference.held_recording) != 0).sum() == 8  # one after the other, in time
    assert reference.calibration is not None
    assert reference.calibration.run_length == 200
    assert reference.calibration.bouts == (4, 16)
    profile = SensorProfile.from_arrays(bundle.sensor)
    assert profile.hz == 32
    assert (profile.low < profile.high).all()


def test_calibration_subjects_count_as_home_and_are_not_trained_on(tmp_path: Path) -> None:
    evidence = replace(EVIDENCE, calibration_subjects=(3,))
    made = create_bundle(
        waves(), "small_cnn", tmp_path / "b", backbone_args=ARGS, recipe=RECIPE, evidence=evidence
    )
    train, held = waves().select(subject=[1, 2]).split_by_time(0.2, 1)
    mean, _ = train.normalisation()
    np.testing.assert_array_equal(made.mean, mean)
    reference = Reference.from_arrays(made.reference)
    assert sorted(np.bincount(reference.held_recording)) == [6] * 6 + [30] * 3
    for name, part in (("held_out", held), ("calibration_subjects", waves().select(subject=3))):
        f1 = macro_f1(part.y, logits(made, part).argmax(1).numpy())
        assert f1 == made.manifest.metrics[f"{name}_macro_f1"]


def test_exemplars_are_training_windows_of_every_class(bundle: Bundle) -> None:
    train, _ = waves().select(subject=[1, 2, 3]).split_by_time(0.2, 1)
    assert np.bincount(bundle.exemplar_y).tolist() == [4, 4, 4]
    known = {x.astype(np.float16).tobytes(): k for x, k in zip(train.x, train.y, strict=True)}
    for x, k in zip(bundle.exemplar_x, bundle.exemplar_y, strict=True):
        assert known[x.tobytes()] == k


def test_the_suffixes_of_a_default_adaptation_are_stored(bundle: Bundle) -> None:
    settings = AdaptConfig()
    head, fraction = bundle.manifest.backbone.head, settings.trained_fraction
    fresh = suffixes_to_keep(
        build_module(bundle), head, settings.rank, fraction, settings.decomposition
    )
    assert bundle.suffixes.keys() == fresh.keys()
    for name, values in fresh.items():
        np.testing.assert_array_equal(bundle.suffixes[name], values.numpy())


def test_the_same_seed_gives_the_same_version(bundle: Bundle, tmp_path: Path) -> None:
    def make(name: str, seed: int) -> Bundle:
        recipe = replace(RECIPE, seed=seed)
        return create_bundle(
            waves(), "small_cnn", tmp_path / name, backbone_args=ARGS, recipe=recipe,
            evidence=EVIDENCE,
        )  # fmt: skip

    torch.manual_seed(123)
    state = torch.get_rng_state()
    assert make("same", 0).version == bundle.version
    assert torch.equal(torch.get_rng_state(), state)
    assert make("other", 1).version != bundle.version


def test_progress_is_told(tmp_path: Path) -> None:
    told: list[tuple[int, float]] = []
    create_bundle(
        waves(),
        "small_cnn",
        tmp_path / "b",
        backbone_args=ARGS,
        recipe=replace(RECIPE, epochs=3),
        evidence=EVIDENCE,
        on_epoch=lambda epoch, loss: told.append((epoch, loss)),
    )
    assert [epoch for epoch, _ in told] == [1, 2, 3]
    assert told[-1][1] < told[0][1]


def test_a_class_without_training_windows_is_named(tmp_path: Path) -> None:
    windows = replace(waves(), classes=("slow", "brisk", "fast", "still"))
    with pytest.raises(DataError, match="class still: has no window to train on"):
        create_bundle(windows, "small_cnn", tmp_path / "b", recipe=RECIPE, evidence=EVIDENCE)


def test_exemplars_beyond_half_precision_name_the_channel(tmp_path: Path) -> None:
    windows = waves()
    x = windows.x.copy()
    x[:, 1] += 101_325  # pascal
    with pytest.raises(DataError, match=r"channel acc_y: exceeds 65504.*larger unit"):
        create_bundle(
            replace(windows, x=x), "small_cnn", tmp_path / "b", backbone_args=ARGS, recipe=RECIPE,
            evidence=EVIDENCE,
        )  # fmt: skip


def test_exemplars_are_spread_over_groups_and_time() -> None:
    windows = waves(subjects=4, per_recording=10)
    chosen = windows.take(choose_exemplars(windows, 10))
    for k in range(3):
        people = chosen.groups["subject"][chosen.y == k]
        assert sorted(np.bincount(people)[1:]) == [2, 2, 3, 3]
        pair = chosen.groups["t"][(chosen.y == k) & (chosen.groups["subject"] == 4)]
        assert sorted(pair) == [2, 7]
    assert len(choose_exemplars(windows, 1000)) == len(windows)


MINE = """
from edgetuner import models

def build(channels, length, classes):
    return models.build("small_cnn", channels, length, classes, {"width": 8})
"""


@pytest.fixture
def mine(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    save_file(weights_of(build_module(bundle)), tmp_path / "mine.safetensors")
    return tmp_path / "mine.safetensors"


def test_a_module_that_is_trained_already(bundle: Bundle, mine: Path, tmp_path: Path) -> None:
    made = create_bundle_from_module(
        "mine:build",
        mine,
        waves(),
        tmp_path / "b",
        normalisation=(bundle.mean, bundle.std),
        evidence=EVIDENCE,
    )
    assert made.manifest.backbone.factory == "mine:build"
    assert made.version.startswith("module-")
    assert made.manifest.metrics == bundle.manifest.metrics
    for key, value in bundle.weights.items():
        np.testing.assert_array_equal(made.weights[key], value)
    assert made.suffixes.keys() == bundle.suffixes.keys()
    assert torch.equal(logits(made, waves()), logits(bundle, waves()))


def test_weights_that_cannot_be_read(mine: Path, tmp_path: Path) -> None:
    mine.write_bytes(b"not safetensors")
    for path, message in ((mine, "no safetensors file"), (tmp_path / "none", "is missing")):
        with pytest.raises(BundleError, match=message):
            create_bundle_from_module(
                "mine:build", path, waves(), tmp_path / "b", evidence=EVIDENCE
            )
