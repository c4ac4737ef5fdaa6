"""The job directory: all that an adaptation needs and all that it gave, so it can be replayed at a
desk.

    job.json              what was asked: settings, classes, why
    base/                 the champion it starts from, a whole bundle
    windows.safetensors   x, y, split, stream, t_ns, served
    log.txt               standard error of the training process
    result.json           what came of it: rungs, evidence, times, or the error
    candidate/            the new version, a whole bundle
    previous-*            result and candidate of the time before, if it was done again

`python -m edgetuner.adapt.worker JOB` does the work again, on any machine with torch. A job folder
is data, as a bundle is: it may come from elsewhere, so it cannot say which code is to be trusted.
Where its base names a factory of the user's own, whoever replays it allows that one by
`--allow-factory NAME`.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError

from edgetuner.config import AdaptConfig, GateConfig
from edgetuner.errors import AdaptationError, StoreError

TRAIN: Final = 0
HOLDOUT: Final = 1
NEITHER: Final = 2  # shares samples with a held-out window

JOB, WINDOWS, LOG, RESULT, BASE, CANDIDATE = (
    "job.json",
    "windows.safetensors",
    "log.txt",
    "result.json",
    "base",
    "candidate",
)


@dataclass(frozen=True, eq=False)
class Windows:
    """The windows of an adaptation, in time order within each stream.

    Attributes:
        x: raw windows, float32 (N, C, T).
        y: class index, int64 (N,); -1 where there is no label.
        stream: index of the stream each came from, int64 (N,).
        t_ns: Unix time of the first sample, int64 (N,).
        split: `TRAIN`, `HOLDOUT` or `NEITHER`, int64 (N,).
        served: class that those who answered gave to each labelled window held out, int64 (N,), -1
            for the rest; None in jobs of an older version.
    """

    x: NDArray[np.float32]
    y: NDArray[np.int64]
    stream: NDArray[np.int64]
    t_ns: NDArray[np.int64]
    split: NDArray[np.int64]
    served: NDArray[np.int64] | None = None

    def labelled(self, split: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """(x, y) of the labelled windows of one split."""
        rows = (self.split == split) & (self.y >= 0)
        return self.x[rows], self.y[rows]

    def held_served(self) -> NDArray[np.int64]:
        """What was served for the labelled windows held out; empty if that is not known."""
        if self.served is None:
            return np.empty(0, np.int64)
        served: NDArray[np.int64] = self.served[(self.split == HOLDOUT) & (self.y >= 0)]
        return served

    def unheld(self) -> NDArray[np.float32]:
        """x of every window, labelled or not, that shares nothing with a held-out one."""
        free: NDArray[np.float32] = self.x[self.split == TRAIN]
        return free


class Ask(BaseModel):
    """What an adaptation is asked to do: `job.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    job: str
    created: str = Field(description="UTC, ISO 8601")
    why: str
    settings: AdaptConfig
    gate: GateConfig = Field(
        default_factory=GateConfig, description="what it will have to pass, so that it may stop"
    )
    false_alarm_windows: float | None = Field(
        default=None,
        gt=0,
        description="windows between false drift alarms that the candidate's thresholds are set "
        "for; as the base has it if null",
    )

    @model_validator(mode="before")
    @classmethod
    def _vouching_for_nothing(cls, values: Any) -> Any:
        """Leaves out what an older version wrote down: those jobs can still be read, but no job
        folder says which factories may be imported.
        """
        if not isinstance(values, dict):
            return values
        return {
            name: value
            for name, value in values.items()
            if name not in ("allow_factories", "calibration")
        }


@dataclass(frozen=True)
class Job:
    """A job directory."""

    path: Path
    ask: Ask

    @classmethod
    def create(cls, folder: Path, ask: Ask, base: Path, windows: Windows) -> Job:
        """Writes a new job directory below `folder`. Raises StoreError if that fails."""
        path = folder / ask.job
        try:
            path.mkdir(parents=True, mode=0o750)
        except OSError as error:  # an earlier job of this name, on a board without a clock, stays
            raise StoreError(
                "cannot be made",
                field=str(path),
                value=error.strerror,
                remedy="see that state_dir is writable and the clock is right",
            ) from None
        try:
            shutil.copytree(base, path / BASE)
            arrays = {
                name: np.ascontiguousarray(values)
                for name in ("x", "y", "stream", "t_ns", "split", "served")
                if (values := getattr(windows, name)) is not None
            }
            (path / WINDOWS).write_bytes(safetensors.numpy.save(arrays))
            (path / JOB).write_text(ask.model_dump_json(indent=1))
        except OSError as error:
            shutil.rmtree(path, ignore_errors=True)
            raise StoreError(
                "cannot write the job",
                field=str(path),
                value=error.strerror,
                remedy="free some disk space",
            ) from None
        return cls(path, ask)

    @classmethod
    def open(cls, path: Path) -> Job:
        """Reads a job directory. Raises AdaptationError if it is not one."""
        try:
            return cls(path, Ask.model_validate_json((path / JOB).read_bytes()))
        except (OSError, ValidationError) as error:
            raise AdaptationError(
                "is not a job directory", field=str(path), value=" ".join(str(error).split())
            ) from None

    def windows(self) -> Windows:
        """The windows. Raises AdaptationError if the file is damaged."""
        try:
            return Windows(**safetensors.numpy.load_file(self.path / WINDOWS))
        except (OSError, SafetensorError, TypeError) as error:
            raise AdaptationError(
                "cannot be read", field=str(self.path / WINDOWS), value=str(error)
            ) from None

    def set_aside(self) -> None:
        """Keeps what the job gave before under another name, to be done again.

        Raises:
            StoreError: it cannot be moved.
        """
        try:
            for name in (RESULT, CANDIDATE):
                before, place = self.path / name, self.path / f"previous-{name}"
                if before.exists():
                    shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
                    before.rename(place)
        except OSError as error:
            raise StoreError(
                "cannot be set aside",
                field=str(self.path),
                value=error.strerror,
                remedy="see that the folder is writable",
            ) from None

    def write_result(self, result: dict[str, Any]) -> None:
        """Leaves `result.json`, whole or not at all."""
        staging = self.path / f"{RESULT}.incoming"
        staging.write_text(json.dumps(result, indent=1))
        staging.replace(self.path / RESULT)

    def result(self) -> dict[str, Any] | None:
        """What `write_result` left; None if the process ended before that."""
        try:
            result: dict[str, Any] = json.loads((self.path / RESULT).read_text())
        except (OSError, ValueError):
            return None
        return result


def new_id(number: int) -> str:
    """A name for a job that sorts by time."""
    return f"{datetime.now(timezone.utc):%Y%m%dT%H%M%S}-{number:04d}"


def prune(folder: Path, keep: int) -> None:
    """Removes the oldest job directories, down to `keep`."""
    if not folder.is_dir():
        return
    jobs = sorted(path for path in folder.iterdir() if path.is_dir())
    for path in jobs[: max(0, len(jobs) - keep)]:
        shutil.rmtree(path, ignore_errors=True)


def split(
    y: NDArray[np.int64],
    stream: NDArray[np.int64],
    t_ns: NDArray[np.int64],
    *,
    share: float,
    window_ns: int,
) -> NDArray[np.int64]:
    """Holds out the last `share` to arrive of the labelled windows of each class.

    The order of arrival is nobody's clock: one that jumps back makes nothing old, and one that
    jumps ahead nothing new. Clocks only say which windows overlap.

    Windows of the same stream that overlap a held-out one in time share samples with it, so they
    are left out of training altogether. A class with a single labelled window is trained on, not
    held out.

    Args:
        y: class index or -1, in order of arrival, (N,).
        stream: stream index, (N,).
        t_ns: start of each window, nanoseconds, (N,).
        share: in (0, 1).
        window_ns: duration of a window in nanoseconds.

    Returns:
        `TRAIN`, `HOLDOUT` or `NEITHER` for each window, int64 (N,).
    """
    held = np.zeros(len(y), bool)
    for label in np.unique(y[y >= 0]):
        rows = np.flatnonzero(y == label)
        count = min(len(rows) - 1, int(np.ceil(share * len(rows))))
        held[rows[len(rows) - count :]] = True
    return hold_out(held, stream, t_ns, window_ns=window_ns)


def hold_out(
    held: NDArray[np.bool_],
    stream: NDArray[np.int64],
    t_ns: NDArray[np.int64],
    *,
    window_ns: int,
) -> NDArray[np.int64]:
    """`HOLDOUT` where `held` (N,), `NEITHER` where a window overlaps such a one of its stream in
    time, and `TRAIN` elsewhere, int64 (N,); the rest as for `split`.
    """
    parts = np.where(held, HOLDOUT, TRAIN)
    for s in np.unique(stream):
        mine = np.flatnonzero(stream == s)
        held_at = np.sort(t_ns[mine[parts[mine] == HOLDOUT]])
        free = mine[parts[mine] == TRAIN]
        if not len(held_at) or not len(free):
            continue
        after = np.searchsorted(held_at, t_ns[free])
        next_held = held_at[np.minimum(after, len(held_at) - 1)]
        last_held = held_at[np.maximum(after - 1, 0)]
        distance = np.minimum(np.abs(next_held - t_ns[free]), np.abs(t_ns[free] - last_held))
        parts[free[distance < window_ns]] = NEITHER
    return parts
