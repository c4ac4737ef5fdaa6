"""What the demo showed, as figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from demo.service import Event
from edgetuner.metrics import macro_f1
from edgetuner.simulate import Outcome, Sent


def summarise(
    outcome: Outcome, classes: Sequence[str], events: Sequence[Event], status: dict[str, Any]
) -> dict[str, Any]:
    """The figures of the demo; what was not measured is null."""
    moved = [sent for sent in outcome.sent if sent.phase == 1]
    before = next((sent.model for sent in moved), None)  # live when the sensor moved
    adaptation, ingest = status["adaptation"], status["ingest"]
    swaps = [event.data for event in events if event.topic == "event.swap"]
    last = swaps[-1] if swaps else {}
    return {
        "windows_sent": len(outcome.sent),
        "windows_acked": outcome.acked,
        "predictions": outcome.predictions,
        "duplicates": outcome.duplicates + ingest["duplicates"],
        "lost": ingest["lost"],
        "f1_source": _f1([sent for sent in outcome.sent if sent.phase == 0], classes),
        "f1_drifted": _f1([sent for sent in moved if sent.model == before], classes),
        "f1_recovered": _f1([sent for sent in moved if sent.model != before], classes),
        "drift_delay_windows": _delay(moved, events),
        "adaptations": adaptation["adaptations"],
        "swaps": adaptation["swaps"],
        "rollbacks": adaptation["rollbacks"],
        "rung": last.get("rung"),
        "core_norm": last.get("core_norm"),
        "trained_fraction": last.get("trained_fraction"),
        "train_seconds": sum(swap["train_seconds"] for swap in swaps) if swaps else None,
        "gate": last.get("gate"),
        "energy_j": (status.get("board") or {}).get("energy_j"),
        "telemetry_source": (status.get("board") or {}).get("source"),
        "latency_s": status["state"]["latency_s"],
        "bytes_written": ingest.get("bytes_written"),
    }


def table(summary: dict[str, Any]) -> str:
    """The figures for a person."""
    rows = [
        ("windows sent / acknowledged / predicted", "windows_sent", "windows_acked", "predictions"),
        ("lost / duplicates", "lost", "duplicates"),
        ("macro-F1 right wrist, two new people", "f1_source"),
        ("macro-F1 left wrist, before the swap", "f1_drifted"),
        ("macro-F1 left wrist, after the swap", "f1_recovered"),
        ("drift noticed after, windows of a stream", "drift_delay_windows"),
        ("adaptations / swaps / rollbacks", "adaptations", "swaps", "rollbacks"),
        ("rung / norm of the trained cores", "rung", "core_norm"),
        ("trained share of the weights", "trained_fraction"),
        ("training, seconds", "train_seconds"),
        ("telemetry", "telemetry_source"),
    ]
    lines = [
        f"  {name:42} {' / '.join(_cell(summary[key]) for key in keys)}" for name, *keys in rows
    ]
    return "\n" + "\n".join(lines)


def _f1(sent: Sequence[Sent], classes: Sequence[str]) -> float | None:
    known = [one for one in sent if one.predicted is not None]
    if not known:
        return None
    index = {name: i for i, name in enumerate(classes)}
    y = np.array([one.y for one in known], np.int64)
    return round(macro_f1(y, np.array([index[one.predicted or ""] for one in known], np.int64)), 4)


def _delay(moved: Sequence[Sent], events: Sequence[Event]) -> int | None:
    """Windows of the first stream that was found drifted, from its first one on the other wrist."""
    first: dict[str, int] = {}
    for sent in moved:
        first.setdefault(sent.client, sent.seq)
    for event in events:
        if event.topic == "event.drift":
            client, seq = event.data["key"].split("/")[0], event.data["seq"]
            if client in first and seq >= first[client]:
                return int(seq - first[client])
    return None


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
