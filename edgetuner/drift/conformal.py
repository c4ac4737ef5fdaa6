"""What a model's windows look like at home, and how strange a new window is beside them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgetuner.drift.mahalanobis import ClassDistance
from edgetuner.errors import DriftError

Scores = NDArray[np.float64]
Ints = NDArray[np.int64]

MIN_HELD = 20  # a class with fewer held-out windows is compared with those of all classes


def _distance(reference: Reference, embedding: ArrayLike, predicted: Ints, _: ArrayLike) -> Scores:
    return reference.scores(embedding, predicted)


def _doubt(_: Reference, __: ArrayLike, ___: Ints, confidence: ArrayLike) -> Scores:
    return 1 - np.asarray(confidence, np.float64)


# A detector is a score, high where a window is strange: (reference, embedding (N, D), predicted
# (N,), confidence (N,)) -> (N,). Everything after the score is the same for all of them.
DETECTORS: dict[str, Callable[[Reference, ArrayLike, Ints, ArrayLike], Scores]] = {
    "embedding": _distance,
    "confidence": _doubt,
}


@dataclass(frozen=True)
class Calibration:
    """Thresholds, and everything needed to arrive at them again.

    Attributes:
        thresholds: CUSUM threshold of each detector.
        reference_value: the CUSUM's k that the thresholds belong to.
        run_length: asked mean number of windows between false alarms of all detectors together.
        bout_windows: length of a bout in the simulated streams.
        seed: of the simulation.
    """

    thresholds: dict[str, float]
    reference_value: float
    run_length: float
    bout_windows: int
    seed: int


@dataclass(frozen=True, eq=False)
class Reference:
    """Class-conditional statistics of one model version, and its scores on held-out windows.

    People do one thing for minutes, so the embeddings of any short stretch are far from the mixture
    of all classes although nothing is wrong. Every comparison is therefore with windows of the
    *predicted* class.

    Attributes:
        classes: class names, K of them.
        distance: distance to the predicted class.
        held: score of each held-out window per detector (M,), in time order.
        held_predicted: predicted class of each held-out window (M,).
        held_recording: windows with the same number are one recording, in time order (M,).
        data_hash: SHA-256 of all that the reference was fitted on.
        calibration: thresholds; None until `calibrate` has filled them.
    """

    classes: tuple[str, ...]
    distance: ClassDistance
    held: Mapping[str, Scores]
    held_predicted: Ints
    held_recording: Ints
    data_hash: str
    calibration: Calibration | None = None
    _tables: Mapping[str, tuple[Scores, ...]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        tables = {name: self._sorted_by_class(scores) for name, scores in self.held.items()}
        object.__setattr__(self, "_tables", tables)

    @classmethod
    def fit(
        cls,
        embeddings: ArrayLike,
        y: ArrayLike,
        held_embeddings: ArrayLike,
        held_predicted: ArrayLike,
        held_confidence: ArrayLike,
        classes: Sequence[str],
        *,
        held_recording: ArrayLike | None = None,
    ) -> Reference:
        """Fit on labelled windows, and score held-out windows of the same source.

        Args:
            embeddings: (N, D) of windows with known class; those of the training set will do.
            y: class index of each (N,).
            held_embeddings: (M, D) of windows that the model was *not* trained on, in time order
                within each recording. Trained-on windows lie too close to their class and make
                everything look like drift.
            held_predicted: class index that the model gave them (M,).
            held_confidence: its highest softmax probability (M,).
            classes: class names, K of them.
            held_recording: windows of one recording (one person doing one thing) share a number
                (M,). Without it, a recording is a run of equal predictions, which understates how
                alike neighbours are.

        Raises:
            DriftError: shapes that do not fit, values that are not finite, a class without windows,
                or embeddings that are constant.
        """
        embedding, held = (
            _matrix("embeddings", embeddings),
            _matrix("held_embeddings", held_embeddings),
        )
        labels = _indices("y", y, len(embedding), len(classes))
        predicted = _indices("held_predicted", held_predicted, len(held), len(classes))
        confidence = _vector("held_confidence", held_confidence, len(held))
        if held_recording is None:
            recording = np.cumsum(np.diff(predicted, prepend=predicted[:1]) != 0)
        else:
            recording = _vector("held_recording", held_recording, len(held)).astype(np.int64)
        if embedding.shape[1] != held.shape[1]:
            raise _wrong_width("held_embeddings", held.shape, embedding.shape[1])
        reference = cls(
            classes=tuple(classes),
            distance=ClassDistance.fit(embedding, labels, tuple(classes)),
            held={},
            held_predicted=predicted,
            held_recording=recording.astype(np.int64),
            data_hash=_digest(embedding, labels, held, predicted, confidence, recording),
        )
        scores = {
            name: score(reference, held, predicted, confidence) for name, score in DETECTORS.items()
        }
        return replace(reference, held=scores)

    def with_calibration(self, calibration: Calibration) -> Reference:
        """The same reference with thresholds."""
        return replace(self, calibration=calibration)

    def scores(self, embedding: ArrayLike, predicted: ArrayLike) -> Scores:
        """Mahalanobis distance of embedding (N, D) to its predicted class (N,) -> (N,).

        Raises:
            DriftError: an embedding of another width, or a class that the reference does not have.
        """
        embedding, predicted = np.asarray(embedding), np.asarray(predicted)
        width = self.distance.means.shape[1]
        if embedding.ndim != 2 or embedding.shape[1] != width:
            raise _wrong_width("embedding", embedding.shape, width)
        try:
            return self.distance(embedding, predicted)
        except IndexError as error:
            raise DriftError(
                "predicted class is not in the drift reference",
                field="predicted",
                value=int(predicted.max()),
                remedy=f"use the reference of the same model version, 0..{len(self.classes) - 1}",
            ) from error

    def p_values(
        self, embedding: ArrayLike, predicted: ArrayLike, confidence: ArrayLike
    ) -> dict[str, Scores]:
        """Conformal p-value of each window for each detector: low where the window is strange.

        Args:
            embedding: (N, D). predicted: class index (N,). confidence: highest softmax probability
                (N,).

        Returns:
            For each detector (N,), strictly between 0 and 1; see `p_value`.

        Raises:
            DriftError: an embedding of another width, or a score that is not finite.
        """
        predicted = np.asarray(predicted)
        found = {}
        for name, score in DETECTORS.items():
            scores = score(self, embedding, predicted, confidence)
            if not np.isfinite(scores).all():
                raise DriftError(
                    "score is not finite",
                    field=f"drift.{name}",
                    value=scores,
                    remedy="the model gave NaN or infinity: roll back to the version before",
                )
            found[name] = self._ranked(name, scores, predicted)
        return found

    def _ranked(self, name: str, scores: Scores, predicted: NDArray[np.integer[Any]]) -> Scores:
        table = self._tables[name]
        if len(scores) == 1:  # the live path, one window at a time
            return p_value(scores, table[predicted[0]])
        found = np.empty(len(scores))
        for k in set(predicted.tolist()):
            mine = predicted == k
            found[mine] = p_value(scores[mine], table[k])
        return found

    def _sorted_by_class(self, scores: Scores) -> tuple[Scores, ...]:
        pooled = np.sort(scores)
        own = [scores[self.held_predicted == k] for k in range(len(self.classes))]
        return tuple(np.sort(s) if len(s) >= MIN_HELD else pooled for s in own)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Everything as numeric arrays, for a safetensors file; text is UTF-8 bytes (uint8)."""
        about: dict[str, Any] = {
            "classes": self.classes,
            "data_hash": self.data_hash,
            "rest": self.distance.rest_precision,
        }
        if self.calibration is not None:
            about["calibration"] = asdict(self.calibration)
        return {
            "means": self.distance.means,
            "whitening": self.distance.whitening,
            "deviations": self.distance.deviations,
            "held_predicted": self.held_predicted,
            "held_recording": self.held_recording,
            **{f"held.{name}": scores for name, scores in self.held.items()},
            "about": np.frombuffer(json.dumps(about, ensure_ascii=False).encode(), np.uint8).copy(),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Reference:
        """The reference that `to_arrays` described.

        Raises:
            DriftError: an array is missing or has another meaning than it should.
        """
        try:
            about = json.loads(arrays["about"].tobytes())
            calibration = Calibration(**about["calibration"]) if "calibration" in about else None
            return cls(
                classes=tuple(about["classes"]),
                distance=ClassDistance(
                    arrays["means"], arrays["whitening"], arrays["deviations"], float(about["rest"])
                ),
                held={name: arrays[f"held.{name}"] for name in DETECTORS},
                held_predicted=arrays["held_predicted"],
                held_recording=arrays["held_recording"],
                data_hash=about["data_hash"],
                calibration=calibration,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DriftError(
                "drift reference is incomplete or damaged",
                field="reference",
                value=str(error),
                remedy="create the bundle again",
            ) from error


def p_value(scores: Scores, held: Scores) -> Scores:
    """Conformal p-value of scores (N,) among sorted held-out scores (n,), ties counted half.

    (#{held > s} + (#{held = s} + 1) / 2) / (n + 1): the smoothed p-value of Vovk et al. (2005, sec.
    2.3) with its random tie-breaker put at one half. Its normal score has mean 0 on exchangeable
    data, also with few held-out windows or a confidence that saturates at 1, where (1 + #{held >=
    s}) / (n + 1) leans to one side; and unlike the randomised version a replay gives the same
    alarms. What it gives up, P(p <= a) <= a to the letter, nothing here relies on: thresholds come
    from simulation.
    """
    below = held.searchsorted(scores, "left")
    at_most = held.searchsorted(scores, "right")
    p: Scores = (2 * len(held) + 1 - below - at_most) / (2 * (len(held) + 1))
    return p


def _wrong_width(name: str, shape: tuple[int, ...], width: int) -> DriftError:
    return DriftError(
        f"embeddings do not have the reference's width of {width}",
        field=name,
        value=shape,
        remedy="use the model version that the reference belongs to",
    )


def _matrix(name: str, values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, np.float64)
    if array.ndim != 2 or 0 in array.shape:
        raise DriftError(
            "not a matrix of embeddings", field=name, value=array.shape, remedy="give (N, D)"
        )
    return _finite(name, array)


def _vector(name: str, values: ArrayLike, length: int) -> NDArray[np.float64]:
    array = np.asarray(values, np.float64)
    if array.shape != (length,):
        raise DriftError(
            "does not fit its embeddings",
            field=name,
            value=array.shape,
            remedy=f"give one value each: ({length},)",
        )
    return _finite(name, array)


def _finite(name: str, array: NDArray[np.float64]) -> NDArray[np.float64]:
    if not np.isfinite(array).all():
        count = int(np.sum(~np.isfinite(array)))
        raise DriftError(
            "values are not finite", field=name, value=count, remedy="leave such windows out"
        )
    return array


def _indices(name: str, values: ArrayLike, length: int, classes: int) -> Ints:
    array = _vector(name, values, length).astype(np.int64)
    if len(array) and not 0 <= array.min() <= array.max() < classes:
        worst = array.max() if array.max() >= classes else array.min()
        raise DriftError(
            "class index outside the classes",
            field=name,
            value=int(worst),
            remedy=f"use 0..{classes - 1}",
        )
    return array


def _digest(*arrays: NDArray[Any]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
