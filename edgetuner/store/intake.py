"""One window, or one label, comes in: is it the next, and if not, what is it?"""

from __future__ import annotations

import numpy as np

from edgetuner.errors import LabelError, UsageError
from edgetuner.store.change import Change
from edgetuner.store.database import Database
from edgetuner.store.records import (
    Durability,
    Entry,
    LabelEntry,
    LabelReceipt,
    Receipt,
    StreamState,
)
from edgetuner.store.rows import window
from edgetuner.store.schema import Task

_EARLY_SEQS = 4096  # how far ahead of its window a label may come: bounds what a client can pile up
_INT64 = range(-(2**63), 2**63)


class Intake:
    """Writes windows and labels, inside a transaction of its caller's.

    Args:
        sample_every: of `sampled`: each window whose seq is a multiple of it goes to disk.
        max_streams: further streams are answered `busy`.
    """

    def __init__(
        self,
        database: Database,
        task: Task,
        *,
        durability: Durability,
        sample_every: int,
        max_streams: int,
    ) -> None:
        self._database = database
        self._task = task
        self._durability = durability
        self._sample_every = sample_every
        self._max_streams = max_streams

    def add(self, entry: Entry, change: Change) -> Receipt:
        """Stores a window if it is the next of its stream."""
        samples = self._encode(entry)
        stream = change.stream(entry.key)
        if stream is None:
            if change.count() >= self._max_streams:
                return Receipt("busy", entry.seq)
            stream = change.begin(entry)
        if entry.seq <= stream.last_seq:
            stream.duplicates += 1
            return self._again(entry, stream)
        lost = entry.seq - stream.last_seq - 1
        if lost and not (entry.plain or stream.rejoining):
            return Receipt("gap", stream.last_seq + 1)
        return self._insert(entry, samples, lost, stream, change)

    def label(self, entry: LabelEntry, change: Change) -> LabelReceipt:
        """Joins a label to its window, or keeps it until that comes."""
        self._check_class(entry.label)
        stream = change.stream(entry.key)
        if stream is None:
            return LabelReceipt("unknown_stream")
        if entry.seq > stream.last_seq:
            return self._label_early(entry, stream, change)
        found = self._database.query(
            "SELECT row, refusal, label, coalesce(overruled, predicted), version, t_ns "
            "FROM main.window WHERE stream = ? AND seq = ?",
            (stream.id, entry.seq),
        )
        if not found:
            return LabelReceipt("expired")
        row, refusal, before, *of_window = found[0]
        if refusal is not None:
            return LabelReceipt("refused")
        durable = self._durability != "memory"
        if before == entry.label:
            return LabelReceipt("duplicate", durable, row, *of_window)
        self._database.execute(
            "UPDATE main.window SET label = ?, label_t_ns = ? WHERE row = ?",
            (entry.label, entry.t_ns, row),
        )
        change.rows.append(row)
        if before is None:
            stream.labelled += 1
            return LabelReceipt("stored", durable, row, *of_window)
        return LabelReceipt("replaced", durable, row, *of_window)

    def _again(self, entry: Entry, stream: StreamState) -> Receipt:
        expected = stream.last_seq + 1
        found = self._database.query(
            "SELECT crc32, refusal, label FROM main.window WHERE stream = ? AND seq = ?",
            (stream.id, entry.seq),
        )
        if not found:
            return Receipt("expired", expected)
        crc32, refusal, label = found[0]
        if crc32 != entry.crc32 or (refusal is not None and entry.refusal is None):
            return Receipt("conflict", expected)
        durable = self._on_disk(entry.seq, label)
        return Receipt("duplicate" if refusal is None else "refused", expected, durable=durable)

    def _insert(
        self, entry: Entry, samples: bytes, lost: int, stream: StreamState, change: Change
    ) -> Receipt:
        row = change.new_row()
        held = entry.refusal is None
        label = self._first_label(entry, lost, stream)
        self._database.execute(
            "INSERT INTO main.window "
            "(row, stream, seq, t_ns, crc32, refusal, held, label, label_t_ns) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (row, stream.id, entry.seq, entry.t_ns, entry.crc32, entry.refusal, held, *label),
        )
        stream.last_seq = entry.seq
        stream.lost += lost
        stream.rejoining = False
        durable = self._on_disk(entry.seq, label[0])
        if not held:
            stream.refused += 1
            return Receipt("refused", entry.seq + 1, lost, durable)
        self._database.execute("INSERT INTO main.samples VALUES (?, ?)", (row, samples))
        stream.accepted += 1
        stream.labelled += label[0] is not None
        stored = window(
            (row, entry.client, entry.stream, entry.seq, entry.t_ns, samples, label[0]), self._task
        )
        return Receipt("stored", entry.seq + 1, lost, durable, stored)

    def _first_label(
        self, entry: Entry, lost: int, stream: StreamState
    ) -> tuple[int | None, int | None]:
        """Label and t_ns a window begins with; early ones up to it go, used or without a window."""
        early = self._database.query(
            "SELECT label, t_ns FROM main.early_label WHERE stream = ? AND seq = ?",
            (stream.id, entry.seq),
        )
        if early or lost:
            self._database.execute_copies(
                "DELETE FROM {db}.early_label WHERE stream = ? AND seq <= ?",
                (stream.id, entry.seq),
            )
        if entry.refusal is not None:
            return None, None
        if entry.label is None:
            return (early[0][0], early[0][1]) if early else (None, None)
        self._check_class(entry.label)
        return entry.label, entry.t_ns

    def _label_early(self, entry: LabelEntry, stream: StreamState, change: Change) -> LabelReceipt:
        if entry.seq > stream.last_seq + _EARLY_SEQS:
            return LabelReceipt("too_early")
        before = self._database.query(
            "SELECT label FROM main.early_label WHERE stream = ? AND seq = ?",
            (stream.id, entry.seq),
        )
        durable = self._durability != "memory"
        if before == [(entry.label,)]:
            return LabelReceipt("duplicate", durable)
        self._database.execute_copies(
            "INSERT OR REPLACE INTO {db}.early_label VALUES (?, ?, ?, ?)",
            (stream.id, entry.seq, entry.label, entry.t_ns),
        )
        change.early = True
        return LabelReceipt("replaced" if before else "early", durable)

    def _on_disk(self, seq: int, label: int | None) -> bool:
        """Whether a window is on disk once it is committed; says what `Database.mirror` does."""
        if self._durability == "sampled":
            return seq % self._sample_every == 0 or label is not None
        return self._durability == "all"

    def _encode(self, entry: Entry) -> bytes:
        """The samples as they are stored: little-endian float32, row by row."""
        if entry.seq < 0 or entry.seq not in _INT64 or entry.t_ns not in _INT64:
            raise UsageError(
                "does not fit 64 bits, or is negative",
                field="seq, t_ns",
                value=(entry.seq, entry.t_ns),
                remedy="check the header before storing",
            )
        if entry.refusal is not None:
            return b""
        if entry.x is None or entry.x.shape != self._task.shape or entry.x.dtype != np.float32:
            raise UsageError(
                "not a window of this task",
                field="x",
                value=None if entry.x is None else (entry.x.shape, str(entry.x.dtype)),
                remedy=f"give float32 {self._task.shape}, or a refusal",
            )
        return entry.x.astype("<f4", copy=False).tobytes()

    def _check_class(self, label: int) -> None:
        if not 0 <= label < len(self._task.classes):
            raise LabelError(
                "not the index of a class",
                field="label",
                value=label,
                remedy=f"give 0 to {len(self._task.classes) - 1}",
            )
