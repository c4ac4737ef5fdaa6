"""Windows that can be made again from their seq, to compare bit for bit."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetuner.store import Entry, LabelEntry, Store

SHAPE = (2, 16)
CLASSES = ("sit", "walk", "run")
KEY = ("watch", "wrist")


def samples(seq: int, shape: tuple[int, int] = SHAPE) -> NDArray[np.float32]:
    """Any bit pattern but those of NaN, so that == is enough."""
    bits = np.random.default_rng(seq).integers(0, 2**32, shape, np.uint32)
    x = bits.view(np.float32)
    return np.where(np.isfinite(x), x, np.float32(-0.0))


def entry(seq: int, key: tuple[str, str] = KEY, **changes: Any) -> Entry:
    x = samples(seq)
    fields: dict[str, Any] = {
        "x": x,
        "crc32": zlib.crc32(x.tobytes()),
        "t_ns": 1_000 * seq,
    } | changes
    return Entry(*key, seq=seq, **fields)


def label(seq: int, index: int, key: tuple[str, str] = KEY) -> LabelEntry:
    return LabelEntry(*key, seq=seq, label=index, t_ns=7)


def opened(path: Path | None, **options: Any) -> Store:
    return Store.open(path, **({"shape": SHAPE, "classes": CLASSES} | options))


def same_bits(a: NDArray[np.float32], b: NDArray[np.float32]) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def add(store: Store, *seqs: int, key: tuple[str, str] = KEY) -> list[int]:
    """Stores windows; returns their rows."""
    receipts = store.add([entry(seq, key) for seq in seqs])
    assert [receipt.outcome for receipt in receipts] == ["stored"] * len(seqs)
    return [receipt.window.row for receipt in receipts if receipt.window is not None]


def add_predicted(store: Store, *seqs: int, key: tuple[str, str] = KEY) -> list[int]:
    """Stores windows and says of each that it is of class 1; returns their rows."""
    rows = add(store, *seqs, key=key)
    assert all(store.record([(row, 1, 0.5, "v1") for row in rows]))
    return rows
