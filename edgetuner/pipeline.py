"""Store, predict, watch: the way of a window, shared by the service and by replay.

Storing and predicting live on a thread each, so that the event loop is never held up and neither
waits for the other. SQLite is touched by the first thread alone; who answers and the drift monitor
by the second, which is why a swap between two batches needs no lock.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgetuner.config import Config
from edgetuner.corrections import Correction, Corrections
from edgetuner.drift.monitor import DriftMonitor, Finding, MonitorSettings
from edgetuner.errors import StoreError
from edgetuner.inference import ModelVersion, Outputs
from edgetuner.label_cache import LabelCache
from edgetuner.serving import Answer, Serving
from edgetuner.store import Context, LabelEntry, LabelReceipt, Prediction, Store, Window

_T = TypeVar("_T")
StreamKey = tuple[str, str]
Told = tuple[LabelEntry, LabelReceipt]
_TURN = 16  # labelled windows that are predicted anew between two live batches
_REMEMBERED = 512  # labelled windows that are heard of again after a restart
_SLICE = 64  # windows read while nothing else can be committed: some milliseconds


@dataclass(frozen=True, slots=True)
class Predicted:
    """One window and what is said of it with `version` live; `overruled` is what the versions say
    by themselves, where labels of windows like it made another class of that.
    """

    window: Window
    predicted: int
    confidence: float
    version: str
    again: bool = False
    overruled: int | None = None


class Pipeline:
    """The live path.

    Args:
        store: its thread is this object's from now on.
        serving: who answers.
        monitor: drift detectors of every stream.
        cache: lets labels answer for windows like theirs; None: only the versions answer.
    """

    def __init__(
        self,
        store: Store,
        serving: Serving,
        monitor: DriftMonitor,
        cache: LabelCache | None = None,
    ) -> None:
        self._store = store
        self._serving = serving
        self._monitor = monitor
        self._cache = cache
        self._corrections = Corrections()
        self._store_thread = ThreadPoolExecutor(1, "store")
        self._model_thread = ThreadPoolExecutor(1, "model")

    @property
    def version(self) -> ModelVersion:
        """The live version."""
        return self._serving.version

    @property
    def serving(self) -> Serving:
        """Who answers at present: the live version, and perhaps earlier ones beside it."""
        return self._serving

    async def stored(self, work: Callable[[Store], _T]) -> _T:
        """Does `work` with the store, after everything asked for before it."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._store_thread, work, self._store)

    async def predict(self, windows: Sequence[Window]) -> tuple[list[Predicted], list[Finding]]:
        """Predicts a batch on the live version, watches for drift, and records it.

        Returns:
            The predictions in the order of the windows, already on record, and what the detectors
            found.

        Raises:
            StoreError: they cannot be recorded.
        """
        inferred, findings = await self.infer(windows)
        predicted, more = await self.record(inferred)
        return predicted, findings + more

    async def remember(self) -> None:
        """Lets the cache hear the latest labels on record again, after a restart, and how far they
        are to be trusted.

        Raises:
            StoreError: they cannot be read.
        """
        if self._cache is None:
            return
        streams = await self.stored(lambda store: list(store.streams()))
        said = await self.context(dict.fromkeys(streams, 0), _REMEMBERED, labelled=True)
        for start in range(0, len(said), _TURN):
            places = np.arange(start, min(start + _TURN, len(said)))
            await self.modelled(partial(self._hear_again, said, places))

    def _hear_again(self, said: Context, places: NDArray[np.int64]) -> None:
        serving = self._serving
        outputs = serving.outputs(said.x[places])
        rows = np.flatnonzero(said.version[places] == serving.version.id)
        self._keep(
            outputs[serving.anchor_index],
            [said.keys[stream] for stream in said.stream[places].tolist()],
            said.seq[places].tolist(),
            said.t_ns[places].tolist(),
            said.y[places].tolist(),
            rows,
            serving.mixed(outputs)[rows],
        )

    async def infer(self, windows: Sequence[Window]) -> tuple[list[Predicted], list[Finding]]:
        """Predicts a batch on the live version and watches for drift; nothing is on record yet."""
        return await self.modelled(lambda: self._predict_and_watch(windows))

    async def label(
        self, entries: Sequence[LabelEntry]
    ) -> tuple[list[LabelReceipt], list[Finding]]:
        """Stores labels that came after their windows, and hears what they say of those who answer.

        A label given a second time, or to a window of another version, is no further evidence.

        Raises:
            StoreError: they cannot be stored; none was.
        """
        receipts = await self.stored(lambda store: store.add_labels(entries))
        told = [
            (entry, receipt)
            for entry, receipt in zip(entries, receipts, strict=True)
            if receipt.outcome in ("stored", "replaced") and receipt.predicted is not None
        ]
        return receipts, await self._hear(told)

    async def _hear(self, told: Sequence[Told]) -> list[Finding]:
        """What labels say of those who answer, each told once, and of windows like theirs."""
        if not told:
            return []
        alone = not self._serving.beside
        findings, telling = await self.modelled(lambda: self._sift(told, alone))
        for start in range(0, len(telling), _TURN):
            some = telling[start : start + _TURN]
            rows = [receipt.row for _, receipt in some if receipt.row is not None]
            try:
                seen = await self.stored(partial(_reread, rows=rows))
            except StoreError:  # they are on record; what they say of anybody is lost, and no more
                continue
            findings += await self.modelled(partial(self._look_again, some, seen, alone))
        return findings

    def _sift(self, told: Sequence[Told], alone: bool) -> tuple[list[Finding], list[Told]]:
        """Watches the live version if it answers alone; and those labels of which the windows are
        worth another look, one of each window.
        """
        findings = self._watch_labels(told) if alone else []
        first = {receipt.row: (entry, receipt) for entry, receipt in reversed(told)}
        return findings, [
            (entry, receipt)
            for entry, receipt in reversed(first.values())
            if (not alone and self._weighs(receipt))
            or (
                self._cache is not None
                and self._cache.wants((entry.client, entry.stream), receipt.t_ns)
            )
        ]

    def _weighs(self, receipt: LabelReceipt) -> bool:
        """Whether it is the first label of a window that those who answer now have answered."""
        return receipt.outcome == "stored" and receipt.version == self._serving.version.id

    def _look_again(
        self,
        told: Sequence[Told],
        seen: tuple[NDArray[np.float32], NDArray[np.bool_], dict[int, int]],
        alone: bool,
    ) -> list[Finding]:
        """Keeps labels in the cache, as they stand on record, with what is `seen` of their windows;
        and where more than one answers, lets them weigh those and watches the live one.
        """
        x, held, labels = seen
        for (entry, receipt), is_held in zip(told, held, strict=True):
            if self._cache is not None and not is_held:  # pruned, and perhaps heard of before
                label = labels.get(receipt.row or 0, entry.label)
                self._cache.relabel((entry.client, entry.stream), entry.seq, label)
        told = [one for one, is_held in zip(told, held, strict=True) if is_held]
        if not told:
            return []
        rows = np.array([i for i, (_, r) in enumerate(told) if self._weighs(r)], np.int64)
        serving, x = self._serving, x[held]
        outputs = serving.outputs(x) if len(rows) else []
        self._keep(
            outputs[serving.anchor_index] if outputs else serving.anchor.predict(x),
            [(entry.client, entry.stream) for entry, _ in told],
            [entry.seq for entry, _ in told],
            [receipt.t_ns for _, receipt in told],
            [labels.get(receipt.row or 0, entry.label) for entry, receipt in told],
            rows,
            serving.mixed(outputs)[rows] if outputs else None,
        )
        if alone or not outputs:
            return []
        y = np.array([told[row][0].label for row in rows], np.int64)
        self._serving = serving.told([out.take(rows) for out in outputs], y)
        by_itself = outputs[0].predicted[rows].tolist()
        return self._watch_labels(
            [
                (told[row][0], replace(told[row][1], predicted=k))
                for row, k in zip(rows.tolist(), by_itself, strict=True)
            ]
        )

    def _keep(
        self,
        out: Outputs,
        keys: Sequence[StreamKey],
        seqs: Sequence[int],
        times: Sequence[int],
        labels: Sequence[int],
        rows: NDArray[np.int64],
        own: NDArray[np.float64] | None,
    ) -> None:
        """Lets the cache hear labels of windows of which the anchor says `out`; and those in `rows`
        say whether it or the versions' `own` probabilities are right.
        """
        if self._cache is None:
            return
        anchor = self._serving.anchor
        if own is not None:
            self._cache.weigh(
                anchor,
                out.take(rows),
                [keys[row] for row in rows],
                [times[row] for row in rows],
                [labels[row] for row in rows],
                own,
            )
        self._cache.hear(anchor, out, keys, seqs, times, labels)

    def _watch_labels(self, told: Sequence[Told]) -> list[Finding]:
        findings: list[Finding] = []
        for entry, receipt in told:
            if receipt.outcome != "stored":  # a second label of a window is no further evidence
                continue
            if receipt.version == self._serving.version.id and receipt.predicted is not None:
                key = (entry.client, entry.stream)
                findings += self._monitor.label(key, entry.seq, entry.label, receipt.predicted)
        return findings

    async def record(self, predicted: Sequence[Predicted]) -> tuple[list[Predicted], list[Finding]]:
        """Puts predictions on record and returns those that are the first of their window, and what
        is found by labels that were quicker than they.

        Raises:
            StoreError: the disk is full or fails; nothing is on record, and it may be tried again.
        """
        rows = [p.window.row for p in predicted]

        def recorded(store: Store) -> tuple[list[bool], dict[int, int]]:
            labels = store.labels(rows)  # those that come from here on find a prediction
            return store.record(
                Prediction(p.window.row, p.predicted, p.confidence, p.version, p.overruled)
                for p in predicted
            ), labels

        first, labels = await self.stored(recorded)
        known = [p for p, new in zip(predicted, first, strict=True) if new]
        return known, await self._hear([_quicker(p, labels) for p in known if _news(p, labels)])

    async def unpublished(self) -> list[Predicted]:
        """Predictions on record that may not have gone out before a crash."""
        recorded = await self.stored(lambda store: store.unpublished())
        return [
            Predicted(
                r.window,
                r.prediction.predicted,
                r.prediction.confidence,
                r.prediction.version,
                True,
                r.prediction.overruled,
            )
            for r in recorded
        ]

    async def context(
        self, starts: Mapping[StreamKey, int], limit: int, *, labelled: bool = False
    ) -> Context:
        """`Store.context`, its samples read a few at a time, so that commits go on in between.

        Windows that show a fault of the sensor are left out. That a fault stood is forgotten at a
        restart, and one too short to be reported is never noted: the samples still tell.
        """
        outline = await self.stored(
            lambda store: store.context(starts, limit, labelled=labelled, with_samples=False)
        )
        rows = outline.row.tolist()
        parts = []
        for start in range(0, len(rows), _SLICE):
            some = rows[start : start + _SLICE]
            x, held = await self.stored(lambda store, some=some: store.samples(some))  # type: ignore[misc]
            sound = await self.watched(lambda monitor, x=x: monitor.sound(x))  # type: ignore[misc]
            parts.append((x, held & sound))
        if not parts:
            return outline
        x, usable = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return replace(outline, x=x).take(usable)

    async def published(self, predicted: Sequence[Predicted]) -> None:
        """Notes that these predictions went out; it reaches the disk with the next commit."""
        newest = {(p.window.client, p.window.stream): p.window.seq for p in predicted}
        await self.stored(lambda store: store.mark_published(newest))

    async def swap(self, serving: Serving) -> Serving:
        """Lets others answer from the next batch on, watched by the drift reference of their live
        version; returns who answered before.
        """
        return await self.modelled(lambda: self._swap(serving))

    async def proven(self) -> None:
        """The live version has proved itself: of those before it only the first one is still asked,
        from the next batch on.
        """
        await self.modelled(self._proven)

    async def labelled(self, keys: Iterable[StreamKey]) -> set[StreamKey]:
        """On which of these streams labels answer beside the versions at present."""
        cache = self._cache
        if cache is None:
            return set()
        return await self.modelled(lambda: {key for key in keys if cache.speaks(key)})

    async def corrections(self, rows: Sequence[int]) -> Correction:
        """How labels corrected the answers to the windows in these rows of the store; what was too
        long ago is forgotten, and corrects nothing.
        """
        classes = len(self.version.classes)
        return await self.modelled(lambda: self._corrections.of(rows, classes))

    async def would_serve(
        self, serving: Serving, x: NDArray[np.float32], rows: Sequence[int]
    ) -> NDArray[np.int64]:
        """The classes, (N,), that others would have served for windows x (N, C, T) in these rows of
        the store, with the labels that were known when they came.
        """

        def ask() -> NDArray[np.int64]:
            mixed = serving.mixed(serving.outputs(x))
            return Answer.of(self._corrections.of(rows, mixed.shape[1]).of(mixed)).predicted

        return await self.modelled(ask)

    async def watched(self, work: Callable[[DriftMonitor], _T]) -> _T:
        """Does `work` with the drift monitor, between two batches."""
        return await self.modelled(lambda: work(self._monitor))

    async def modelled(self, work: Callable[[], _T]) -> _T:
        """Does `work` on the model's thread, between two batches."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._model_thread, work)

    async def close(self) -> None:
        """Waits for what is under way, then closes the store."""
        await self.modelled(lambda: None)
        await self.stored(lambda store: store.close())
        self._model_thread.shutdown()
        self._store_thread.shutdown()

    def _predict_and_watch(
        self, windows: Sequence[Window]
    ) -> tuple[list[Predicted], list[Finding]]:
        serving = self._serving
        x = np.stack([window.x for window in windows])
        outputs = serving.outputs(x)
        out, mixed = outputs[0], serving.mixed(outputs)
        keys = [(window.client, window.stream) for window in windows]
        seqs = [window.seq for window in windows]
        by_versions = answer = Answer.of(mixed)
        if self._cache is not None:
            seen, times = outputs[serving.anchor_index], [window.t_ns for window in windows]
            found = self._cache.correction(serving.anchor, seen, keys, times, mixed.shape[1])
            if found is not None:
                answer = Answer.of(found.of(mixed))
                self._corrections.note([window.row for window in windows], found)
        findings = self._monitor.update_many(
            keys,
            seqs,
            x,
            out.embeddings,
            out.predicted,
            out.confidence,
            labels=[window.label for window in windows],
        )
        known = np.array([i for i, w in enumerate(windows) if w.label is not None], np.int64)
        labels = np.array([windows[i].label for i in known], np.int64)
        heard = [out.take(known) for out in outputs]
        self._serving = serving.told(heard, labels)
        labelled = [windows[i] for i in known]
        self._keep(
            heard[serving.anchor_index],
            [(window.client, window.stream) for window in labelled],
            [window.seq for window in labelled],
            [window.t_ns for window in labelled],
            labels.tolist(),
            np.arange(len(known)),
            mixed[known],
        )
        answers = zip(
            windows,
            answer.predicted.tolist(),
            answer.confidence.tolist(),
            by_versions.predicted.tolist(),
            strict=True,
        )
        return [
            Predicted(
                window,
                label,
                confidence,
                serving.version.id,
                overruled=None if label == alone else alone,
            )
            for window, label, confidence, alone in answers
        ], findings

    def _proven(self) -> None:
        self._serving = self._serving.proven()

    def _swap(self, serving: Serving) -> Serving:
        self._monitor.swap(serving.version.reference)  # which may refuse it
        previous, self._serving = self._serving, serving
        if self._cache is not None:
            self._cache.doubt()
        return previous


def _reread(
    store: Store, rows: Sequence[int]
) -> tuple[NDArray[np.float32], NDArray[np.bool_], dict[int, int]]:
    """Samples of rows, which of them are still held, and their labels."""
    return (*store.samples(rows), store.labels(rows))


def _news(one: Predicted, labels: Mapping[int, int]) -> bool:
    """Whether a window has got another label since it was read for its prediction."""
    return labels.get(one.window.row) not in (None, one.window.label)


def _quicker(one: Predicted, labels: Mapping[int, int]) -> Told:
    """That label, as if it had come after the prediction."""
    window, by_versions = one.window, one.predicted if one.overruled is None else one.overruled
    return (
        LabelEntry(window.client, window.stream, window.seq, labels[window.row], 0),
        LabelReceipt(
            "stored" if window.label is None else "replaced",
            True,
            window.row,
            by_versions,
            one.version,
            window.t_ns,
        ),
    )


def watch_with(config: Config, version: ModelVersion) -> DriftMonitor:
    """The drift monitor of a version, as configured."""
    return DriftMonitor(
        version.reference,
        # The store bounds the streams; one that it knows from before must not be turned away here.
        MonitorSettings(max_streams=sys.maxsize),
        version.sensor if config.drift.sensor_faults else None,
    )


def describe_finding(finding: Finding) -> dict[str, Any]:
    """JSON-compatible values of a finding; what it has not is left out."""
    about = asdict(finding) | {"key": "/".join(finding.key)}
    return {name: value for name, value in about.items() if value is not None}
