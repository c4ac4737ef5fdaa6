"""Who answers: a version, and earlier ones beside it, each as far as labels and the window itself
speak for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgetuner.errors import DriftError
from edgetuner.inference import ModelVersion, Outputs

_WRONG = 0.2  # of the labels, whatever the versions say: no single one may decide
_BACK = 0.2  # of the way to even after every label: what was true a while ago is soon forgotten


class Answer(NamedTuple):
    """What is served for N windows.

    Attributes:
        predicted: class index, int64 (N,).
        confidence: probability of that class, float32 (N,).
    """

    predicted: NDArray[np.int64]
    confidence: NDArray[np.float32]

    @classmethod
    def of(cls, probabilities: NDArray[np.float64]) -> Answer:
        """The most probable class of each row of (N, K)."""
        return cls(probabilities.argmax(axis=1), probabilities.max(axis=1).astype(np.float32))


@dataclass(frozen=True)
class Serving:
    """A version, alone or with earlier ones beside it.

    What was learned from the first labels of a new context knows nothing of activities that have
    not come yet, and no gate can see that; the version that all adaptations began with knows them
    as well as it ever did, and the one before knows what it was taught. So all of them answer, by
    the mean of their probabilities. Two things weigh it.

    The window: each version counts as far as the window is ordinary to it (`Reference.ordinary`),
    which is told without labels and differs from window to window.

    The labels, by fixed share (Herbster & Warmuth 1998, for the logarithmic loss): each share is
    multiplied by the probability that its version gave to the label, and then goes some of the way
    back to even. So together they are hardly worse than the best of them over any stretch, and
    follow a context that comes back within some labels.

    Attributes:
        version: the live one, by which windows are recorded and detectors watch.
        beside: earlier ones; first the one that all adaptations began with.
        shares: what labels say of the live version and of those beside it, 1 in all; even at first.
    """

    version: ModelVersion
    beside: tuple[ModelVersion, ...] = ()
    shares: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.shares:
            count = 1 + len(self.beside)
            object.__setattr__(self, "shares", (1 / count,) * count)

    def outputs(self, x: NDArray[np.float32]) -> list[Outputs]:
        """What the live version and those beside it make of raw windows x (N, C, T)."""
        return [version.predict(x) for version in (self.version, *self.beside)]

    def mixed(self, outputs: Sequence[Outputs]) -> NDArray[np.float64]:
        """Their probabilities together, (N, K), given what each makes of N windows."""
        if not self.beside:
            return outputs[0].probabilities()
        mixed = np.zeros(outputs[0].logits.shape)  # (N, K)
        total = np.zeros((len(mixed), 1))
        voices = zip((self.version, *self.beside), self.shares, outputs, strict=True)
        for version, share, out in voices:
            try:
                ordinary = version.reference.ordinary(out.embeddings, out.predicted, out.confidence)
            except DriftError:  # what it gave is not finite: it has no voice here
                if version is self.version:
                    raise
                continue
            weight = share * ordinary[:, None]
            mixed += weight * out.probabilities()
            total += weight
        mixed /= total
        return mixed

    def predict(self, x: NDArray[np.float32]) -> Answer:
        """What is served for raw windows x (N, C, T)."""
        return Answer.of(self.mixed(self.outputs(x)))

    def told(self, outputs: Sequence[Outputs], y: NDArray[np.int64]) -> Serving:
        """The same with the shares that labels y (N,) lead to, given what each makes of the
        windows, which must not have been trained on.
        """
        if not self.beside:
            return self
        rows, classes = np.arange(len(y)), len(self.version.classes)
        given = np.nan_to_num([out.probabilities()[rows, y] for out in outputs])
        shares = np.array(self.shares)
        for likely in ((1 - _WRONG) * given + _WRONG / classes).T:
            shares = shares * likely
            shares /= shares.sum()
            shares += _BACK * (1 / len(shares) - shares)
        return replace(self, shares=tuple(shares.tolist()))

    @property
    def anchor(self) -> ModelVersion:
        """The version that all adaptations go back to, which knows every activity from where it
        was made, or else the one that is live.
        """
        return (self.version, *self.beside)[self.anchor_index]

    @property
    def anchor_index(self) -> int:
        """Where `outputs` has what the anchor says."""
        adapted = self.version.manifest.adaptation is not None
        return 1 if adapted and self.beside else 0

    def followed_by(self, version: ModelVersion) -> Serving:
        """A version that has yet to prove itself, and all who know more than it beside it."""
        before = [self.anchor] if self.version is self.anchor else [self.anchor, self.version]
        return Serving(version, tuple(before))

    def proven(self) -> Serving:
        """The live version and the one that all adaptations began with, if that was beside it."""
        few = 1 + len(self.beside[:1])
        kept = sum(self.shares[:few])
        return Serving(
            self.version, self.beside[:1], tuple(share / kept for share in self.shares[:few])
        )
