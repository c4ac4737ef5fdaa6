"""What the rows of a stream benchmark come to."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

COSTLY = 0.05  # macro-F1 that a new person has to cost for his coming to be a drift
Row = dict[str, Any]


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """The figures that were measured, and no others; a delay is None where most noticed nothing."""
    found: dict[str, Any] = {
        "false_alarm_ratio": _ratios(rows) or None,
        "detector_cost_ratio": _largest(
            row["detector_cost_ratio"]
            for row in rows
            if row["kind"] == "cost" and row["backbone"] == "small_cnn"
        ),
    }
    found = {name: value for name, value in found.items() if value is not None}
    for change in ("position", "person"):
        delays = _delays(rows, change)
        if delays:
            middle = float(median(delays))
            found[f"delay_{change}_median"] = middle if math.isfinite(middle) else None
    return found


def _ratios(rows: Sequence[Row]) -> dict[str, float]:
    """Measured over asked time between false alarms, all streams of a kind together."""
    found: dict[str, float] = {}
    alarms = [row for row in rows if row["kind"] == "false_alarms"]
    for stream in dict.fromkeys(f"{row['stream']}, {row['asked']:g}" for row in alarms):
        mine = [row for row in alarms if f"{row['stream']}, {row['asked']:g}" == stream]
        count = sum(row["alarms"] for row in mine)
        if count:
            found[stream] = sum(row["windows"] for row in mine) / count / mine[0]["asked"]
    return found


def _delays(rows: Sequence[Row], change: str) -> list[float]:
    """Of every stream, infinite where nothing was noticed; people who cost little are left out."""
    return [
        math.inf if row["delay"] is None else float(row["delay"])
        for row in rows
        if row["kind"] == "delay"
        and row["change"] == change
        and "delay" in row
        and (change == "position" or row["f1_home"] - row["f1_away"] > COSTLY)
    ]


def _largest(values: Iterable[float]) -> float | None:
    return max(values, default=None)
