"""Recordings in CSV or Parquet, cut into windows."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetuner.data import Float32, Int64, WindowSet
from edgetuner.errors import DataError, UsageError

Column = NDArray[Any]


@dataclass(frozen=True)
class WindowRule:
    """How a recording, one row a sample, becomes windows.

    A window gets the label of its samples if they all have the same one; otherwise there is no such
    window. Nor does one reach across a gap: where two samples are more than one and a half sampling
    periods apart, where time does not advance, and where a group changes, windows begin anew.

    Attributes:
        length: samples in a window.
        hop: samples from one window to the next.
        label: column of class names; rows without a name belong to no window.
        time: column of seconds.
        channels: columns of the channels, in order.
        groups: columns of whole numbers that the windows keep, such as `subject`.
        hz: sampling rate in hertz.
    """

    length: int
    hop: int
    label: str
    time: str
    channels: tuple[str, ...]
    hz: float
    groups: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("length", "hop", "hz"):
            if not getattr(self, name) > 0:
                raise UsageError("must be positive", field=name, value=getattr(self, name))
        if not self.channels:
            raise UsageError("are missing", field="channels", remedy="name at least one column")
        for name in {"recording", "t"} & set(self.groups):
            raise UsageError("is numbered here", field="groups", value=name, remedy="rename it")

    @property
    def gap(self) -> int:
        """Windows to leave out where a split in time must not share a sample."""
        return -(-self.length // self.hop) - 1


def load_recordings(paths: Sequence[str | Path], rule: WindowRule) -> WindowSet:
    """Reads recordings and cuts them into windows.

    Args:
        paths: `.csv` files with a header, or `.parquet` files (these need pyarrow).
        rule: what the columns mean, and how windows are cut.

    Returns:
        Windows with the rule's groups, `recording` (number of the file in `paths`) and `t` (time
        order within a file). Classes are the labels that occur, sorted.

    Raises:
        DataError: a file cannot be read, a column is missing or has a value that is no number, no
            stretch is long enough for a window.
    """
    pieces = [
        _cut(_read(Path(path), rule), number, str(path), rule) for number, path in enumerate(paths)
    ]
    labels = [label for piece in pieces for label in piece.labels]
    if not labels:
        raise DataError(
            "have no stretch of one label that is long enough",
            field="recordings",
            value=f"{rule.length} samples",
            remedy="use shorter windows, or check the rate and the label column",
        )
    classes = tuple(sorted(set(labels)))
    index = {name: k for k, name in enumerate(classes)}
    groups = ("recording", "t", *rule.groups)
    return WindowSet(
        x=np.concatenate([piece.x for piece in pieces]),
        y=np.array([index[label] for label in labels], np.int64),
        classes=classes,
        channels=rule.channels,
        hz=rule.hz,
        groups={name: np.concatenate([piece.groups[name] for piece in pieces]) for name in groups},
    )


@dataclass(frozen=True)
class _Piece:
    """The windows of one file."""

    x: Float32
    labels: list[str]
    groups: Mapping[str, Int64]


def _cut(columns: Mapping[str, Column], number: int, path: str, rule: WindowRule) -> _Piece:
    signal = np.stack([_floats(columns, name, path) for name in rule.channels])  # (C, samples)
    groups = {name: _integers(columns, name, path) for name in rule.groups}
    labels = columns[rule.label].astype(str)
    starts = _starts(_breaks(_floats(columns, rule.time, path), labels, groups, rule), labels, rule)
    rows = starts[:, None] + np.arange(rule.length)  # (N, T)
    return _Piece(
        x=np.ascontiguousarray(signal[:, rows].swapaxes(0, 1), dtype=np.float32),
        labels=labels[starts].tolist(),
        groups={
            **{name: values[starts] for name, values in groups.items()},
            "recording": np.full(len(starts), number, np.int64),
            "t": np.arange(len(starts), dtype=np.int64),
        },
    )


def _breaks(time: Column, labels: Column, groups: Mapping[str, Int64], rule: WindowRule) -> Int64:
    """Index of the first sample of each stretch without a gap and with one label and one group."""
    step = np.diff(time)
    broken = (step <= 0) | (step > 1.5 / rule.hz) | (labels[1:] != labels[:-1])
    for values in groups.values():
        broken |= values[1:] != values[:-1]
    return np.concatenate([[0], np.flatnonzero(broken) + 1])


def _starts(breaks: Int64, labels: Column, rule: WindowRule) -> Int64:
    """Index of the first sample of every window."""
    ends = [*breaks[1:].tolist(), len(labels)]
    stretches = [
        np.arange(first, end - rule.length + 1, rule.hop)
        for first, end in zip(breaks.tolist(), ends, strict=True)
        if end > first and labels[first] not in ("", "None", "nan")
    ]
    return np.concatenate([np.empty(0, np.int64), *stretches]).astype(np.int64)


def _read(path: Path, rule: WindowRule) -> dict[str, Column]:
    readers = {".csv": _read_csv, ".parquet": _read_parquet}
    if path.suffix not in readers:
        raise DataError(
            "is no recording", field=str(path), remedy=f"give one of {', '.join(readers)}"
        )
    wanted = (rule.label, rule.time, *rule.channels, *rule.groups)
    try:
        columns = readers[path.suffix](path, wanted)
    except FileNotFoundError:
        raise DataError("does not exist", field=str(path), remedy="give another path") from None
    except (OSError, ValueError, csv.Error) as error:
        raise DataError("cannot be read", field=str(path), value=str(error)) from error
    for name in wanted:
        if name not in columns:
            raise DataError("is missing", field=f"{path}: column {name}", remedy="check the header")
    return columns


def _read_csv(path: Path, wanted: Sequence[str]) -> dict[str, Column]:
    with path.open(newline="", encoding="utf-8") as stream:
        reader = csv.reader(stream, strict=True)
        header = [name.strip() for name in next(reader, [])]
        rows = [row for row in reader if row]
    for line, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise ValueError(f"line {line} has {len(row)} fields, the header {len(header)}")
    table = np.array(rows, dtype=str).reshape(len(rows), len(header))
    return {name: table[:, header.index(name)] for name in wanted if name in header}


def _read_parquet(path: Path, wanted: Sequence[str]) -> dict[str, Column]:
    try:
        from pyarrow import parquet
    except ImportError:
        raise DataError(
            "needs pyarrow to be read",
            field=str(path),
            remedy="install it with: pip install 'edgetuner[parquet]'",
        ) from None
    schema = parquet.read_schema(path)
    names = [name for name in dict.fromkeys(wanted) if name in schema.names]
    table = parquet.read_table(path, columns=names)
    return {name: table[name].to_numpy() for name in names}


def _floats(columns: Mapping[str, Column], name: str, path: str) -> NDArray[np.float64]:
    try:
        values = columns[name].astype(np.float64)
    except (ValueError, TypeError) as error:
        raise DataError("is not a number", field=f"{path}: {name}", value=str(error)) from error
    finite = np.isfinite(values)
    if not finite.all():
        raise DataError(
            "is not finite",
            field=f"{path}: {name}",
            value=f"sample {int(np.argmin(finite))}",
            remedy="remove such samples; a gap in time then ends the window",
        )
    return np.asarray(values, np.float64)


def _integers(columns: Mapping[str, Column], name: str, path: str) -> Int64:
    values = _floats(columns, name, path)
    if (values != np.round(values)).any():
        raise DataError(
            "is not a whole number", field=f"{path}: {name}", remedy="number the groups"
        )
    return values.astype(np.int64)
