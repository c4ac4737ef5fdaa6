"""The model on this device: whether it is whole, what it takes, and that it is right there."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgetuner.config import Config
from edgetuner.doctor.diagnosis import Diagnosis
from edgetuner.errors import AccessError, ConfigError, DeviceError, EdgetunerError
from edgetuner.inference import ModelVersion, choose_device, cuda_fault, limit_threads, torch_build
from edgetuner.pipeline import watch_with
from edgetuner.registry import Registry

_RUNS, _LONGEST_S = 50, 2.0  # of what is timed
_CLOSE = 1e-3  # of the largest logit: rounding of two devices, in whatever order they add


def device(config: Config) -> Diagnosis:
    """What predictions run on; "available" is no proof, so a convolution is run there and back."""
    chosen, build = choose_device(config.inference.device), torch_build()
    facts = {"device": chosen, "torch": build}
    wanted = {config.inference.device, config.adapt.device} != {"cpu"}
    if chosen == "cpu" and wanted:
        why = cuda_fault()
        if why is not None:
            return Diagnosis("device", "note", f"torch {build} on the CPU: {why}", facts)
    return Diagnosis("device", "ok", f"torch {build} on {chosen}", facts)


def model_path(config: Config) -> Path:
    """The version that the service would come up with.

    Raises:
        ConfigError: there is none.
        AccessError: the registry cannot be read by whoever runs this.
    """
    registry = _registry(config)
    if registry is None or registry.aliases.champion is None:
        if config.bundle is None:
            raise ConfigError(
                "needed, since there is no model version yet",
                field="bundle",
                remedy="make one with `edgetuner bundle create`",
            )
        return config.bundle
    with contextlib.suppress(EdgetunerError):  # `bundle` tells
        if config.bundle is not None and _to_install(config) is not None:
            return config.bundle
    return registry.path("champion")


def bundle(config: Config) -> Iterator[Diagnosis]:
    """Whether a configured bundle that is not in place yet can be taken."""
    version = _to_install(config)
    if version is not None:
        said = f"{version.id} will be installed at the next start"
        yield Diagnosis("bundle", "ok", said, {"version": version.id})


def _to_install(config: Config) -> ModelVersion | None:
    """The configured bundle, if it will take the champion's place, tried as the service does."""
    registry = _registry(config)
    if registry is None or registry.aliases.champion is None or config.bundle is None:
        return None
    if not registry.replaces(config.bundle):
        return None
    version = ModelVersion.load(
        config.bundle, allow_factories=config.inference.allow_factories, drift=config.drift
    )
    watch_with(config, version)
    return version


def _registry(config: Config) -> Registry | None:
    models = config.state_dir / "models"
    for folder in (config.state_dir, models, models / "versions"):
        if os.path.lexists(folder) and not os.access(folder, os.R_OK | os.X_OK):
            raise AccessError(
                "cannot be read by whoever runs this",
                field="state_dir",
                value=str(folder),
                remedy="run it as the service does",
            )
    if not os.access(models / "versions", os.F_OK):
        return None
    return Registry(models, config.registry.keep)


def model(config: Config) -> Iterator[Diagnosis]:
    """Whether the version is whole, what a prediction takes, and that the device says what the CPU
    says.
    """
    path, chosen = model_path(config), choose_device(config.inference.device)
    limit_threads(config.inference.threads)
    begun = time.perf_counter()
    version = ModelVersion.load(
        path,
        device=chosen,
        allow_factories=config.inference.allow_factories,
        drift=config.drift,
    )
    loaded_s = time.perf_counter() - begun
    x = version.bundle.exemplar_x.astype(np.float32)
    one, many = (_milliseconds(version, x[:count]) for count in (1, config.inference.max_batch))
    facts = {
        "version": version.id,
        "load_s": round(loaded_s, 2),
        "predict_ms": one,
        "batch": min(len(x), config.inference.max_batch),
        "predict_batch_ms": many,
    }
    said = f"{version.id}: a window takes {one:.1f} ms, {facts['batch']} take {many:.1f}"
    yield Diagnosis("model", "ok", said, facts)
    if chosen != "cpu":
        yield _agrees(version, path, config, x)


def _milliseconds(version: ModelVersion, x: NDArray[np.float32]) -> float:
    seconds: list[float] = []
    while len(seconds) < _RUNS and sum(seconds) < _LONGEST_S:
        begun = time.perf_counter()
        version.predict(x)
        seconds.append(time.perf_counter() - begun)
    return round(1000 * float(np.median(seconds)), 3)


def _agrees(version: ModelVersion, path: Path, config: Config, x: NDArray[np.float32]) -> Diagnosis:
    plain = ModelVersion.load(path, allow_factories=config.inference.allow_factories)
    there, here = version.predict(x).logits, plain.predict(x).logits
    off = float(np.abs(there - here).max() / np.abs(here).max())
    if off > _CLOSE:
        raise DeviceError(
            "the device gives other logits than the CPU",
            field="inference.device",
            value=f"{off:.1e} of the largest",
            remedy="set device: cpu, or use another build of torch",
        )
    return Diagnosis("model: device", "ok", f"logits as on the CPU, within {off:.0e}", {"off": off})
