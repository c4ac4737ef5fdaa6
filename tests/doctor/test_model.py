from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from edgetuner.bundle import Bundle, write_bundle
from edgetuner.config import parse_config
from edgetuner.doctor import model
from edgetuner.errors import BundleError, ConfigError, DeviceError, ModelError
from edgetuner.inference import ModelVersion
from edgetuner.registry import Registry


def test_what_a_prediction_takes_is_measured(wave_bundle: Path, tmp_path: Path) -> None:
    config = parse_config({"bundle": str(wave_bundle), "state_dir": str(tmp_path / "state")})
    (found,) = model.model(config)
    assert found.state == "ok" and found.facts["predict_ms"] > 0
    assert found.facts["version"] == Bundle.load(wave_bundle).version
    assert not (tmp_path / "state").exists()


def test_the_champion_is_looked_at_before_the_bundle(wave_bundle: Path, tmp_path: Path) -> None:
    registry = Registry(tmp_path / "models")
    config = parse_config({"bundle": "/nowhere", "state_dir": str(tmp_path)})
    assert model.model_path(config) == Path("/nowhere"), "there is no champion yet"
    registry.install(registry.add(wave_bundle))
    assert model.model_path(config).parent == tmp_path / "models/versions"


def champion_and_another(bundle: Path, state_dir: Path) -> tuple[Path, str]:
    """A state directory whose champion is `bundle`; another one for the same task, its version."""
    registry = Registry(state_dir / "models")
    registry.install(registry.add(bundle))
    good, other = Bundle.load(bundle), state_dir / "other"
    return other, write_bundle(other, good, good.manifest.description, prefix="other").version


def test_another_bundle_is_looked_at_that_will_take_its_place(
    wave_bundle: Path, tmp_path: Path
) -> None:
    other, version = champion_and_another(wave_bundle, tmp_path)
    for bundle in (wave_bundle, other):
        config = parse_config({"bundle": str(bundle), "state_dir": str(tmp_path)})
        assert (model.model_path(config) == other) == (bundle == other)
        told = [found.facts for found in model.bundle(config)]
        assert told == ([{"version": version}] if bundle == other else [])


def test_another_bundle_that_cannot_be_taken_hides_no_champion(
    wave_bundle: Path, tmp_path: Path
) -> None:
    good, (other, _) = Bundle.load(wave_bundle), champion_and_another(wave_bundle, tmp_path)
    (other / "weights.safetensors").write_bytes(b"")
    loud = {**good.weights, "head.weight": np.full_like(good.weights["head.weight"], 3e38)}
    spoilt = tmp_path / "spoilt"
    write_bundle(spoilt, replace(good, weights=loud), good.manifest.description, prefix="spoilt")
    for bundle in (other, tmp_path / "bundel", spoilt):
        config = parse_config({"bundle": str(bundle), "state_dir": str(tmp_path)})
        assert model.model_path(config).parent == tmp_path / "models/versions"
        with pytest.raises(ModelError if bundle == spoilt else BundleError):
            list(model.bundle(config))


def test_without_any_model_the_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="bundle"):
        list(model.model(parse_config({"state_dir": str(tmp_path)})))


def test_a_bundle_that_was_altered_is_refused(wave_bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(wave_bundle, tmp_path / "b")
    weights = tmp_path / "b/weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    with pytest.raises(BundleError):
        list(model.model(parse_config({"bundle": str(tmp_path / "b"), "state_dir": "/x"})))


def test_a_device_that_says_something_else_is_found_out(wave_bundle: Path) -> None:
    config = parse_config({"bundle": str(wave_bundle)})
    version = ModelVersion.load(wave_bundle)
    x = version.bundle.exemplar_x.astype("float32")
    assert model._agrees(version, wave_bundle, config, x).facts["off"] == 0
    version._mean += 0.1
    with pytest.raises(DeviceError, match="other logits"):
        model._agrees(version, wave_bundle, config, x)


def test_a_device_that_is_demanded_has_to_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    found = model.device(parse_config({}))
    assert found.state == "note" and "no CUDA device" in found.said
    plain = {"inference": {"device": "cpu"}, "adapt": {"device": "cpu"}}
    assert model.device(parse_config(plain)).state == "ok"
    with pytest.raises(DeviceError, match="convolution"):
        model.device(parse_config({"inference": {"device": "cuda"}}))
