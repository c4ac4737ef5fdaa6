"""Where a model is at home: whom it was trained on, what its detectors were calibrated on, and what
is left to play.

Of every recording of the source the first part in time trains the model, the next one fits and
calibrates the drift reference, and the last one is played. So "at home" are the same people, later.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.shifts import DATASETS, Shift
from benchmarks.sources import HOLD_OUT, source_bundle
from edgetuner.bundle import Bundle, Description, write_bundle
from edgetuner.data import WindowSet, load
from edgetuner.drift import ErrorRate, Reference, bouts_of, calibrate
from edgetuner.factories import build_module
from edgetuner.inference import ModelVersion, Outputs
from edgetuner.models import embed
from edgetuner.pretrain import sensor_profile

PLAYED = 0.25  # of every recording of the source, its last part in time
_CHUNK = 256


@dataclass(frozen=True, eq=False)
class Home:
    """A source model and what may be played to it.

    Attributes:
        shift: what changes.
        backbone: of the model.
        bundle: trained on neither of the following.
        train: what the model was trained on.
        held: what detectors are fitted on, the same people a little later.
        home: to be played, the same people later still.
        away: to be played after the change: another position, or people who are new.
        hop_s: seconds from one window to the next.
    """

    shift: Shift
    backbone: str
    bundle: Bundle
    train: WindowSet
    held: WindowSet
    home: WindowSet
    away: WindowSet
    hop_s: float

    def reference(self, run_length: float) -> Reference:
        """The drift reference, fitted and calibrated by the code of this checkout.

        Bundles of source models are kept for long, and what their maker thought of drift is not
        asked.
        """
        module, head = build_module(self.bundle), self.bundle.manifest.backbone.head
        trained = outputs(module, head, self.bundle, self.train)
        held = self.held.take(np.concatenate(self.held.recordings()))
        kept = outputs(module, head, self.bundle, held)
        recording = np.empty(len(held), np.int64)
        for number, rows in enumerate(held.recordings()):
            recording[rows] = number
        reference = Reference.fit(
            trained.embeddings,
            self.train.y,
            kept.embeddings,
            kept.predicted,
            kept.confidence,
            self.train.classes,
            held_recording=recording,
            held_wearer=held.groups.get("subject"),
            errors=ErrorRate(int((kept.predicted != held.y).sum()), len(held)),
        )
        return calibrate(reference, run_length, bouts=bouts_of(self.hop_s))

    def version(self, reference: Reference, folder: Path) -> ModelVersion:
        """The model as the service would load it, with that reference and a sensor's profile by the
        code of this checkout, written to `folder`.
        """
        manifest = self.bundle.manifest
        known = {name: getattr(manifest, name) for name in Description.model_fields}
        sensor = sensor_profile(self.train).to_arrays()
        tensors = replace(self.bundle, reference=reference.to_arrays(), sensor=sensor)
        write_bundle(folder, tensors, Description(**known), prefix="source")
        return ModelVersion.load(folder)


def outputs(module: nn.Module, head: str, bundle: Bundle, windows: WindowSet) -> Outputs:
    """What a module makes of raw windows."""
    mean, std = torch.from_numpy(bundle.mean)[:, None], torch.from_numpy(bundle.std)[:, None]
    with torch.inference_mode():
        pairs = [
            embed(module, (chunk - mean) / std, head)
            for chunk in torch.split(torch.from_numpy(windows.x), _CHUNK)
        ]
        logits, embeddings = (torch.cat(parts) for parts in zip(*pairs, strict=True))
        confidence, predicted = logits.softmax(1).max(1)
    return Outputs(predicted.numpy(), confidence.numpy(), logits.numpy(), embeddings.numpy())


def asked(reference: Reference) -> dict[str, Any]:
    """How a calibrated reference was calibrated, as arguments of `calibrate`."""
    known = reference.calibration
    assert known is not None
    return {
        "run_length": known.run_length,
        "bouts": known.bouts,
        "first_share": known.first_share,
    }


def home(shift: Shift, backbone: str, stranger: int | None = None) -> Home:
    """The model of a shift, trained if it is not there yet, and what is played to it.

    Args:
        backbone: a key of `edgetuner.models.BACKBONES`.
        stranger: which of the shift's strangers comes; all of them if None. Without strangers in
            the target the people stay.
    """
    known = DATASETS.get(shift.dataset)
    windows = known() if known else load(Path(shift.dataset))
    at_home = windows.select(**shift.source)
    away = windows.select(**shift.target)
    strange = np.isin(away.groups.get("subject", np.zeros(len(away))), shift.strangers)
    if shift.strangers:
        at_home = at_home.take(~np.isin(at_home.groups["subject"], shift.strangers))
    if shift.source == shift.target:
        away = away.take(strange)
        away = away if stranger is None else away.select(subject=stranger)
    else:
        away = away.take(~strange)
    early, late = at_home.split_by_time(PLAYED, shift.gap)
    bundle, _ = source_bundle(early, backbone, shift.gap)
    train, held = early.split_by_time(HOLD_OUT, shift.gap)
    length_s = windows.length / windows.hz
    return Home(shift, backbone, bundle, train, held, late, away, length_s / (shift.gap + 1))
