"""What somebody said of windows, remembered: it answers for windows like them at once, long before
anything is trained.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgetuner.corrections import Correction
from edgetuner.errors import DriftError
from edgetuner.inference import ModelVersion, Outputs

StreamKey = tuple[str, str]

_NEAR = 0.6  # of the distance of two windows of a class at home: so far a label reaches
_RECENT_NS = 300e9  # by the clock of the sensor: after it a label counts 1/e
_PAST_NS = 5 * _RECENT_NS  # after it a label says nothing
_LABELS = 128  # of a stream, the newest ones by its latest window
_STREAMS = 256  # that somebody labels, the latest ones
_CLOCKS = 4096  # of streams, the latest ones
# How many labels of windows just like it the model's own word is worth, where a window is strange
# to it, and how many more where it is ordinary: so labels that are wrong do little harm at home.
_STRANGE, _ORDINARY = 0.3, 3.0
_TOGETHER = 2.0  # labels, at most: a hundred that disagree must not drown the model
_TRUST = 0.8  # in it rather than in the versions' own word, before labels say which is right
_DOUBT = 0.5  # the same, where others answer than those it corrected
_BACK = 0.05  # of the way to the first of them after every label
_WRONG = 0.2  # of the labels, as in `serving`
_NONE = np.empty(0, np.int64)


class _Said(NamedTuple):
    """Labelled windows of a stream."""

    places: NDArray[np.float32]  # (M, R)
    seqs: NDArray[np.int64]  # (M,)
    t_ns: NDArray[np.int64]  # (M,)
    labels: NDArray[np.int64]  # (M,)

    def with_label(
        self, place: NDArray[np.float32], seq: int, t_ns: int, label: int, now_ns: int
    ) -> _Said:
        """With one more: another label of that window is forgotten, and so are the windows beyond
        `_LABELS` that are farthest from now, before it or, where the clock was set back, after it.
        """
        kept = self.seqs != seq
        times = np.append(self.t_ns[kept], t_ns)
        nearest = np.argsort(np.abs(times - now_ns), kind="stable")[:_LABELS]
        return _Said(
            np.vstack([self.places[kept], place])[nearest],
            np.append(self.seqs[kept], seq)[nearest],
            times[nearest],
            np.append(self.labels[kept], label)[nearest],
        )


class _Clock(NamedTuple):
    """What time it is on a stream, by its windows: of the latest one, and at most."""

    latest: int
    highest: int


class LabelCache:
    """A cache of keys and values beside the network, as for words of a text that come again (Grave,
    Joulin & Usunier 2017, arXiv 1612.04426) or for classes of a few images (Zhang et al. 2022,
    arXiv 2111.03930): the keys are embeddings, the values labels.

    With p the probabilities that the versions give a window together, e its embedding by the
    version that all adaptations go back to, in units in which two windows of a class at home are 1
    apart, and o how ordinary it is to that version (`Reference.ordinary`), what is served is in
    proportion to

        (.3 + 3 o) p + w sum_i exp(-|e - e_i|^2 / (2 * .6^2) - age_i / 300) onehot(label_i)

    over the labelled windows i of the same stream, all of which together count as two labels at
    most; their age is in seconds. The weight w, 1 at first and less after a swap, falls where
    labels say that the versions by themselves are right and this is wrong: who has learned to tell
    apart what looks alike to the first version must not be overruled. So a label speaks for the
    bout it is of and for what looks the same soon afterwards, and for nothing else. Nothing is
    learned for good: that is left to training.

    As long as adaptations go back to the same version a swap leaves the cache as it is; with
    another one it begins anew. It is in memory alone, and for one thread; labels on record can be
    heard again.
    """

    def __init__(self) -> None:
        self._of: str | None = None  # version
        self._streams: OrderedDict[StreamKey, _Said] = OrderedDict()
        self._clocks: OrderedDict[StreamKey, _Clock] = OrderedDict()
        self._trust = _TRUST

    def wants(self, key: StreamKey, t_ns: int) -> bool:
        """Whether a label of a window from that time can still say anything."""
        clock = self._clocks.get(key, _Clock(t_ns, t_ns))
        return min(abs(clock.latest - t_ns), abs(clock.highest - t_ns)) <= _PAST_NS

    def speaks(self, key: StreamKey) -> bool:
        """Whether it says much of what comes on a stream: a label is of a window that came five
        minutes ago at most, by the latest window.
        """
        said, clock = self._streams.get(key), self._clocks.get(key)
        if said is None or clock is None:
            return False
        return bool(np.abs(said.t_ns - clock.latest).min() < _RECENT_NS)

    def relabel(self, key: StreamKey, seq: int, label: int) -> None:
        """Another label for a window that it may have heard of."""
        said = self._streams.get(key)
        if said is not None:
            labels = np.where(said.seqs == seq, label, said.labels)
            self._streams[key] = said._replace(labels=labels)

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
            times: when they began by the clock of their sensor, in nanoseconds.
            labels: class indices.
        """
        if not keys:
            return
        try:
            places = anchor.reference.places(out.embeddings)
        except DriftError:  # a faulty bundle: it has no places
            return
        if anchor.id != self._of:
            self._of = anchor.id
            self._streams.clear()
        for place, key, seq, t_ns, label in zip(places, keys, seqs, times, labels, strict=True):
            if not np.isfinite(place).all():
                continue
            said = self._streams.pop(key, _Said(places[:0], *[_NONE] * 3))
            now_ns = self._clocks.get(key, _Clock(t_ns, t_ns)).latest
            self._streams[key] = said.with_label(place, seq, t_ns, label, now_ns)
        while len(self._streams) > _STREAMS:
            self._streams.popitem(last=False)

    def doubt(self) -> None:
        """Others answer from now on, who may be right where those before were not."""
        self._trust = min(self._trust, _DOUBT)

    def weigh(
        self,
        anchor: ModelVersion,
        out: Outputs,
        keys: Sequence[StreamKey],
        times: Sequence[int],
        labels: Sequence[int],
        probabilities: NDArray[np.float64],
    ) -> None:
        """What labels that it has not heard yet say of it beside the versions' own word, by fixed
        share as in `Serving.told`. Arguments as for `hear` and `corrected`.
        """
        spoken = self._spoken(anchor, out, keys, times, probabilities.shape[1])
        if spoken is None:
            return
        for label, own, its in zip(labels, probabilities, spoken.of(probabilities), strict=True):
            by_labels, by_word = (
                (1 - _WRONG) * given[label] + _WRONG / len(given) for given in (its, own)
            )
            trust = self._trust * by_labels
            trust /= trust + (1 - self._trust) * by_word
            self._trust = trust + _BACK * (_TRUST - trust)

    def correction(
        self,
        anchor: ModelVersion,
        out: Outputs,
        keys: Sequence[StreamKey],
        times: Sequence[int],
        classes: int,
    ) -> Correction | None:
        """How labels of windows like them correct N windows; None where nobody has labelled any of
        these streams. Arguments as for `hear`.
        """
        for key, t_ns in zip(keys, times, strict=True):
            known = self._clocks.pop(key, _Clock(t_ns, t_ns))
            self._clocks[key] = _Clock(t_ns, max(t_ns, known.highest))
        while len(self._clocks) > _CLOCKS:
            self._clocks.popitem(last=False)
        spoken = self._spoken(anchor, out, keys, times, classes)
        if spoken is None:
            return None
        return spoken._replace(speaks=self._trust / _TRUST * spoken.speaks)

    def _spoken(
        self,
        anchor: ModelVersion,
        out: Outputs,
        keys: Sequence[StreamKey],
        times: Sequence[int],
        classes: int,
    ) -> Correction | None:
        """The same where labels are trusted; None where there are no labels, or no places."""
        if anchor.id != self._of or not any(key in self._streams for key in keys):
            return None
        try:
            ordinary = anchor.reference.ordinary(out.embeddings, out.predicted, out.confidence)
            places = anchor.reference.places(out.embeddings)
        except DriftError:  # what the model gave is not finite: there is no place to look at
            return None
        one_hot, speaks = np.eye(classes), np.zeros((len(keys), classes))
        for key in dict.fromkeys(keys):
            said = self._streams.get(key)
            if said is None:
                continue
            rows = [row for row, other in enumerate(keys) if other == key]
            apart = places[rows][:, None] - said.places  # (n, M, R)
            square = np.einsum("nmr,nmr->nm", apart, apart)
            age = np.abs(np.subtract.outer([times[row] for row in rows], said.t_ns))
            near = np.exp(-square / (2 * _NEAR**2) - age / _RECENT_NS)
            near *= _TOGETHER / np.maximum(_TOGETHER, near.sum(axis=1, keepdims=True))
            speaks[rows] = near @ one_hot[said.labels]
        return Correction(_STRANGE + _ORDINARY * ordinary, speaks)

    def copy(self) -> LabelCache:
        """One that hears what this one has heard so far, and from now on by itself."""
        twin = LabelCache()
        twin._of = self._of
        twin._streams, twin._clocks = self._streams.copy(), self._clocks.copy()
        twin._trust = self._trust
        return twin
