"""Opening a store: three arrangements of one set of tables.

all       main = the file
sampled   main = memory, `disk` = the file, which holds part of the rows
memory    main = memory
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

from edgetuner.errors import StoreError
from edgetuner.store.database import Database, translated
from edgetuner.store.records import Durability
from edgetuner.store.schema import WINDOW_COLUMNS, Task, create, verify, verify_identity

_JOURNAL_LIMIT_BYTES = 16 << 20


def open_database(path: Path | None, task: Task, durability: Durability) -> Database:
    """Opens a store, and makes it where there is none.

    Raises:
        StoreError: the file cannot be opened or made, another process uses it, it is damaged, or
            it is a store of something else. It is left as it is.
    """
    if path is None or durability == "memory":
        connection = _connect(":memory:")
        create(connection, task)
        return Database(connection, "memory", ("main",))
    with translated(str(path)):
        _make_if_absent(path, task)
        if durability == "all":
            return Database(_open_file(path, task), str(path), ("main",))
        return Database(_open_sampled(path, task), str(path), ("main", "disk"))


def _open_file(path: Path, task: Task) -> sqlite3.Connection:
    connection = _connect(_uri(path))
    try:
        _prepare(connection, "main", path, task)
    except (sqlite3.Error, OSError, StoreError):
        connection.close()
        raise
    return connection


def _open_sampled(path: Path, task: Task) -> sqlite3.Connection:
    connection = _connect(":memory:")
    try:
        create(connection, task)
        connection.execute("ATTACH ? AS disk", (_uri(path),))
        _prepare(connection, "disk", path, task)
        _load(connection)
    except (sqlite3.Error, OSError, StoreError):
        connection.close()
        raise
    return connection


def _uri(path: Path) -> str:
    """Says that SQLite may not make the file: an absent one is made by us, whole."""
    return f"{path.absolute().as_uri()}?mode=rw"


def _connect(target: str) -> sqlite3.Connection:
    """Without a check of the thread: who opens a store may hand it to the thread that uses it."""
    return sqlite3.connect(
        target, uri=True, isolation_level=None, timeout=0, check_same_thread=False
    )


def _make_if_absent(path: Path, task: Task) -> None:
    """Makes a store under another name first, so that the file at `path` is never a half-made one.

    That is why an empty file there counts as damaged: it was a store, and its content is lost.
    """
    if path.exists():
        return
    log = _log(path)
    if log.exists():  # SQLite would replay it into the new file, or throw it away
        raise StoreError(
            "a write-ahead log lies here without its store",
            field=str(log),
            remedy="put the store back beside it, or move the log away to begin anew",
        )
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
    os.close(handle)
    try:
        with closing(_connect(name)) as connection:
            create(connection, task)
            connection.execute("PRAGMA journal_mode = WAL")
        # A link, unlike a rename, never replaces a store that was made in the meantime.
        path.hardlink_to(name)
    except FileExistsError:
        pass
    finally:
        Path(name).unlink()
    _sync_folder(path.parent)


def _log(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _prepare(connection: sqlite3.Connection, name: str, path: Path, task: Task) -> None:
    """Locks the file for this process, and makes every commit wait for the disk."""
    connection.execute(f"PRAGMA {name}.locking_mode = EXCLUSIVE")
    verify_identity(connection, name, str(path))
    for file in (path, _log(path)):
        if file.exists():
            file.chmod(0o600)
    mode = connection.execute(f"PRAGMA {name}.journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise StoreError(
            "this file system cannot keep a write-ahead log",
            field=str(path),
            value=mode,
            remedy="put the store on a local disk",
        )
    connection.execute(f"PRAGMA {name}.synchronous = FULL")
    connection.execute(f"PRAGMA {name}.journal_size_limit = {_JOURNAL_LIMIT_BYTES}")
    # Overwriting what is deleted writes it twice, and flash keeps the old cells all the same.
    connection.execute(f"PRAGMA {name}.secure_delete = OFF")
    # Only a write shows that the file can be written.
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(f"UPDATE {name}.task SET value = value")
    connection.execute("COMMIT")
    verify(connection, name, str(path), task)


def _load(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN")
    for table in ("stream", "samples", "early_label"):
        connection.execute(f"INSERT INTO main.{table} SELECT * FROM disk.{table}")
    connection.execute(
        f"INSERT INTO main.window ({WINDOW_COLUMNS}) SELECT {WINDOW_COLUMNS} FROM disk.window"
    )
    connection.execute("COMMIT")
