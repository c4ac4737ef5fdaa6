"""Makes a bundle: trains a backbone on labelled source windows, or takes a trained module.

The last part in time of every recording is never trained on. It gives the metrics, the temperature
and the scores that drift is measured against: trained-on windows look too familiar for these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file
from torch import nn
from torch.nn.functional import cross_entropy

from edgetuner.augment import Augmentation, triads
from edgetuner.bundle import Array, Bundle, Description, Tensors, describe, write_bundle
from edgetuner.config import AdaptConfig
from edgetuner.data import Float32, Int64, WindowSet
from edgetuner.drift import ErrorRate, Reference, SensorProfile, bouts_of, calibrate
from edgetuner.errors import BundleError, DataError
from edgetuner.factories import load_weights, new_module, weights_of
from edgetuner.metrics import macro_f1
from edgetuner.models import embed
from edgetuner.peft.suffixes import suffixes_to_keep

_CHUNK = 256  # windows a forward pass, to bound memory


@dataclass(frozen=True)
class Recipe:
    """How a backbone is trained.

    Attributes:
        epochs: passes over the training windows.
        batch_size: windows a step.
        lr: highest learning rate of the one-cycle schedule (AdamW).
        weight_decay: of AdamW.
        label_smoothing: share of the target spread over all classes.
        augmentation: applied to every batch.
        seed: of initial weights, order and augmentation; the same seed gives the same weights.
    """

    epochs: int = 12
    batch_size: int = 64
    lr: float = 3e-3
    weight_decay: float = 1e-2
    label_smoothing: float = 0.1
    augmentation: Augmentation = field(default_factory=Augmentation)
    seed: int = 0


@dataclass(frozen=True)
class Evidence:
    """What is kept aside, and what is made of it.

    Attributes:
        hold_out: share of every recording, its last part in time, that is not trained on.
        gap: windows left out before that part, so that overlapping ones do not straddle.
        unseen_subjects: people left out altogether; the bundle's metrics say how they fare.
        calibration_subjects: people not trained on, whose windows count as home: the thresholds of
            the drift detectors then let pass what merely comes of another person.
        exemplars: source windows kept in the bundle, per class.
        arl_windows: windows between false drift alarms that the thresholds are calibrated for.
        bouts: shortest and longest time that a person stays with one activity, in windows; two
            seconds to twenty minutes of windows that do not overlap if None.
    """

    hold_out: float = 0.2
    gap: int = 1
    unseen_subjects: tuple[int, ...] = ()
    calibration_subjects: tuple[int, ...] = ()
    exemplars: int = 12
    arl_windows: float = 5000
    bouts: tuple[int, int] | None = None


def fit(
    module: nn.Module,
    windows: WindowSet,
    mean: Float32,
    std: Float32,
    recipe: Recipe,
    on_epoch: Callable[[int, float], None] = lambda epoch, loss: None,
) -> None:
    """Trains `module` in place on raw `windows`: AdamW, one cycle, label smoothing."""
    x, y = torch.from_numpy(windows.x), torch.from_numpy(windows.y)
    centre, scale = torch.from_numpy(mean)[:, None], torch.from_numpy(std)
    axes = triads(windows.channels)
    generator = torch.Generator().manual_seed(recipe.seed)
    optimiser = torch.optim.AdamW(
        module.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay
    )
    steps = max(1, len(y) // recipe.batch_size)  # the rest is too small a batch for batch norm
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=recipe.lr, total_steps=max(2, recipe.epochs * steps)
    )
    module.train()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(recipe.seed)  # dropout
        for epoch in range(recipe.epochs):
            total = 0.0
            order = torch.randperm(len(y), generator=generator)
            for rows in order[: steps * recipe.batch_size].chunk(steps):
                raw = recipe.augmentation(x[rows], scale, axes, generator)
                logits = module((raw - centre) / scale[:, None])
                loss = cross_entropy(logits, y[rows], label_smoothing=recipe.label_smoothing)
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
                total += loss.item()
            on_epoch(epoch + 1, total / steps)
    module.eval()


def create_bundle(
    windows: WindowSet,
    backbone: str,
    out: Path,
    *,
    backbone_args: Mapping[str, Any] | None = None,
    recipe: Recipe = Recipe(),
    evidence: Evidence = Evidence(),
    on_epoch: Callable[[int, float], None] = lambda epoch, loss: None,
) -> Bundle:
    """Trains a backbone on labelled source windows and writes the bundle.

    Args:
        windows: the source, with `t` and whatever else tells recordings apart.
        backbone: a key of `edgetuner.models.BACKBONES`.
        out: directory to make.
        backbone_args: further arguments of the backbone.
        recipe: how it is trained.
        evidence: what is held out, and what the bundle keeps of it.
        on_epoch: called with the epoch, from 1, and its mean loss.

    Raises:
        DataError: the windows cannot be split, or a class has no training window.
        ModelError: no such backbone or argument.
        DriftError: too few held-out windows to calibrate thresholds.
        BundleError: `out` exists or cannot be written.
    """
    seen, unseen = _leave_out(windows, evidence.unseen_subjects)
    train, held, strangers = _split(seen, evidence)
    mean, std = train.normalisation()
    description = _description(
        windows, {"name": backbone, "args": dict(backbone_args or {})}, asdict(recipe)
    )
    module = new_module(description, seed=recipe.seed)
    fit(module, train, mean, std, recipe, on_epoch)
    home = _home(held, strangers)
    kept = _run(module, description.backbone.head, (mean, std), home)
    _scale_head(module, description.backbone.head, kept.logits, home.y)
    parts = _Parts(train, held, strangers, unseen)
    return _write(out, module, description, (mean, std), parts, evidence, "source")


def create_bundle_from_module(
    factory: str,
    weights: Path,
    windows: WindowSet,
    out: Path,
    *,
    factory_args: Mapping[str, Any] | None = None,
    head: str = "head",
    normalisation: tuple[Float32, Float32] | None = None,
    evidence: Evidence = Evidence(),
) -> Bundle:
    """Writes the bundle of a module that is trained already.

    The service imports the factory only where its configuration allows that exact name; whoever
    calls this function allows it by naming it.

    Args:
        factory: `package.module:callable`, called as `factory(channels, length, classes, **args)`.
        weights: safetensors file with the state dict of the module.
        windows: source windows. Their later part must not have been trained on: from it come
            the metrics and the scores that drift is measured against.
        out: directory to make.
        factory_args: further arguments of the factory.
        head: name of the module's last `nn.Linear`.
        normalisation: mean and standard deviation (C,) of each channel that the module was
            trained with; those of the earlier part of `windows` if None.
        evidence: as for `create_bundle`.

    Raises:
        ModelError: the factory or the weights do not fit.
        DataError, DriftError, BundleError: as `create_bundle`.
    """
    seen, unseen = _leave_out(windows, evidence.unseen_subjects)
    train, held, strangers = _split(seen, evidence)
    backbone = {"factory": factory, "args": dict(factory_args or {}), "head": head}
    description = _description(windows, backbone, None)
    module = new_module(description, [factory])
    load_weights(module, _read_weights(Path(weights)))
    mean_std = normalisation or train.normalisation()
    parts = _Parts(train, held, strangers, unseen)
    return _write(out, module.eval(), description, mean_std, parts, evidence, "module")


def choose_exemplars(windows: WindowSet, per_class: int) -> NDArray[np.int64]:
    """Rows of at most `per_class` windows of each class, spread over all groups and over time.

    Groups take turns, so that with enough windows each gives as many as any other.
    """
    chosen: list[int] = []
    for k in range(len(windows.classes)):
        recordings = [rows for rows in windows.recordings() if windows.y[rows[0]] == k]
        quota = [0] * len(recordings)
        wanted = min(per_class, sum(map(len, recordings)))
        while sum(quota) < wanted:
            for i, rows in enumerate(recordings):
                if quota[i] < len(rows) and sum(quota) < wanted:
                    quota[i] += 1
        for rows, count in zip(recordings, quota, strict=True):
            # the middles of `count` equal stretches
            chosen += rows[(2 * np.arange(count) + 1) * len(rows) // (2 * count)].tolist()
    return np.array(sorted(chosen), np.int64)


def _leave_out(windows: WindowSet, subjects: Sequence[int]) -> tuple[WindowSet, WindowSet | None]:
    if not subjects:
        return windows, None
    unseen = windows.select(subject=subjects)
    return windows.take(~np.isin(windows.groups["subject"], subjects)), unseen


@dataclass(frozen=True)
class _Parts:
    train: WindowSet
    held: WindowSet  # the same people, later
    strangers: WindowSet | None  # people who count as home, though never trained on
    unseen: WindowSet | None  # people who are only measured


def _split(windows: WindowSet, evidence: Evidence) -> tuple[WindowSet, WindowSet, WindowSet | None]:
    """Windows to train on, the same people's later ones, and those of the calibration subjects."""
    known, strangers = _leave_out(windows, evidence.calibration_subjects)
    train, held = known.split_by_time(evidence.hold_out, evidence.gap)
    for k, name in enumerate(windows.classes):
        if not (train.y == k).any():
            raise DataError(
                "has no window to train on",
                field=f"class {name}",
                remedy="leave the class out, or record more of it",
            )
    return train, held, strangers


def _home(held: WindowSet, strangers: WindowSet | None) -> WindowSet:
    """All that drift is measured against, in time order within each recording."""
    home = held if strangers is None else held.plus(strangers)
    return home.take(np.concatenate(home.recordings()))


def _description(
    windows: WindowSet, backbone: Mapping[str, Any], training: dict[str, Any] | None
) -> Description:
    return describe(
        backbone=backbone,
        classes=windows.classes,
        channels=windows.channels,
        length=windows.length,
        hz=windows.hz,
        training=training,
    )


def _write(
    out: Path,
    module: nn.Module,
    description: Description,
    normalisation: tuple[Float32, Float32],
    parts: _Parts,
    evidence: Evidence,
    prefix: str,
) -> Bundle:
    """Measures the module on all parts but the first, and writes it."""
    train, home = parts.train, _home(parts.held, parts.strangers)
    chosen = train.take(choose_exemplars(train, evidence.exemplars))
    run = partial(_run, module, description.backbone.head, normalisation)
    measured = {
        "held_out": parts.held,
        "calibration_subjects": parts.strangers,
        "unseen_subjects": parts.unseen,
    }
    metrics = {
        f"{name}_macro_f1": macro_f1(windows.y, run(windows).predicted)
        for name, windows in measured.items()
        if windows is not None
    }
    tensors = Tensors(
        weights=weights_of(module),
        mean=normalisation[0],
        std=normalisation[1],
        reference=_reference(run(train), run(home), train, home, evidence).to_arrays(),
        sensor=sensor_profile(train).to_arrays(),
        exemplar_x=_half(chosen),
        exemplar_y=chosen.y,
        suffixes=_suffixes(module, description.backbone.head),
    )
    return write_bundle(
        out, tensors, description.model_copy(update={"metrics": metrics}), prefix=prefix
    )


def sensor_profile(train: WindowSet) -> SensorProfile:
    """What the sensor can do, from the windows that a model is trained on."""
    axes = triads(train.channels)
    return SensorProfile.fit(
        train.x,
        train.hz,
        triads=axes,
        accelerometers=[first for first in axes if "acc" in train.channels[first].lower()],
        recordings=train.recordings(),
    )


def _suffixes(module: nn.Module, head: str) -> dict[str, Array]:
    """Those that an adaptation with the default settings will ask for."""
    settings = AdaptConfig()
    suffixes = suffixes_to_keep(
        module, head, settings.rank, settings.trained_fraction, settings.decomposition
    )
    return {name: values.numpy() for name, values in suffixes.items()}


@dataclass(frozen=True)
class _Outputs:
    logits: Float32  # (N, K)
    embeddings: Float32  # (N, D)

    @property
    def predicted(self) -> Int64:
        predicted: Int64 = self.logits.argmax(axis=1).astype(np.int64)
        return predicted

    @property
    def confidence(self) -> Float32:
        probabilities = torch.from_numpy(self.logits).softmax(dim=1)
        return probabilities.amax(dim=1).numpy()


def _run(
    module: nn.Module, head: str, normalisation: tuple[Float32, Float32], windows: WindowSet
) -> _Outputs:
    mean, std = (torch.from_numpy(values)[:, None] for values in normalisation)
    with torch.inference_mode():
        pairs = [
            embed(module, (chunk - mean) / std, head)
            for chunk in torch.split(torch.from_numpy(windows.x), _CHUNK)
        ]
    logits, embeddings = (torch.cat(tensors).numpy() for tensors in zip(*pairs, strict=True))
    return _Outputs(logits, embeddings)


def _reference(
    trained: _Outputs, kept: _Outputs, train: WindowSet, held: WindowSet, evidence: Evidence
) -> Reference:
    recording = np.empty(len(held), np.int64)
    for number, rows in enumerate(held.recordings()):
        recording[rows] = number
    reference = Reference.fit(
        trained.embeddings,
        train.y,
        kept.embeddings,
        kept.predicted,
        kept.confidence,
        train.classes,
        held_recording=recording,
        held_wearer=held.groups.get("subject"),
        errors=ErrorRate(int((kept.predicted != held.y).sum()), len(held)),
    )
    bouts = evidence.bouts or bouts_of(held.length / held.hz)
    return calibrate(reference, evidence.arl_windows, bouts=bouts)


def _scale_head(module: nn.Module, head: str, logits: Float32, y: Int64) -> None:
    """Divides the head by the temperature that makes held-out labels likeliest (Guo et al. 2017).

    Folded into the weights, it costs nothing at inference and leaves every prediction as it was.
    """
    scores, labels = torch.from_numpy(logits), torch.from_numpy(y)
    temperatures = np.geomspace(0.2, 5, 101).tolist()
    best = min(temperatures, key=lambda t: cross_entropy(scores / t, labels).item())
    layer = module.get_submodule(head)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.div_(best)


def _half(windows: WindowSet) -> NDArray[np.float16]:
    limit = float(np.finfo(np.float16).max)
    peak = np.abs(windows.x).max(axis=(0, 2))
    for channel, value in zip(windows.channels, peak, strict=True):
        if value > limit:
            raise DataError(
                f"exceeds {limit:.0f}, the range of the half precision that exemplars are kept in",
                field=f"channel {channel}",
                value=float(value),
                remedy="use a larger unit",
            )
    return windows.x.astype(np.float16)


def _read_weights(path: Path) -> dict[str, NDArray[Any]]:
    try:
        return load_file(path)
    except FileNotFoundError:
        raise BundleError(
            "is missing", field=str(path), remedy="save the state dict there"
        ) from None
    except (OSError, ValueError, KeyError, safetensors.SafetensorError) as error:
        raise BundleError(
            "is no safetensors file",
            field=str(path),
            value=str(error),
            remedy="save the state dict with safetensors.torch.save_file",
        ) from error
