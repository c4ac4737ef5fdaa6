"""The store: what is held of every stream, and what was said of it.

Synchronous, and used by one thread at a time. Every method that writes is one transaction: what it
answers is on disk when it returns, or it raises StoreError and nothing has changed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgetuner.errors import StoreError, UsageError
from edgetuner.store import retention, rows
from edgetuner.store.change import Change
from edgetuner.store.database import Database
from edgetuner.store.files import open_database
from edgetuner.store.intake import Intake
from edgetuner.store.records import (
    Context,
    Durability,
    Entry,
    Key,
    LabelEntry,
    LabelReceipt,
    Prediction,
    Receipt,
    Recorded,
    StreamState,
    Window,
)
from edgetuner.store.schema import Stage, Task

_DAY_S = 86_400.0
_LAST_SEQ = 2**63 - 1
_MIN_RATE_S = 60.0  # what is written sooner tells more of the start than of the day


class Store:
    """Windows, labels and predictions. Made by `Store.open`."""

    def __init__(
        self,
        database: Database,
        task: Task,
        *,
        durability: Durability,
        sample_every: int,
        max_bytes: int,
        max_streams: int,
        clock_s: Callable[[], float],
    ) -> None:
        self._database = database
        self._task = task
        self._sampled = durability == "sampled"
        self._sample_every = sample_every
        self._max_bytes = max_bytes
        self._clock_s = clock_s
        self._opened_s = clock_s()
        self._closed = False
        self._intake = Intake(
            database,
            task,
            durability=durability,
            sample_every=sample_every,
            max_streams=max_streams,
        )
        self._streams = self._read_streams()
        self._unsaved: set[Key] = set()  # streams whose counters go with the next commit
        self._next_row: int = database.value("SELECT ifnull(max(row), 0) + 1 FROM main.window")

    @classmethod
    def open(
        cls,
        path: Path | None,
        *,
        shape: tuple[int, int],
        classes: Sequence[str],
        durability: Durability = "all",
        sample_every: int = 10,
        max_bytes: int = 512 << 20,
        max_streams: int = 256,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> Store:
        """Opens the store in `path`, or makes it; the folder has to be there.

        Args:
            path: the file, for this process alone, mode 0600; not used for `memory`.
            shape: (C, T) of every window.
            classes: their names; labels and predictions are indices into them.
            durability: `all`: windows, labels and predictions are on disk (fsync) before a call
                returns. `sampled`: labelled windows, and each `sample_every`-th of a stream; the
                rest is in memory. `memory`: nothing is.
            sample_every: for `sampled`.
            max_bytes: room for all windows, in the file or in memory; the oldest go first.
            max_streams: further streams are answered `busy`.
            clock_s: monotonic seconds, for `bytes_written_per_day`.

        Raises:
            StoreError: the file cannot be opened or made, another process uses it, it is damaged,
                or it holds windows of another shape or other classes. It is never replaced.
        """
        if path is None and durability != "memory":
            raise UsageError(
                "a store on disk needs a path",
                field="durability",
                value=durability,
                remedy="give a path, or use memory",
            )
        task = Task(shape, tuple(classes))
        return cls(
            open_database(path, task, durability),
            task,
            durability=durability,
            sample_every=sample_every,
            max_bytes=max_bytes,
            max_streams=max_streams,
            clock_s=clock_s,
        )

    # ------------------------------------------------------------------ windows and labels come in

    def add(self, entries: Iterable[Entry]) -> list[Receipt]:
        """Stores windows in the order given; returns a receipt for each, in that order.

        Raises:
            StoreError: the disk is full or fails, or the store is full of windows that await their
                prediction. Nothing was stored.
            UsageError: a window has another shape, or a number does not fit 64 bits.
            LabelError: a label is not the index of a class.
        """
        self._make_room()
        with self._commit() as change:
            return [self._intake.add(entry, change) for entry in entries]

    def add_labels(self, entries: Iterable[LabelEntry]) -> list[LabelReceipt]:
        """Joins labels to their windows by (client, stream, seq); the last to arrive counts.

        Raises:
            StoreError: the disk is full or fails. No label was stored.
            LabelError: a label is not the index of a class. No label was stored.
        """
        with self._commit() as change:
            return [self._intake.label(entry, change) for entry in entries]

    def cursors(self, client: str) -> dict[str, int]:
        """Stream -> the last seq consumed, of one client."""
        return {s.stream: s.last_seq for s in self._streams.values() if s.client == client}

    def next_seqs(self) -> dict[Key, int]:
        """The seq that every stream goes on with, as far as there is one."""
        return {key: min(s.last_seq + 1, _LAST_SEQ) for key, s in self._streams.items()}

    def streams(self) -> dict[Key, StreamState]:
        """Cursor and counters of every stream, as copies."""
        return {key: replace(stream) for key, stream in self._streams.items()}

    # ------------------------------------------------------------------ predictions go out

    def record(self, predictions: Iterable[Prediction | tuple[int, int, float, str]]) -> list[bool]:
        """Records predictions. To be called in order of `row`, before they are published.

        Returns:
            True where it is the first for its window. False where it was refused, since the window
            has one, can have none, or is unknown: then it must not be published.

        Raises:
            StoreError: the disk is full or fails. Nothing was recorded.
            UsageError: a class index or a confidence that is none. Nothing was recorded.
        """
        with self._commit() as change:
            return [self._record(Prediction(*prediction), change) for prediction in predictions]

    def unpredicted(self, limit: int, *, after: int = 0) -> list[Window]:
        """The oldest `limit` windows beyond row `after` without a prediction, in order of `row`."""
        return rows.unpredicted(self._database, self._task, limit, after)

    def unpublished(self) -> list[Recorded]:
        """Recorded predictions that are not known to have been published, in order of `row`.

        After a crash some of them may have been: whoever publishes them says so.
        """
        return rows.unpublished(self._database, self._task, self._streams.values())

    def mark_published(self, up_to: Mapping[Key, int]) -> None:
        """Notes that the predictions of each of these streams were published up to this seq.

        Costs nothing: it goes to disk with the next commit, or on closing. A crash before that
        makes them `unpublished` again.
        """
        for key, seq in up_to.items():
            stream = self._streams[key]
            if seq > stream.published:
                stream.published = seq
                self._unsaved.add(key)

    # ------------------------------------------------------------------ an adaptation asks

    def context(
        self,
        starts: Mapping[Key, int],
        limit: int,
        *,
        labelled: bool = False,
        with_samples: bool = True,
    ) -> Context:
        """The newest predicted windows of some streams, each from a seq on.

        Args:
            starts: stream -> first seq that is wanted; streams not named are left out.
            limit: at most this many over all streams, the newest, returned in order of arrival.
            labelled: only windows with a label.
            with_samples: without, `x` is empty; `samples` gives them, a few at a time.
        """
        return rows.context(
            self._database,
            self._task,
            self._ids(),
            starts,
            limit,
            labelled=labelled,
            with_samples=with_samples,
        )

    def samples(self, of: Sequence[int]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Samples (N, C, T) of some rows, and which of them are still held (N,)."""
        return rows.samples(self._database, self._task, of)

    def labels(self, of: Sequence[int]) -> dict[int, int]:
        """Class index of those of some rows that have a label."""
        return rows.labels(self._database, of)

    def count_labels(self, starts: Mapping[Key, int]) -> NDArray[np.int64]:
        """Labelled windows per class, (K,), among those that `context` would return."""
        return rows.count_labels(self._database, self._task, self._ids(), starts)

    # ------------------------------------------------------------------ upkeep

    def prune(self) -> int:
        """Makes room if there is need, as `add` does; returns how many windows lost samples."""
        window_bytes = 4 * math.prod(self._task.shape)
        return retention.prune(self._database, self._max_bytes, window_bytes)

    @property
    def used_bytes(self) -> int:
        """Room taken, to be compared with `max_bytes`."""
        return self._database.used_bytes()

    @property
    def bytes_written(self) -> int | None:
        """Bytes sent to storage since opening, as the kernel counts them; None where it does not.

        Whole pages of the log and of the file, without the file system's own journal.
        """
        return self._database.bytes_written

    def bytes_written_per_day(self) -> float | None:
        """`bytes_written` as a rate; None in the first minute, or without a count."""
        elapsed_s = self._clock_s() - self._opened_s
        if self.bytes_written is None or elapsed_s < _MIN_RATE_S:
            return None
        return self.bytes_written * _DAY_S / elapsed_s

    def close(self) -> None:
        """Writes what is left to write, and gives the file free. Closing twice does no harm.

        Raises:
            StoreError: the disk is full or fails. The file is closed nevertheless.
        """
        if self._closed:
            return
        self._closed = True
        try:
            with self._database.transaction():
                self._save({key: self._streams[key] for key in self._unsaved})
                if self._sampled:
                    self._database.mirror_streams()
        finally:
            self._database.close()

    # ------------------------------------------------------------------ inside

    def _read_streams(self) -> dict[Key, StreamState]:
        streams = [StreamState(*row) for row in self._database.query("SELECT * FROM main.stream")]
        return {(s.client, s.stream): replace(s, rejoining=self._sampled) for s in streams}

    @contextmanager
    def _commit(self) -> Iterator[Change]:
        """A transaction. The store's own view of the streams follows once it is on disk."""
        change = Change(self._streams, self._next_row)
        with self._database.transaction():
            yield change
            if change.must_commit:
                self._save({key: self._streams[key] for key in self._unsaved} | change.streams)
                if self._sampled:
                    self._mirror(change)
        self._unsaved = set() if change.must_commit else self._unsaved | change.streams.keys()
        self._streams |= change.streams
        self._next_row = change.next_row

    def _save(self, streams: Mapping[Key, StreamState]) -> None:
        for stream in streams.values():
            self._database.execute(
                "INSERT OR REPLACE INTO main.stream VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                astuple(stream)[:10],
            )

    def _mirror(self, change: Change) -> None:
        """Streams go to disk with what belongs to them, and not with every commit."""
        if self._database.mirror(change.rows, self._sample_every) or change.early:
            self._database.mirror_streams()

    def _record(self, prediction: Prediction, change: Change) -> bool:
        row, predicted, confidence, version, overruled = prediction
        said = predicted if overruled is None else overruled
        classes = range(len(self._task.classes))
        if not (predicted in classes and said in classes and math.isfinite(confidence)):
            raise UsageError(
                "not a prediction of this task",
                field="prediction",
                value=prediction,
                remedy=f"give a class below {len(self._task.classes)} and a finite confidence",
            )
        first = self._database.execute(
            "UPDATE main.window SET predicted = ?, confidence = ?, version = ?, "
            "overruled = ? WHERE row = ? AND stage = ?",
            (predicted, confidence, version, overruled, row, Stage.PENDING),
        )
        if first:
            change.rows.append(row)
        return bool(first)

    def _make_room(self) -> None:
        self.prune()
        used = self.used_bytes
        if used > self._max_bytes:
            raise StoreError(
                "full of windows that await their prediction",
                field=self._database.path,
                value=f"{used} of {self._max_bytes} bytes",
                remedy="send again later, or allow the store more room",
            )

    def _ids(self) -> dict[Key, int]:
        return {key: stream.id for key, stream in self._streams.items()}
