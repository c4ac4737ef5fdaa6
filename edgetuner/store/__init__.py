"""Durable windows, labels and predictions of every stream, in SQLite."""

from edgetuner.store.records import (
    Context,
    Durability,
    Entry,
    Key,
    LabelEntry,
    LabelReceipt,
    Prediction,
    Receipt,
    Recorded,
    StreamState,
    Window,
)
from edgetuner.store.store import Store

__all__ = [
    "Context",
    "Durability",
    "Entry",
    "Key",
    "LabelEntry",
    "LabelReceipt",
    "Prediction",
    "Receipt",
    "Recorded",
    "Store",
    "StreamState",
    "Window",
]
