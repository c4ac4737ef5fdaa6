"""The streams as one transaction sees them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from edgetuner.store.records import Entry, Key, StreamState


class Change:
    """What a transaction is about to change; the store takes it over once it is committed.

    Args:
        streams: as they are, and stay if the transaction is undone.
        next_row: the first row number that is free.

    Attributes:
        streams: those that were looked at, as copies.
        rows: written to, so far.
        early: an early label was written.
    """

    def __init__(self, streams: Mapping[Key, StreamState], next_row: int) -> None:
        self._before = streams
        self.streams: dict[Key, StreamState] = {}
        self.rows: list[int] = []
        self.early = False
        self.next_row = next_row

    @property
    def must_commit(self) -> bool:
        """False where only counters changed: they can wait, and spare the disk a commit."""
        return bool(self.rows) or self.early

    def stream(self, key: Key) -> StreamState | None:
        """The stream, to be changed; None where no window of it ever came."""
        if key not in self.streams and key in self._before:
            self.streams[key] = replace(self._before[key])
        return self.streams.get(key)

    def begin(self, entry: Entry) -> StreamState:
        """A new stream, of which `entry` is the first window."""
        # Streams are never removed, so that their number is an id nobody has.
        stream = StreamState(self.count(), entry.client, entry.stream, last_seq=entry.seq - 1)
        self.streams[entry.key] = stream
        return stream

    def count(self) -> int:
        """How many streams there are."""
        return len(self._before) + sum(key not in self._before for key in self.streams)

    def new_row(self) -> int:
        """A row number for a window that is written."""
        row = self.next_row
        self.next_row += 1
        self.rows.append(row)
        return row
