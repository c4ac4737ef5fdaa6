"""What a model's windows look like at home, and how strange a new window is beside them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgetuner.drift.confidence import log_odds
from edgetuner.drift.embedding import log_distance
from edgetuner.drift.error import ErrorRate
from edgetuner.drift.mahalanobis import ClassDistance
from edgetuner.drift.standard import Scale, tail
from edgetuner.errors import DriftError

Scores = NDArray[np.float64]
Ints = NDArray[np.int64]
_HUGE = 1e12  # squares of embeddings stay finite in single precision

# A detector is a score, high where a window is strange: (distance, embedding (N, D), predicted
# (N,), confidence (N,)) -> (N,). Everything after the score is the same for all of them.
Score = Callable[[ClassDistance, Any, Any, ArrayLike], Scores]
DETECTORS: dict[str, Score] = {
    "embedding": log_distance,
    "confidence": log_odds,
}


@dataclass(frozen=True)
class Calibration:
    """Thresholds, and everything needed to arrive at them again.

    Attributes:
        thresholds: CUSUM threshold of each detector; "error" where errors at home are known and
            few enough for one to be news.
        run_length: asked mean number of windows between false alarms of all detectors together.
        bouts: shortest and longest bout of the simulated streams, in windows.
        seed: of the simulation.
        first_share: mean windows until the first alarm of a stream, of `run_length`. Below 1 where
            the held-out windows say that later alarms will be rarer, since each is answered and
            learned from.
    """

    thresholds: dict[str, float]
    run_length: float
    bouts: tuple[int, int]
    seed: int
    first_share: float = 1.0


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
        held_wearer: windows with the same number are of one person or device (M,).
        errors: how often the model was wrong on labelled held-out windows; None if that is not
            known.
        least_between: by detector, the least variance between bouts that is believed: a version
            held against a few bouts of one day cannot know how other days differ.
        data_hash: SHA-256 of all that the reference was fitted on.
        calibration: thresholds; None until `calibrate` has filled them.
    """

    classes: tuple[str, ...]
    distance: ClassDistance
    held: Mapping[str, Scores]
    held_predicted: Ints
    held_recording: Ints
    held_wearer: Ints
    errors: ErrorRate | None
    least_between: Mapping[str, float]
    data_hash: str
    calibration: Calibration | None = None
    scales: Mapping[str, Scale] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "scales", {name: self._scale(name) for name in self.held})

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
        held_wearer: ArrayLike | None = None,
        errors: ErrorRate | None = None,
        before: Reference | None = None,
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
            held_wearer: whom the windows are of (M,); all of one if None.
            errors: on labelled held-out windows, where there are any.
            before: reference of the version that this one was adapted from. What varies between
                bouts is taken to vary as much as there, even if few bouts were held out here.

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
        if held_wearer is None:
            wearer = np.zeros(len(held), np.int64)
        else:
            wearer = _vector("held_wearer", held_wearer, len(held)).astype(np.int64)
        if embedding.shape[1] != held.shape[1]:
            raise _wrong_width("held_embeddings", held.shape, embedding.shape[1])
        distance = ClassDistance.fit(embedding, labels, tuple(classes))
        return cls(
            classes=tuple(classes),
            distance=distance,
            held={
                name: score(distance, held, predicted, confidence)
                for name, score in DETECTORS.items()
            },
            held_predicted=predicted,
            held_recording=recording.astype(np.int64),
            held_wearer=wearer,
            errors=errors,
            least_between={}
            if before is None
            else {name: scale.spread.between for name, scale in before.scales.items()},
            data_hash=_digest(embedding, labels, held, predicted, confidence, recording, wearer),
        )

    def with_calibration(self, calibration: Calibration) -> Reference:
        """The same reference with thresholds."""
        return replace(self, calibration=calibration)

    def scores(
        self, embedding: ArrayLike, predicted: ArrayLike, confidence: ArrayLike
    ) -> dict[str, Scores]:
        """How strange each window is to each detector: a standard score, high where it is.

        Args:
            embedding: (N, D). predicted: class index (N,). confidence: highest softmax probability
                (N,).

        Returns:
            For each detector (N,), 0 for an ordinary window of the predicted class; see `Scale`.

        Raises:
            DriftError: an embedding of another width, a class that the reference does not have, or
                what a model gave is not finite.
        """
        embedding, predicted = np.asarray(embedding), np.asarray(predicted)
        self.check(embedding, predicted, confidence)
        found = {}
        for name, score in DETECTORS.items():
            raw = score(self.distance, embedding, predicted, confidence)
            found[name] = self.scales[name](raw, predicted)
        return found

    def check(
        self, embedding: NDArray[Any], predicted: NDArray[Any], confidence: ArrayLike
    ) -> None:
        """Raises DriftError as `scores` does, at a fraction of its cost."""
        width = self.distance.means.shape[1]
        if embedding.ndim != 2 or embedding.shape[1] != width:
            raise _wrong_width("embedding", embedding.shape, width)
        classes = predicted.tolist()
        if classes and not 0 <= min(classes) <= max(classes) < len(self.classes):
            raise DriftError(
                "predicted class is not in the drift reference",
                field="predicted",
                value=max(classes) if min(classes) >= 0 else min(classes),
                remedy=f"use the reference of the same model version, 0..{len(self.classes) - 1}",
            )
        for name, values in (("embedding", embedding), ("confidence", confidence)):
            flat = np.ravel(values)
            if not flat @ flat < _HUGE**2:  # negated, so that NaN is refused too
                raise DriftError(
                    "what the model gave is not finite, or as good as that",
                    field=f"drift.{name}",
                    value=float(np.abs(flat).max()),
                    remedy="roll back to the version before",
                )

    def p_values(
        self, embedding: ArrayLike, predicted: ArrayLike, confidence: ArrayLike
    ) -> dict[str, Scores]:
        """As `scores`, but as the share of windows at home that are stranger, 0 to 1."""
        scores = self.scores(embedding, predicted, confidence)
        return {name: tail(standard) for name, standard in scores.items()}

    def ordinary(self, embedding: ArrayLike, predicted: ArrayLike, confidence: ArrayLike) -> Scores:
        """How ordinary each window is, (N,): 1 where it is as near to its class as at home, less
        beyond that, by the normal density of its standard score z, of which the root is taken since
        windows of a bout share their luck: exp(-max(z, 0)^2 / 4), .105 at least. Arguments as for
        `scores`.
        """
        standard = self.scores(embedding, predicted, confidence)["embedding"]
        ordinary: Scores = np.exp(-0.25 * np.square(np.maximum(standard, 0.0)))
        return ordinary

    def places(self, embedding: ArrayLike) -> NDArray[np.float32]:
        """Where embeddings (N, D) lie, (N, R), in units in which two windows of a class at home are
        1 apart in the mean square. Raises DriftError for embeddings of another width.
        """
        embedding, width = np.asarray(embedding), self.distance.means.shape[1]
        if embedding.ndim != 2 or embedding.shape[1] != width:
            raise _wrong_width("embedding", embedding.shape, width)
        return self.distance.places(embedding)

    def _scale(self, name: str) -> Scale:
        scale = Scale.fit(
            self.held[name], self.held_predicted, self.held_recording, len(self.classes)
        )
        return scale.at_least(self.least_between.get(name, 0.0))

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Everything as numeric arrays, for a safetensors file; text is UTF-8 bytes (uint8)."""
        about: dict[str, Any] = {
            "classes": self.classes,
            "data_hash": self.data_hash,
            "rest": self.distance.rest_precision,
            "least_between": dict(self.least_between),
        }
        if self.errors is not None:
            about["errors"] = asdict(self.errors)
        if self.calibration is not None:
            about["calibration"] = asdict(self.calibration)
        return {
            "means": self.distance.means,
            "whitening": self.distance.whitening,
            "deviations": self.distance.deviations,
            "held_predicted": self.held_predicted,
            "held_recording": self.held_recording,
            "held_wearer": self.held_wearer,
            **{f"score.{name}": scores for name, scores in self.held.items()},
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
            calibration = about.get("calibration")
            if calibration is not None:
                bouts = tuple(calibration.pop("bouts"))
                calibration = Calibration(**calibration, bouts=bouts)
            return cls(
                classes=tuple(about["classes"]),
                distance=ClassDistance(
                    arrays["means"], arrays["whitening"], arrays["deviations"], float(about["rest"])
                ),
                held={name: arrays[f"score.{name}"] for name in DETECTORS},
                held_predicted=arrays["held_predicted"],
                held_recording=arrays["held_recording"],
                held_wearer=arrays["held_wearer"],
                errors=ErrorRate(**about["errors"]) if "errors" in about else None,
                least_between=about["least_between"],
                data_hash=about["data_hash"],
                calibration=calibration,
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise DriftError(
                "drift reference is incomplete, damaged, or of an older edgetuner",
                field="reference",
                value=str(error),
                remedy="create the bundle again",
            ) from error


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
