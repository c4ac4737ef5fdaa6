"""Who answers: a version, and an earlier one beside it, each as far as labels speak for it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgetuner.inference import ModelVersion, Outputs

_EVEN = 0.5
_FIRST = 0.6  # weight of a version that has just passed the gate, until labels speak
_WRONG = 0.2  # of the labels, whatever the versions say: no single one may decide
_BACK = 0.1  # of the way to even after every label: what was true a while ago is soon forgotten


class Answer(NamedTuple):
    """What is served for N windows.

    Attributes:
        predicted: class index, int64 (N,).
        confidence: probability of that class, float32 (N,).
    """

    predicted: NDArray[np.int64]
    confidence: NDArray[np.float32]


@dataclass(frozen=True)
class Serving:
    """A version, alone or with an earlier one beside it: the one that all adaptations began with.

    What was learned from the first labels of a new context knows nothing of activities that have
    not come yet, and no gate can see that; the earlier version knows them as well as it ever did.
    So both answer, by the mean of their probabilities: whichever is the surer decides, and a
    version is less sure where windows are unlike all that it has learned from.

    The weights follow the labels by fixed share (Herbster & Warmuth 1998, for the logarithmic
    loss): each is multiplied by the probability that its version gave to the label, and then goes
    some of the way back to even. So the pair is hardly worse than the better of both over any
    stretch, and follows a context that comes back within some labels.

    Attributes:
        version: the live one, by which windows are recorded and detectors watch.
        beside: an earlier one, or None.
        share: weight of the live version's probabilities, 0 to 1; that of the other is the rest.
    """

    version: ModelVersion
    beside: ModelVersion | None = None
    share: float = _FIRST

    def answer(self, x: NDArray[np.float32]) -> tuple[Answer, Outputs]:
        """What is served for raw windows x (N, C, T), and what the live version alone makes of
        them, which is what its detectors know.
        """
        own = self.version.predict(x)
        if self.beside is None:
            return Answer(own.predicted, own.confidence), own
        others = self.beside.predict(x).probabilities()
        mixed = self.share * own.probabilities() + (1 - self.share) * others
        return Answer(mixed.argmax(axis=1), mixed.max(axis=1).astype(np.float32)), own

    @property
    def anchor(self) -> ModelVersion:
        """Who answers beside the next version: the one that all adaptations go back to, which knows
        every activity from where it was made, or else the one that is live.
        """
        adapted = self.version.manifest.adaptation is not None
        return self.beside if adapted and self.beside is not None else self.version

    def predict(self, x: NDArray[np.float32]) -> Answer:
        """What is served for raw windows x (N, C, T)."""
        return self.answer(x)[0]

    def told(self, x: NDArray[np.float32], y: NDArray[np.int64]) -> tuple[Serving, Outputs]:
        """The same with the weights that labels y (N,) of windows x (N, C, T) lead to, and what the
        live version alone makes of them. The windows must not have been trained on.
        """
        own = self.version.predict(x)
        if self.beside is None:
            return self, own
        classes = len(self.version.classes)
        rows = np.arange(len(y))
        ours, others = (
            (1 - _WRONG) * out.probabilities()[rows, y] + _WRONG / classes
            for out in (own, self.beside.predict(x))
        )
        share = self.share
        for mine, theirs in zip(ours.tolist(), others.tolist(), strict=True):
            share = share * mine / (share * mine + (1 - share) * theirs)
            share += _BACK * (_EVEN - share)
        return replace(self, share=share), own
