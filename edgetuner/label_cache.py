"""What somebody said of windows, remembered: it answers for windows like them at once, long before
anything is trained.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgetuner.errors import DriftError
from edgetuner.inference import ModelVersion, Outputs

StreamKey = tuple[str, str]

_NEAR = 0.5  # of the distance of two windows of a class at home: so far a label reaches
_RECENT = 60.0  # windows of the stream after which a label counts 1/e
_LABELS = 64  # of a stream, the newest ones
_STREAMS = 256  # that somebody labels, the latest ones
# How many labels of windows just like it the model's own word is worth, where a window is strange
# to it, and how many more where it is ordinary: so labels that are wrong do little harm at home.
_STRANGE, _ORDINARY = 0.3, 4.0


@dataclass
class _Said:
    """Labelled windows of a stream, in the order in which they were heard of."""

    places: list[NDArray[np.float32]] = field(default_factory=list)  # each (R,)
    seqs: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)


class LabelCache:
    """A cache of keys and values beside the network, as for words of a text that come again (Grave,
    Joulin & Usunier 2017, arXiv 1612.04426) or for classes of a few images (Zhang et al. 2022,
    arXiv 2111.03930): the keys are embeddings, the values labels.

    With p the probabilities that the versions give a window, e its embedding in units in which two
    windows of a class at home are 1 apart, and o how ordinary it is to its model
    (`Reference.ordinary`), what is served is in proportion to

        (.3 + 4 o) p + sum_i exp(-|e - e_i|^2 / (2 * .5^2) - age_i / 60) onehot(label_i)

    over the labelled windows i of the same stream; their age is in windows. So a label speaks for
    the bout it is of and for what looks the same soon afterwards, and for nothing else. Nothing is
    learned for good: that is left to training, for which the versions are judged by what they say
    by themselves.

    The embeddings are those of the version that all adaptations go back to, so that a swap leaves
    the cache as it is; with another one of those it begins anew. It is in memory alone, and for one
    thread.
    """

    def __init__(self) -> None:
        self._of: str | None = None  # version
        self._streams: OrderedDict[StreamKey, _Said] = OrderedDict()

    def hear(
        self,
        anchor: ModelVersion,
        out: Outputs,
        keys: Sequence[StreamKey],
        seqs: Sequence[int],
        labels: Sequence[int],
    ) -> None:
        """Remembers labels of N windows; the latest one of a window counts.

        Args:
            anchor: the version whose embeddings are the keys.
            out: what it makes of the windows.
            keys, seqs: which windows they are.
            labels: class indices.
        """
        if anchor.id != self._of:
            self._of = anchor.id
            self._streams.clear()
        places = anchor.reference.places(out.embeddings)
        for place, key, seq, label in zip(places, keys, seqs, labels, strict=True):
            if not np.isfinite(place).all():
                continue
            said = self._streams.setdefault(key, _Said())
            self._streams.move_to_end(key)
            if seq in said.seqs:
                said.labels[said.seqs.index(seq)] = label
                continue
            said.places.append(place)
            said.seqs.append(seq)
            said.labels.append(label)
            for values in (said.places, said.seqs, said.labels):
                del values[:-_LABELS]
        while len(self._streams) > _STREAMS:
            self._streams.popitem(last=False)

    def corrected(
        self,
        anchor: ModelVersion,
        out: Outputs,
        keys: Sequence[StreamKey],
        seqs: Sequence[int],
        probabilities: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """The probabilities (N, K) of N windows, as labels of windows like them correct them; the
        very array where nobody has labelled any of these streams. Arguments as for `hear`.
        """
        if anchor.id != self._of or not any(key in self._streams for key in keys):
            return probabilities
        try:
            ordinary = anchor.reference.ordinary(out.embeddings, out.predicted, out.confidence)
        except DriftError:  # what the model gave is not finite: there is no place to look at
            return probabilities
        places = anchor.reference.places(out.embeddings)
        weights = (_STRANGE + _ORDINARY * ordinary)[:, None] * probabilities
        for key in dict.fromkeys(keys):
            said = self._streams.get(key)
            if said is None:
                continue
            rows = [row for row, other in enumerate(keys) if other == key]
            apart = places[rows][:, None] - np.stack(said.places)  # (n, M, R)
            square = np.einsum("nmr,nmr->nm", apart, apart)
            age = np.abs(np.subtract.outer([seqs[row] for row in rows], said.seqs))
            speaks = np.exp(-square / (2 * _NEAR**2) - age / _RECENT)
            weights[rows] += speaks @ np.eye(probabilities.shape[1])[said.labels]
        corrected: NDArray[np.float64] = weights / weights.sum(axis=1, keepdims=True)
        return corrected

    def copy(self) -> LabelCache:
        """One that hears what this one has heard so far, and from now on by itself."""
        twin = LabelCache()
        twin._of = self._of
        for key, said in self._streams.items():
            twin._streams[key] = _Said(list(said.places), list(said.seqs), list(said.labels))
        return twin
