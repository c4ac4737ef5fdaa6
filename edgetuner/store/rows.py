"""Rows of the database as records and arrays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from heapq import nlargest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetuner.store.database import Database
from edgetuner.store.records import Context, Key, Prediction, Recorded, StreamState, Window
from edgetuner.store.schema import Stage, Task

_WINDOW = "w.row, s.client, s.stream, w.seq, w.t_ns, d.x, w.label"
_JOINED = (
    "main.window w JOIN main.stream s ON s.id = w.stream LEFT JOIN main.samples d ON d.row = w.row"
)


def window(row: Sequence[Any], task: Task) -> Window:
    """A window from the columns row, client, stream, seq, t_ns, samples, label."""
    number, client, stream, seq, t_ns, samples, label = row
    x = np.frombuffer(samples or b"", "<f4").reshape(task.shape[0], -1)
    return Window(number, client, stream, seq, t_ns, x, label)


def unpredicted(database: Database, task: Task, limit: int, after: int) -> list[Window]:
    """The oldest windows beyond row `after` that await their prediction, in order of row."""
    rows = database.query(
        f"SELECT {_WINDOW} FROM {_JOINED} WHERE w.stage = ? AND w.row > ? ORDER BY w.row LIMIT ?",
        (Stage.PENDING, after, limit),
    )
    return [window(row, task) for row in rows]


def unpublished(database: Database, task: Task, streams: Iterable[StreamState]) -> list[Recorded]:
    """Predictions beyond the published ones of each stream, in order of row."""
    rows = [
        row
        for stream in streams
        for row in database.query(
            f"SELECT {_WINDOW}, w.predicted, w.confidence, w.version, w.overruled FROM {_JOINED} "
            "WHERE w.stream = ? AND w.seq > ? AND w.predicted IS NOT NULL",
            (stream.id, stream.published),
        )
    ]
    return [
        Recorded(window(row[:7], task), Prediction(row[0], *row[7:]))
        for row in sorted(rows, key=lambda row: int(row[0]))
    ]


def context(
    database: Database,
    task: Task,
    ids: Mapping[Key, int],
    starts: Mapping[Key, int],
    limit: int,
    *,
    labelled: bool,
    with_samples: bool,
) -> Context:
    """The newest predicted windows of the streams in `starts`; `ids` are those of known streams."""
    keys = tuple(starts)
    newest = nlargest(
        limit,
        (
            row
            for index, key in enumerate(keys)
            if key in ids
            for row in _newest(database, index, ids[key], starts[key], limit, labelled)
        ),
    )
    columns = list(zip(*reversed(newest), strict=True)) or [()] * 9
    row, stream, seq, t_ns, label, predicted, served, confidence, version = columns
    return Context(
        keys=keys,
        x=samples(database, task, row if with_samples else ())[0],
        y=np.array([-1 if y is None else y for y in label], np.int64),
        predicted=np.array(predicted, np.int64),
        served=np.array(served, np.int64),
        confidence=np.array(confidence, np.float64),
        row=np.array(row, np.int64),
        stream=np.array(stream, np.int64),
        seq=np.array(seq, np.int64),
        t_ns=np.array(t_ns, np.int64),
        version=np.array(version, np.str_),
        starts=dict(starts),
    )


def count_labels(
    database: Database, task: Task, ids: Mapping[Key, int], starts: Mapping[Key, int]
) -> NDArray[np.int64]:
    """Labelled windows per class, (K,)."""
    counts = np.zeros(len(task.classes), np.int64)
    for key in starts.keys() & ids.keys():
        for label, count in database.query(
            "SELECT label, count(*) FROM main.window "
            "WHERE stream = ? AND seq >= ? AND stage = ? GROUP BY label",
            (ids[key], starts[key], Stage.LABELLED),
        ):
            counts[label] += count
    return counts


def _newest(
    database: Database, index: int, stream: int, start: int, limit: int, labelled: bool
) -> list[tuple[Any, ...]]:
    other = Stage.LABELLED if labelled else Stage.UNLABELLED
    return database.query(
        "SELECT row, ?, seq, t_ns, label, coalesce(overruled, predicted), predicted, "
        "confidence, version FROM main.window "
        "WHERE stream = ? AND seq >= ? AND stage IN (?, ?) ORDER BY seq DESC LIMIT ?",
        (index, stream, start, Stage.LABELLED, other, limit),
    )


def labels(database: Database, rows: Sequence[int]) -> dict[int, int]:
    """Class index of those rows that have a label."""
    found = {
        row: database.value("SELECT label FROM main.window WHERE row = ?", (row,)) for row in rows
    }
    return {row: label for row, label in found.items() if label is not None}


def samples(
    database: Database, task: Task, rows: Sequence[int]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Samples (N, C, T) of the rows, and which of them are still held (N,)."""
    x = np.zeros((len(rows), *task.shape), np.float32)
    held = np.zeros(len(rows), bool)
    for i, row in enumerate(rows):
        stored = database.value("SELECT x FROM main.samples WHERE row = ?", (row,))
        if stored is not None:
            x[i], held[i] = np.frombuffer(stored, "<f4").reshape(task.shape), True
    return x, held
