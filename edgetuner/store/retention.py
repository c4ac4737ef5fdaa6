"""What goes when the store is full.

The samples of a window go before its row, since the row is what tells a duplicate from a conflict,
and is small. Labelled windows stay longest, for they are what an adaptation learns from, but only
in one half of the room: labels come late, and the windows that they are for have to be there still.
A window that awaits its prediction never goes, and neither does the newest row, from which the next
row number is counted.
"""

from __future__ import annotations

from edgetuner.store.database import Database
from edgetuner.store.schema import Stage

_LOW_WATER = 0.98  # of the room, so that not every commit has to prune
_BARE_BYTES = (
    1024  # room per row without samples; one takes about 120, so they fill an eighth at most
)
_LABELLED = 0.5  # of the windows that are held, at most, once there is no room for more
_CHUNK = 1024  # rows per transaction


def prune(database: Database, max_bytes: int, window_bytes: int) -> int:
    """Makes room if more than `max_bytes` are in use; returns how many windows lost their samples.

    Args:
        window_bytes: size of the samples of one window.

    Raises:
        StoreError: the disk fails.
    """
    if database.used_bytes() <= max_bytes:
        return 0
    _drop_rows(database, max_bytes // _BARE_BYTES)
    dropped = 0
    while (excess := database.used_bytes() - _LOW_WATER * max_bytes) > 0:
        most = min(_CHUNK, int(excess // window_bytes) + 1)
        labelled = _held(database, Stage.LABELLED)
        held = labelled + _held(database, Stage.UNLABELLED) + _held(database, Stage.PENDING)
        crowded = labelled > _LABELLED * held
        first, second = (Stage.UNLABELLED, Stage.LABELLED)[:: -1 if crowded else 1]
        rows = _oldest(database, first, most) or _oldest(database, second, most)
        if not rows:
            break
        _drop_samples(database, rows)
        dropped += len(rows)
    return dropped


def _drop_samples(database: Database, rows: list[int]) -> None:
    with database.transaction():
        for row in rows:
            database.execute_copies("DELETE FROM {db}.samples WHERE row = ?", (row,))
            database.execute_copies("UPDATE {db}.window SET held = 0 WHERE row = ?", (row,))


def _drop_rows(database: Database, allowed: int) -> None:
    """Leaves at most `allowed` rows without samples."""
    stages = (Stage.BARE, Stage.BARE_LABELLED)
    count = "SELECT count(*) FROM main.window WHERE stage IN (?, ?)"
    excess = database.value(count, stages) - allowed
    for stage in stages:
        while excess > 0 and (rows := _oldest(database, stage, min(_CHUNK, excess))):
            with database.transaction():
                for row in rows:
                    database.execute_copies("DELETE FROM {db}.window WHERE row = ?", (row,))
            excess -= len(rows)


def _held(database: Database, stage: Stage) -> int:
    count: int = database.value("SELECT count(*) FROM main.window WHERE stage = ?", (stage,))
    return count


def _oldest(database: Database, stage: Stage, most: int) -> list[int]:
    rows = database.query(
        "SELECT row FROM main.window "
        "WHERE stage = ? AND row < (SELECT max(row) FROM main.window) ORDER BY row LIMIT ?",
        (stage, most),
    )
    return [row for (row,) in rows]
