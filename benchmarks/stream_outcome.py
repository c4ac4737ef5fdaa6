"""What the rows of a stream benchmark come to."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import mean, median
from typing import Any

OURS = "edgetuner"
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
    return found | _runs(rows)


def _runs(rows: Sequence[Row]) -> dict[str, Any]:
    runs = [row for row in rows if row["kind"] == "run"]
    if not runs:
        return {}
    ours = [row for row in runs if row["policy"] == OURS]
    found: dict[str, Any] = {}
    broken = [row for row in ours if "faults" in row]
    if broken:
        in_time, all_of_them = (sum(row[k] for row in broken) for k in ("faults_in_time", "faults"))
        found["faults_named"] = in_time / all_of_them
        found["faults_trained_on"] = sum(row["faults_trained_on"] for row in broken)
    if ours:
        found["harmful_swaps"] = sum(row["harmful_swaps"] for row in ours)
    names = list(dict.fromkeys(row["policy"] for row in runs))
    by_policy = {name: [row for row in runs if row["policy"] == name] for name in names}
    found["auc_by_policy"] = {
        scenario: {
            name: mean(aucs)
            for name, own in by_policy.items()
            if (aucs := [row["auc"] for row in own if row["scenario"] == scenario])
        }
        for scenario in dict.fromkeys(row["scenario"] for row in runs)
    }
    for key in ("train_seconds", "adapt_seconds"):
        found[f"{key}_by_policy"] = {
            name: sum(row[key] for row in own) for name, own in by_policy.items()
        }
    return found


def _ratios(rows: Sequence[Row]) -> dict[str, float]:
    """Measured over asked time between false alarms, all streams of a kind together."""
    found: dict[str, float] = {}
    alarms = [row for row in rows if row["kind"] == "false_alarms" and row["detector"] == "ours"]
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
        and row["detector"] == "ours"
        and row["change"] == change
        and "delay" in row
        and (change == "position" or row["f1_home"] - row["f1_away"] > COSTLY)
    ]


def _largest(values: Iterable[float]) -> float | None:
    return max(values, default=None)


def page(rows: Sequence[Row]) -> str:
    """Markdown."""
    return ""


def picture(rows: Sequence[Row], path: Any) -> None:
    """F1 over time."""
