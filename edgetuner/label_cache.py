"""What somebody said of windows, remembered: it answers for windows like them at once, long before
anything is trained.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgetuner.errors import DriftError
from edgetuner.inference import ModelVersion, Outputs

StreamKey = tuple[str, str]

_NEAR = 0.6  # of the distance of two windows of a class at home: so far a label reaches
_RECENT_NS = 300e9  # by the time of the windows: after it a label counts 1/e
_LABELS = 128  # of a stream, the newest ones
_STREAMS = 256  # that somebody labels, the latest ones
# How many labels of windows just like it the model's own word is worth, where a window is strange
# to it, and how many more where it is ordinary: so labels that are wrong do little harm at home.
_STRANGE, _ORDINARY = 0.3, 4.0
_NONE = np.empty(0, np.int64)


class _Said(NamedTuple):
    """Labelled windows of a stream, in the order in which they were heard of."""

    places: NDArray[np.float32]  # (M, R)
    seqs: NDArray[np.int64]  # (M,)
    t_ns: NDArray[np.int64]  # (M,)
    labels: NDArray[np.int64]  # (M,)

    def and_of(self, place: NDArray[np.float32], seq: int, t_ns: int, label: int) -> _Said:
        """With one more; another label of that window is forgotten, and the oldest beyond many."""
        kept = self.seqs != seq
        return _Said(
            np.vstack([self.places[kept], place])[-_LABELS:],
            np.append(self.seqs[kept], seq)[-_LABELS:],
            np.append(self.t_ns[kept], t_ns)[-_LABELS:],
            np.append(self.labels[kept], label)[-_LABELS:],
        )


class LabelCache:
    """A cache of keys and values beside the network, as for words of a text that come again (Grave,
    Joulin & Usunier 2017, arXiv 1612.04426) or for classes of a few images (Zhang et al. 2022,
    arXiv 2111.03930): the keys are embeddings, the values labels.

    With p the probabilities that the versions give a window, e its embedding in units in which two
    windows of a class at home are 1 apart, and o how ordinary it is to its model
    (`Reference.ordinary`), what is served is in proportion to

        (.3 + 4 o) p + sum_i exp(-|e - e_i|^2 / (2 * .6^2) - age_i / 300) onehot(label_i)

    over the labelled windows i of the same stream; their age is in seconds. So a label speaks for
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
        times: Sequence[int],
        labels: Sequence[int],
    ) -> None:
        """Remembers labels of N windows; the latest one of a window counts.

        Args:
            anchor: the version whose embeddings are the keys.
            out: what it makes of the windows.
            keys, seqs: which windows they are.
            times: of these, by the clock of their sensor, in nanoseconds.
            labels: class indices.
        """
        if anchor.id != self._of:
            self._of = anchor.id
            self._streams.clear()
        places = anchor.reference.places(out.embeddings)
        for place, key, seq, t_ns, label in zip(places, keys, seqs, times, labels, strict=True):
            if not np.isfinite(place).all():
                continue
            said = self._streams.pop(key, _Said(places[:0], *[_NONE] * 3))
            self._streams[key] = said.and_of(place, seq, t_ns, label)
        while len(self._streams) > _STREAMS:
            self._streams.popitem(last=False)

    def corrected(
        self,
        anchor: ModelVersion,
        out: Outputs,
        keys: Sequence[StreamKey],
        times: Sequence[int],
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
            apart = places[rows][:, None] - said.places  # (n, M, R)
            square = np.einsum("nmr,nmr->nm", apart, apart)
            age = np.abs(np.subtract.outer([times[row] for row in rows], said.t_ns))
            speaks = np.exp(-square / (2 * _NEAR**2) - age / _RECENT_NS)
            weights[rows] += speaks @ np.eye(probabilities.shape[1])[said.labels]
        corrected: NDArray[np.float64] = weights / weights.sum(axis=1, keepdims=True)
        return corrected

    def copy(self) -> LabelCache:
        """One that hears what this one has heard so far, and from now on by itself."""
        twin = LabelCache()
        twin._of = self._of
        twin._streams = self._streams.copy()
        return twin
