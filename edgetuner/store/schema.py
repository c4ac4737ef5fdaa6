"""The tables, and how to tell that a file has exactly them."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from edgetuner.errors import StoreError

APPLICATION_ID = 0x45445431  # "EDT1"
VERSION = 2


class Stage(IntEnum):
    """Where a window stands: what is awaited of it, and when it may go."""

    PENDING = 0  # awaits its prediction
    UNLABELLED = 1  # predicted
    LABELLED = 2  # predicted
    BARE = 3  # its samples are gone, or were refused
    BARE_LABELLED = 4


# Samples lie apart from the rest, so that a prediction or a label rewrites a page of many small
# rows and not the page of the samples. The database itself computes the stage: it cannot be stale.
_TABLES = (
    "CREATE TABLE task (value TEXT NOT NULL)",
    """CREATE TABLE stream (
        id INTEGER PRIMARY KEY, client TEXT NOT NULL, stream TEXT NOT NULL,
        last_seq INTEGER NOT NULL, accepted INTEGER NOT NULL, refused INTEGER NOT NULL,
        duplicates INTEGER NOT NULL, lost INTEGER NOT NULL, labelled INTEGER NOT NULL,
        published INTEGER NOT NULL,
        UNIQUE (client, stream))""",
    f"""CREATE TABLE window (
        row INTEGER PRIMARY KEY, stream INTEGER NOT NULL, seq INTEGER NOT NULL,
        t_ns INTEGER NOT NULL, crc32 INTEGER NOT NULL, refusal TEXT, held INTEGER NOT NULL,
        label INTEGER, label_t_ns INTEGER, predicted INTEGER, confidence REAL, version TEXT,
        overruled INTEGER,
        stage INTEGER GENERATED ALWAYS AS (CASE
            WHEN NOT held AND label IS NULL THEN {Stage.BARE:d}
            WHEN NOT held THEN {Stage.BARE_LABELLED:d}
            WHEN predicted IS NULL THEN {Stage.PENDING:d}
            WHEN label IS NULL THEN {Stage.UNLABELLED:d}
            ELSE {Stage.LABELLED:d} END) VIRTUAL,
        UNIQUE (stream, seq))""",
    "CREATE INDEX window_stage ON window (stage, row)",
    "CREATE TABLE samples (row INTEGER PRIMARY KEY, x BLOB NOT NULL)",
    """CREATE TABLE early_label (
        stream INTEGER NOT NULL, seq INTEGER NOT NULL,
        label INTEGER NOT NULL, t_ns INTEGER NOT NULL,
        PRIMARY KEY (stream, seq)) WITHOUT ROWID""",
)

# All that are not computed.
WINDOW_COLUMNS = (
    "row, stream, seq, t_ns, crc32, refusal, held, label, label_t_ns, "
    "predicted, confidence, version, overruled"
)


@dataclass(frozen=True)
class Task:
    """What windows and labels mean: without it, a class index is just a number.

    Attributes:
        shape: (C, T) of every window.
        classes: names; a label is an index into them.
    """

    shape: tuple[int, int]
    classes: tuple[str, ...]

    def to_json(self) -> str:
        """One line, equal for equal tasks."""
        return json.dumps({"shape": list(self.shape), "classes": list(self.classes)})


def create(connection: sqlite3.Connection, task: Task) -> None:
    """Makes the tables in the empty database `main`, in one transaction."""
    connection.execute("BEGIN")
    for statement in _TABLES:
        connection.execute(statement)
    connection.execute("INSERT INTO task VALUES (?)", (task.to_json(),))
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.execute("COMMIT")


def verify_identity(connection: sqlite3.Connection, name: str, path: str) -> None:
    """Checks that database `name`, from the file `path`, says it is a store. Writes nothing.

    Raises:
        StoreError: it is something else, or of another version.
    """
    for pragma, wanted in (("application_id", APPLICATION_ID), ("user_version", VERSION)):
        found = _one(connection, f"PRAGMA {name}.{pragma}")
        if found != wanted:
            raise StoreError(
                f"not a store of this version: {pragma} is not {wanted}",
                field=path,
                value=found,
                remedy="choose another path for the store, or move this file away",
            )


def verify(connection: sqlite3.Connection, name: str, path: str, task: Task) -> None:
    """Checks that database `name`, from the file `path`, is whole, and about this task.

    Raises:
        StoreError: it is not.
    """
    query = f"SELECT sql FROM {name}.sqlite_master WHERE sql IS NOT NULL"
    layout = sorted(row[0] for row in connection.execute(query))
    damage = _one(connection, f"PRAGMA {name}.quick_check(1)")
    if layout != sorted(_TABLES) or damage != "ok":
        raise StoreError(
            "the store is damaged",
            field=path,
            value="other tables" if damage == "ok" else damage,
            remedy="restore a copy, or move the file away to begin anew",
        )
    found = _one(connection, f"SELECT value FROM {name}.task")
    if found != task.to_json():
        raise StoreError(
            "the store holds windows of another task",
            field=path,
            value=found,
            remedy=f"use a bundle that fits it, or another path for {task.to_json()}",
        )


def _one(connection: sqlite3.Connection, query: str) -> Any:
    row = connection.execute(query).fetchone()
    return row[0] if row else None
