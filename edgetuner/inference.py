"""Model versions that can predict."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from edgetuner.bundle import Bundle
from edgetuner.config import DriftConfig
from edgetuner.drift.calibrate import calibrated_for
from edgetuner.drift.reference import Reference
from edgetuner.drift.sensor import SensorProfile
from edgetuner.errors import DeviceError, ModelError
from edgetuner.factories import build_module
from edgetuner.models import embed
from edgetuner.peft.statistics import reestimate

_STATISTICS = 512  # windows; more do not move a mean
_BATCH = 64


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a version says of N windows.

    Attributes:
        predicted: class index, int64 (N,).
        confidence: softmax probability of that class, float32 (N,).
        logits: float32 (N, K).
        embeddings: input of the last linear layer, float32 (N, D).
    """

    predicted: NDArray[np.int64]
    confidence: NDArray[np.float32]
    logits: NDArray[np.float32]
    embeddings: NDArray[np.float32]

    def take(self, rows: NDArray[np.int64]) -> Outputs:
        """What it says of some of them (M,)."""
        return Outputs(
            self.predicted[rows], self.confidence[rows], self.logits[rows], self.embeddings[rows]
        )

    def probabilities(self) -> NDArray[np.float64]:
        """Softmax of the logits, (N, K)."""
        with np.errstate(invalid="ignore"):  # of what is not finite, the drift reference complains
            raised = np.exp(self.logits.astype(np.float64) - self.logits.max(axis=1, keepdims=True))
            shares: NDArray[np.float64] = raised / raised.sum(axis=1, keepdims=True)
        return shares


class ModelVersion:
    """A bundle, built and loaded on a device, in inference mode.

    Args:
        bundle: a verified bundle.
        device: `cpu` or `cuda`.
        allow_factories: names of model factories that the operator trusts.

    Raises:
        ModelError: it cannot be built, or does not give a finite answer to its own exemplars.
    """

    def __init__(
        self, bundle: Bundle, *, device: str = "cpu", allow_factories: Sequence[str] = ()
    ) -> None:
        self.bundle = bundle
        self.manifest = bundle.manifest
        self.id = bundle.manifest.version
        self.classes = bundle.manifest.classes
        self._device = torch.device(device)
        with _translated(self.id):
            self._module = build_module(bundle, allow_factories).to(self._device).eval()
            self._mean = torch.from_numpy(bundle.mean).reshape(1, -1, 1).to(self._device)
            self._std = torch.from_numpy(bundle.std).reshape(1, -1, 1).to(self._device)
        self.reference = Reference.from_arrays(bundle.reference)
        self.sensor = SensorProfile.from_arrays(bundle.sensor)

    @classmethod
    def load(
        cls,
        path: Path,
        *,
        device: str = "cpu",
        allow_factories: Sequence[str] = (),
        drift: DriftConfig | None = None,
    ) -> ModelVersion:
        """Verifies the bundle at `path`, builds it, and runs it once, so that the next run is warm.

        Args:
            drift: how often a false alarm may come; where its bundle has thresholds for another
                time, they are set anew, which takes some seconds.

        Raises:
            BundleError: the bundle is missing or altered.
            ModelError: see the class.
            DriftError: the drift reference is damaged, or too small for new thresholds.
        """
        version = cls(Bundle.load(path), device=device, allow_factories=allow_factories)
        if drift is not None:
            manifest = version.manifest
            asked = drift.run_length(manifest.length / manifest.hz)
            version.reference = calibrated_for(version.reference, asked)
        version.warm_up()
        return version

    def predict(self, x: NDArray[np.float32]) -> Outputs:
        """Runs raw windows x, (N, C, T) in physical units, through normalisation and model.

        Raises:
            DeviceError: the device fails, or has no memory left.
        """
        with _translated(self.id), torch.inference_mode():
            raw = torch.from_numpy(np.ascontiguousarray(x)).to(self._device)
            logits, embeddings = embed(
                self._module, (raw - self._mean) / self._std, self.manifest.backbone.head
            )
            confidence, predicted = logits.softmax(dim=1).max(dim=1)
        return Outputs(
            predicted=predicted.cpu().numpy(),
            confidence=confidence.cpu().numpy(),
            logits=logits.cpu().numpy(),
            embeddings=embeddings.cpu().numpy(),
        )

    def twin(self) -> ModelVersion:
        """The same with a module of its own, for another thread: see `models.embed`."""
        twin = copy.copy(self)
        twin._module = copy.deepcopy(self._module)
        return twin

    def restated(self, x: NDArray[np.float32]) -> ModelVersion:
        """A copy of which the batch norms have the statistics of windows x (N, C, T), N >= 1, in
        physical units: what the version would say if only the scale of things had changed.
        """
        windows = x[np.linspace(0, len(x) - 1, min(len(x), _STATISTICS)).astype(int)]
        raw = torch.from_numpy(np.ascontiguousarray(windows)).to(self._device)
        parts = torch.tensor_split((raw - self._mean) / self._std, -(-len(raw) // _BATCH))
        changed = self.twin()
        changed._module.load_state_dict(reestimate(self._module, parts), strict=False)
        return changed

    def warm_up(self) -> None:
        """Predicts the exemplars once. Raises ModelError if the answer is not finite."""
        x = self.bundle.exemplar_x[:8].astype(np.float32)
        if not np.isfinite(self.predict(x).logits).all():
            raise ModelError(
                "gives answers that are not finite",
                field=self.id,
                remedy="restore the bundle from its source, or roll back",
            )


@contextlib.contextmanager
def _translated(version: str) -> Iterator[None]:
    """What torch raises where a device fails, which on some boards is not even named for it."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        raise DeviceError(
            "cannot run here",
            field=version,
            value=(str(error) or type(error).__name__).splitlines()[0],
            remedy="free some memory, or set inference.device: cpu",
        ) from error


def limit_threads(threads: int) -> None:
    """CPU threads of every prediction from now on, in the whole process.

    More than one waits at barriers for whichever core the training process has just taken.
    """
    torch.set_num_threads(threads)


def choose_device(wanted: str) -> str:
    """`cuda` where it is wanted and a convolution really runs on it, forward and backward; else
    `cpu`.

    `torch.cuda.is_available()` alone says nothing: a wheel built for other chips is "available" and
    then finds no kernel image.

    Raises:
        DeviceError: `cuda` is demanded and does not work.
    """
    if wanted == "cpu":
        return "cpu"
    reason = cuda_fault()
    if reason is None:
        return "cuda"
    if wanted == "cuda":
        raise DeviceError(
            "does not run a convolution",
            field="device",
            value=f"cuda: {reason}",
            remedy="install the torch wheel of this JetPack, or set device: auto or cpu",
        )
    return "cpu"


def cuda_fault() -> str | None:
    """Why no convolution runs on CUDA, in words; None if one does."""
    if not torch.cuda.is_available():
        return "torch finds no CUDA device"
    try:
        x = torch.ones(1, 1, 8, device="cuda", requires_grad=True)
        torch.nn.functional.conv1d(x, torch.ones(1, 1, 3, device="cuda")).sum().backward()  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return None


def torch_build() -> str:
    """The version of torch, which names its build too."""
    return torch.__version__
