"""Window sets: labelled windows in physical units, and the splits that keep evaluation honest."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetuner.errors import DataError, UsageError

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]
# What a group may be asked for: one index, the name of a position, or several of them.
Selector = int | str | Sequence[int | str]

# Arrays of an archive that are not groups; every other int64[N] array is one.
_KEYS = frozenset({"X", "y", "classes", "channels", "hz", "positions", "channel_position"})


@dataclass(frozen=True, eq=False)
class WindowSet:
    """Labelled windows of one sensor layout.

    Attributes:
        x: raw windows in physical units, float32 (N, C, T), finite, not normalised.
        y: class index of each window, int64 (N,).
        classes: class names, in the order of the indices.
        channels: channel names, length C.
        hz: sampling rate in hertz.
        groups: what else is known of each window, int64 (N,) each: `subject`, `position`, `trial`,
            ... `t` is the time order among the windows that share the class and all other groups.
        positions: names of the body positions, in the order of their indices; empty where unknown.
        channel_position: the position index of each channel where all positions are recorded in one
            window, length C; empty where a window has one position.

    Raises:
        DataError: an array has the wrong shape, a value is not finite, an index is out of range.
    """

    x: Float32
    y: Int64
    classes: tuple[str, ...]
    channels: tuple[str, ...]
    hz: float
    groups: Mapping[str, Int64] = field(default_factory=dict)
    positions: tuple[str, ...] = ()
    channel_position: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _check(self)

    def __len__(self) -> int:
        return len(self.y)

    @property
    def length(self) -> int:
        """Samples in a window, T."""
        return int(self.x.shape[2])

    def take(self, rows: NDArray[Any]) -> WindowSet:
        """The windows at `rows`, an index or boolean array over N."""
        groups = {name: values[rows] for name, values in self.groups.items()}
        return replace(self, x=self.x[rows], y=self.y[rows], groups=groups)

    def plus(self, other: WindowSet) -> WindowSet:
        """These windows and then those of `other`, a selection of the same set."""
        groups = {
            name: np.concatenate([values, other.groups[name]])
            for name, values in self.groups.items()
        }
        x, y = np.concatenate([self.x, other.x]), np.concatenate([self.y, other.y])
        return replace(self, x=x, y=y, groups=groups)

    def select(self, **selectors: Selector) -> WindowSet:
        """The windows whose groups have the values asked for: `select(position=1, subject=[1, 2])`.

        A position may be given by name. Where positions are channels of one window, `position`
        selects channels instead of windows (see `channels_of`).

        Raises:
            DataError: there is no such group, or nothing is left.
        """
        windows = self
        for name, wanted in selectors.items():
            if name == "position" and name not in windows.groups and windows.channel_position:
                windows = windows.channels_of(_single(wanted))
            else:
                windows = windows.take(windows._rows(name, wanted))
        return windows

    def channels_of(self, position: int | str) -> WindowSet:
        """The channels of one body position, without the position in their names.

        `right_arm_acc_x` becomes `acc_x`, so that a model of one position can be fed with another.

        Raises:
            DataError: no channel is known to have been worn there.
        """
        index = self._position(position)
        columns = [c for c, p in enumerate(self.channel_position) if p == index]
        if not columns:
            raise DataError(
                "has no channel at this position",
                field="channel_position",
                value=position,
                remedy=f"choose one of {sorted(set(self.channel_position))}",
            )
        prefix = f"{self.positions[index]}_" if index < len(self.positions) else ""
        return replace(
            self,
            x=np.ascontiguousarray(self.x[:, columns]),
            channels=tuple(self.channels[c].removeprefix(prefix) for c in columns),
            groups={**self.groups, "position": np.full(len(self), index, np.int64)},
            channel_position=(),
        )

    def recordings(self) -> list[Int64]:
        """Row numbers of every recording in the order of `t`.

        A recording is the windows that share their class and every group but `t`.

        Raises:
            DataError: there is no `t`.
        """
        if "t" not in self.groups:
            raise DataError("is missing", field="t", remedy="give the time order of the windows")
        names = [self.y, *(v for name, v in sorted(self.groups.items()) if name != "t")]
        _, group = np.unique(np.stack(names), axis=1, return_inverse=True)
        group = group.reshape(-1)
        order = np.lexsort((self.groups["t"], group))
        return np.split(order, np.flatnonzero(np.diff(group[order])) + 1)

    def split_by_time(self, fraction: float, gap: int = 1) -> tuple[WindowSet, WindowSet]:
        """Splits off the last part in time of every recording: `(earlier, later)`.

        The `gap` windows before the later part belong to neither side: where windows of `length`
        samples were cut every `hop` samples, a gap of `ceil(length / hop) - 1` keeps any sample
        from lying on both sides. A recording too short to give a window to the later part lies in
        the earlier one.

        Args:
            fraction: share of every recording that is held out, in (0, 1).
            gap: windows left out in between, >= 0.

        Raises:
            DataError: there is no `t`, or one side would be empty.
        """
        if not 0 < fraction < 1:
            raise UsageError("must lie between 0 and 1", field="fraction", value=fraction)
        if gap < 0:
            raise UsageError("must not be negative", field="gap", value=gap)
        earlier, later = [], []
        for rows in self.recordings():
            first = len(rows) - int(len(rows) * fraction)
            later.append(rows[first:])
            last = first - gap if first < len(rows) else first
            earlier.append(rows[: max(last, 0)])
        sides = np.sort(np.concatenate(earlier)), np.sort(np.concatenate(later))
        for side, rows in zip(("earlier", "later"), sides, strict=True):
            if not len(rows):
                raise DataError(
                    f"leaves nothing in the {side} part",
                    field="fraction",
                    value=fraction,
                    remedy="use longer recordings, another fraction or a smaller gap",
                )
        return self.take(sides[0]), self.take(sides[1])

    def normalisation(self) -> tuple[Float32, Float32]:
        """Mean and standard deviation of each channel over windows and time, float32 (C,) each.

        Raises:
            DataError: a channel is constant, so that nothing can be divided by its deviation.
        """
        mean = self.x.mean(axis=(0, 2), dtype=np.float64)
        std = self.x.std(axis=(0, 2), dtype=np.float64)
        for channel, deviation in zip(self.channels, std, strict=True):
            if not deviation > 0:
                raise DataError("is constant", field=f"channel {channel}", remedy="leave it out")
        return mean.astype(np.float32), std.astype(np.float32)

    def _rows(self, name: str, wanted: Selector) -> NDArray[np.bool_]:
        if name not in self.groups:
            raise DataError(
                "is no group of these windows",
                field=name,
                remedy=f"choose one of {sorted(self.groups)}",
            )
        asked = [wanted] if isinstance(wanted, (int, str, np.integer)) else list(wanted)
        if name == "position":
            asked = [self._position(value) for value in asked]
        for value in asked:
            if isinstance(value, str):
                raise DataError("is not an index", field=name, value=value, remedy="give integers")
        rows = np.isin(self.groups[name], np.array(asked, dtype=np.int64))
        if not rows.any():
            known = np.unique(self.groups[name])
            raise DataError(
                "selects no window",
                field=name,
                value=wanted,
                remedy=f"choose between {known[0]} and {known[-1]}",
            )
        return rows

    def _position(self, position: int | str) -> int:
        if not isinstance(position, str):
            return int(position)
        if position not in self.positions:
            names = (
                f"choose one of {', '.join(self.positions)}"
                if self.positions
                else ("they are numbered: write position=0, or name them in `positions`")
            )
            raise DataError(
                "is no position of these windows", field="position", value=position, remedy=names
            )
        return self.positions.index(position)


def load(path: str | Path) -> WindowSet:
    """Reads a window set from an `.npz` archive; nothing in it is executed.

    Keys: `X` float16 or float32 (N, C, T), `y` int (N,), `classes` str (K,), `channels` str (C,),
    `hz` float; where known `t`, `subject`, `position`, ... int (N,), `positions` str (P,),
    `channel_position` int (C,).

    Raises:
        DataError: the archive cannot be read, or the key named is missing or does not fit.
    """
    arrays = _read_archive(Path(path))
    for key in ("X", "y", "classes", "channels", "hz"):
        if key not in arrays:
            raise DataError("is missing", field=f"{path}: {key}", remedy="add it to the archive")
    try:
        return WindowSet(
            x=_numbers(arrays, "X", "f", np.dtype(np.float32)),
            y=_numbers(arrays, "y", "iu", np.dtype(np.int64)),
            classes=_names(arrays, "classes"),
            channels=_names(arrays, "channels"),
            hz=_rate(arrays["hz"]),
            groups={
                key: _numbers(arrays, key, "iu", np.dtype(np.int64))
                for key in arrays
                if key not in _KEYS
            },
            positions=_names(arrays, "positions"),
            channel_position=tuple(
                _numbers(arrays, "channel_position", "iu", np.dtype(np.int64)).tolist()
            ),
        )
    except DataError as error:
        raise DataError(
            error.problem, field=f"{path}: {error.field}", value=error.value, remedy=error.remedy
        ) from None


def parse_selectors(text: str) -> dict[str, list[int | str]]:
    """Reads `position=1,subject=1,2` as `{"position": [1], "subject": [1, 2]}`.

    Raises:
        UsageError: the text does not begin with a name and `=`, or a value is missing.
    """
    selectors: dict[str, list[int | str]] = {}
    name = ""
    for token in filter(None, (part.strip() for part in text.split(","))):
        if "=" in token:
            name, _, token = (part.strip() for part in token.partition("="))
        if not name or not token:
            raise UsageError(
                "cannot be read",
                field="selector",
                value=text,
                remedy="write position=1,subject=1,2",
            )
        selectors.setdefault(name, []).append(int(token) if token.isdecimal() else token)
    return selectors


def _read_archive(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with path.open("rb") as stream:  # numpy leaves a path it cannot parse open
            archive = np.load(stream, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("a single array")
            return {key: archive[key] for key in archive.files}
    except FileNotFoundError:
        raise DataError(
            "does not exist", field=str(path), remedy="give the path of an .npz file"
        ) from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            "cannot be read as an .npz archive of plain arrays",
            field=str(path),
            value=str(error),
            remedy="write it with numpy.savez_compressed",
        ) from error


def _numbers(
    arrays: Mapping[str, NDArray[Any]], key: str, kinds: str, dtype: np.dtype[Any]
) -> NDArray[Any]:
    values = arrays.get(key)
    if values is None:
        return np.empty(0, dtype)
    if values.dtype.kind not in kinds:
        raise DataError(
            "has the wrong type", field=key, value=str(values.dtype), remedy=f"store {dtype}"
        )
    return values.astype(dtype)


def _names(arrays: Mapping[str, NDArray[Any]], key: str) -> tuple[str, ...]:
    values = arrays.get(key)
    if values is None:
        return ()
    if values.dtype.kind != "U" or values.ndim != 1:
        raise DataError(
            "is not a list of names", field=key, value=str(values.dtype), remedy="store strings"
        )
    return tuple(str(value) for value in values)


def _rate(value: NDArray[Any]) -> float:
    if value.size != 1 or value.dtype.kind not in "fiu":
        raise DataError(
            "is not one number", field="hz", value=value, remedy="store the rate in hertz"
        )
    return float(value.reshape(-1)[0])


def _single(wanted: Selector) -> int | str:
    if isinstance(wanted, (int, str)):
        return wanted
    values = list(wanted)
    if len(values) != 1:
        raise DataError(
            "must be a single position, since positions are channels here",
            field="position",
            value=wanted,
            remedy="select one position at a time",
        )
    return values[0]


def _check(windows: WindowSet) -> None:
    _check_x(windows.x, len(windows.channels))
    n = len(windows.x)
    for name, values in {"y": windows.y, **windows.groups}.items():
        if values.shape != (n,):
            raise DataError(
                "must have one entry a window",
                field=name,
                value=values.shape,
                remedy=f"make it ({n},)",
            )
    _check_names(windows)
    classes = len(windows.classes)
    bad = windows.y[(windows.y < 0) | (windows.y >= classes)]
    if len(bad):
        raise DataError(
            "is no index into classes",
            field="y",
            value=int(bad[0]),
            remedy=f"use 0 to {classes - 1}",
        )
    if not (np.isfinite(windows.hz) and windows.hz > 0):
        raise DataError(
            "must be positive", field="hz", value=windows.hz, remedy="give the rate in hertz"
        )


def _check_x(x: NDArray[Any], channels: int) -> None:
    if x.ndim != 3 or 0 in x.shape[1:]:
        raise DataError("must be windows x channels x samples", field="X", value=x.shape)
    if x.shape[1] != channels:
        raise DataError(
            "does not name every channel",
            field="channels",
            value=channels,
            remedy=f"name {x.shape[1]}",
        )
    finite = np.isfinite(x).all(axis=(1, 2))
    if not finite.all():
        raise DataError(
            "is not finite",
            field="X",
            value=f"window {int(np.argmin(finite))}",
            remedy="leave such windows out",
        )


def _check_names(windows: WindowSet) -> None:
    for name, names in (("classes", windows.classes), ("channels", windows.channels)):
        if not names or len(set(names)) != len(names):
            raise DataError("must be distinct names", field=name, value=names)
    if windows.channel_position and len(windows.channel_position) != len(windows.channels):
        raise DataError(
            "must have one entry a channel",
            field="channel_position",
            value=len(windows.channel_position),
            remedy=f"give {len(windows.channels)}",
        )
