"""SQLite as the store uses it: transactions, room, and what went wrong in words."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgetuner.errors import StoreError
from edgetuner.store.schema import WINDOW_COLUMNS

_REMEDIES = {
    "disk is full": "free space on this disk, or allow the store less room",
    "is locked": "stop the other edgetuner that uses this store, or choose another path",
    "readonly": "make the file and its folder writable for this user",
    "unable to open": "check that the folder exists and is writable for this user",
    "malformed": "restore a copy, or move the file away to begin anew",
    "not a database": "restore a copy, or move the file away to begin anew",
    "disk I/O error": "check the disk with dmesg and smartctl",
}


class Database:
    """One connection, used by one thread at a time. Made by `files.open_database`.

    Args:
        connection: `main` is the database that is worked on.
        path: for messages.
        copies: the databases that every deletion and every early label has to reach.
    """

    def __init__(self, connection: sqlite3.Connection, path: str, copies: tuple[str, ...]) -> None:
        self._connection = connection
        self._copies = copies
        self.path = path
        self.bytes_written: int | None = 0

    def query(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a SELECT."""
        with translated(self.path):
            return self._connection.execute(sql, values).fetchall()

    def value(self, sql: str, values: Sequence[Any] = ()) -> Any:
        """The first column of the first row of a SELECT; None if there is none."""
        rows = self.query(sql, values)
        return rows[0][0] if rows else None

    def execute(self, sql: str, values: Sequence[Any] = ()) -> int:
        """Runs a statement inside `transaction`; returns how many rows it changed."""
        return self._connection.execute(sql, values).rowcount

    def execute_copies(self, sql: str, values: Sequence[Any] = ()) -> None:
        """Runs a statement, written with `{db}`, inside `transaction`, in every copy."""
        for name in self._copies:
            self._connection.execute(sql.format(db=name), values)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything inside is committed, and on disk, when this returns; or nothing is.

        Raises:
            StoreError: the disk is full or fails. All is undone, and the database usable still.
        """
        with self._count_bytes(), translated(self.path):
            self._connection.execute("BEGIN")
            try:
                yield
                self._connection.execute("COMMIT")
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")

    def used_bytes(self) -> int:
        """Size of the pages in use of `main`; free pages inside the file are not counted."""
        pages = self.value("PRAGMA main.page_count") - self.value("PRAGMA main.freelist_count")
        return int(pages * self.value("PRAGMA main.page_size"))

    def mirror(self, rows: Sequence[int], every: int) -> bool:
        """Brings those of `rows` to `disk` that belong there; says whether there were any.

        They are the labelled ones, and each `every`-th of its stream.
        """
        changed = 0
        for row in rows:
            changed += self.execute(
                f"INSERT OR REPLACE INTO disk.window ({WINDOW_COLUMNS}) "
                f"SELECT {WINDOW_COLUMNS} FROM main.window "
                "WHERE row = ? AND (seq % ? = 0 OR label IS NOT NULL)",
                (row, every),
            )
            self.execute(
                "INSERT OR IGNORE INTO disk.samples SELECT row, x "
                "FROM main.samples JOIN disk.window USING (row) WHERE row = ?",
                (row,),
            )
        return changed > 0

    def mirror_streams(self) -> None:
        """Brings the cursors and counters of all streams to `disk`."""
        self.execute("INSERT OR REPLACE INTO disk.stream SELECT * FROM main.stream")

    def close(self) -> None:
        """Checkpoints and closes; the write-ahead log is gone afterwards."""
        with self._count_bytes(), translated(self.path):
            self._connection.close()

    @contextmanager
    def _count_bytes(self) -> Iterator[None]:
        before = _bytes_written_by_thread()
        try:
            yield
        finally:
            after = _bytes_written_by_thread()
            if before is None or after is None or self.bytes_written is None:
                self.bytes_written = None
            else:
                self.bytes_written += after - before


@contextmanager
def translated(path: str) -> Iterator[None]:
    """Turns what SQLite and the file system raise into StoreError.

    ProgrammingError passes: it is a mistake in this program, not in its surroundings.
    """
    try:
        yield
    except sqlite3.ProgrammingError:
        raise
    except sqlite3.Error as error:
        text = str(error)
        remedy = next((remedy for part, remedy in _REMEDIES.items() if part in text), None)
        raise StoreError(text, field=path, remedy=remedy) from error
    except OSError as error:
        problem = error.strerror or str(error)
        raise StoreError(problem, field=path, remedy=_REMEDIES["unable to open"]) from error


def _bytes_written_by_thread() -> int | None:
    """Bytes this thread caused to be sent to storage (proc(5), io); None without accounting."""
    try:
        text = Path("/proc/thread-self/io").read_text(encoding="ascii")
    except OSError:
        return None
    fields = dict(line.split(": ") for line in text.splitlines())
    return int(fields["write_bytes"])
