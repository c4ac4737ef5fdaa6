"""What goes into the store and what comes out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Key = tuple[str, str]
"""A stream: (client, stream)."""

Durability = Literal["all", "sampled", "memory"]

Outcome = Literal["stored", "refused", "duplicate", "conflict", "expired", "gap", "busy"]
LabelOutcome = Literal[
    "stored",
    "duplicate",
    "replaced",
    "early",
    "too_early",
    "expired",
    "refused",
    "unknown_stream",
]


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """A window that asks to be stored.

    Attributes:
        seq: 0 <= seq < 2**63 - 1, counting up by one in its stream.
        t_ns: Unix time of its first sample by the sender's clock, nanoseconds.
        x: float32 (C, T) in physical units; None where the window was refused.
        crc32: of the payload as it was sent; tells a resent window from another one.
        refusal: why the window cannot be used. It consumes its seq all the same.
        plain: it was published without acknowledgement, so missing windows are lost, not asked for.
        label: class index, where the sender knew it already.
    """

    client: str
    stream: str
    seq: int
    t_ns: int
    x: NDArray[np.float32] | None
    crc32: int
    refusal: str | None = None
    plain: bool = False
    label: int | None = None

    @property
    def key(self) -> Key:
        """The stream it belongs to."""
        return self.client, self.stream


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """A stored window. `row` counts up in order of arrival, over all streams."""

    row: int
    client: str
    stream: str
    seq: int
    t_ns: int
    x: NDArray[np.float32]  # (C, T), read-only
    label: int | None = None


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of an `Entry`.

    Attributes:
        outcome: `stored`; `refused`: recorded as refused, now or before; `duplicate`: held
            already; `conflict`: something else is held under this seq; `expired`: this seq has
            passed, and its window is pruned, was lost, or is older than the stream's first;
            `gap`: windows are missing before it, nothing was stored; `busy`: no room for a further
            stream, nothing was stored.
        expected: the seq this stream goes on with.
        lost: windows missing before this one, which will not come any more.
        durable: what is held under this seq survives SIGKILL and a loss of power.
        window: the stored window, where the outcome is `stored`.
    """

    outcome: Outcome
    expected: int
    lost: int = 0
    durable: bool = False
    window: Window | None = None


@dataclass(frozen=True, slots=True)
class LabelEntry:
    """The class of a window, which may come long after the window, or before it."""

    client: str
    stream: str
    seq: int
    label: int
    t_ns: int

    @property
    def key(self) -> Key:
        """The stream it belongs to."""
        return self.client, self.stream


@dataclass(frozen=True, slots=True)
class LabelReceipt:
    """What became of a `LabelEntry`.

    Attributes:
        outcome: `stored`, `duplicate` (the same label is there) or `replaced` (another one was);
            `early`: kept until its window comes; `too_early`: too far ahead to be kept;
            `expired`: its window is pruned or lost; `refused`: its window was refused;
            `unknown_stream`: no window of it ever came.
        durable: the label survives SIGKILL and a loss of power.
        row, t_ns: of its window, where that is held.
        predicted, version: what was said of it, by whom, where it is predicted; the versions' own
            word where labels overruled it.
    """

    outcome: LabelOutcome
    durable: bool = False
    row: int | None = None
    predicted: int | None = None
    version: str | None = None
    t_ns: int = 0


class Prediction(NamedTuple):
    """What is said of the window in `row` with the model `version` live.

    `overruled` is the class that the versions gave it by themselves, where labels of windows like
    it made another one of that.
    """

    row: int
    predicted: int
    confidence: float
    version: str
    overruled: int | None = None


@dataclass(frozen=True, slots=True)
class Recorded:
    """A prediction on record. `window.x` has shape (C, 0) where its samples are pruned."""

    window: Window
    prediction: Prediction


@dataclass(slots=True)
class StreamState:
    """Cursor and counters of one stream since it began.

    The fields up to `published` are the columns of table `stream`, in their order.

    Attributes:
        last_seq: the newest seq that was consumed.
        published: predictions up to this seq are known to have been published; -1 for none.
        accepted, refused: windows stored, and recorded as refused.
        duplicates: windows that came again, with whatever outcome.
        lost: windows that never came, or that a store without full durability forgot.
        labelled: windows that got a label.
        rejoining: the store forgot the newest windows, so the next one may have any later seq.
    """

    id: int
    client: str
    stream: str
    last_seq: int
    accepted: int = 0
    refused: int = 0
    duplicates: int = 0
    lost: int = 0
    labelled: int = 0
    published: int = -1
    rejoining: bool = False


_COLUMNS = ("x", "y", "predicted", "served", "confidence", "row", "seq", "t_ns", "version")


@dataclass(frozen=True, slots=True, eq=False)
class Context:
    """Predicted windows for an adaptation, in order of arrival (N of them).

    Order of arrival, not of `t_ns`: each client has a clock of its own.
    """

    keys: tuple[Key, ...]
    x: NDArray[np.float32]  # (N, C, T)
    y: NDArray[np.int64]  # (N,), -1 where there is no label
    predicted: NDArray[np.int64]  # (N,), by the versions alone where labels overruled them
    served: NDArray[np.int64]  # (N,), with labels, where they overruled the versions
    confidence: NDArray[np.float64]  # (N,), of what was published
    row: NDArray[np.int64]  # (N,)
    stream: NDArray[np.int64]  # (N,), index into keys
    seq: NDArray[np.int64]  # (N,)
    t_ns: NDArray[np.int64]  # (N,)
    version: NDArray[np.str_]  # (N,)
    starts: dict[Key, int]

    def __len__(self) -> int:
        return len(self.y)

    def take(self, keep: NDArray[np.bool_]) -> Context:
        """The windows where `keep` (N,) is true; keys and starts stay."""
        return replace(self, **{name: getattr(self, name)[keep] for name in (*_COLUMNS, "stream")})

    def followed_by(self, later: Context) -> Context:
        """The windows of this and then those of another one, whatever its streams;
        starts stay.
        """
        keys = self.keys + tuple(key for key in later.keys if key not in self.keys)
        stream = np.array([keys.index(key) for key in later.keys], np.int64)[later.stream]
        columns: dict[str, Any] = {
            name: np.concatenate([getattr(self, name), getattr(later, name)]) for name in _COLUMNS
        }
        return replace(self, keys=keys, stream=np.concatenate([self.stream, stream]), **columns)

    def ends(self) -> dict[Key, int]:
        """The seq after the newest window of each stream: where a later context goes on."""
        ends = dict(self.starts)
        for index, seq in zip(self.stream.tolist(), self.seq.tolist(), strict=True):
            ends[self.keys[index]] = seq + 1
        return ends
