"""What the demo showed, as figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from demo.service import Event
from edgetuner.metrics import macro_f1
from edgetuner.simulate import Outcome, Sent

_GAIN = 0.35  # of macro-F1, from the drifted windows to those after the swap
_MOST_TRAINED = 0.0149  # of the weights


def summarise(
    outcome: Outcome, classes: Sequence[str], events: Sequence[Event], status: dict[str, Any]
) -> dict[str, Any]:
    """The figures of the demo; what was not measured is null."""
    moved = [sent for sent in outcome.sent if sent.phase == 1]
    # Live when the sensor moved.
    before = next((sent.model for sent in moved if sent.model is not None), None)
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
        "train_seconds": _total([swap.get("train_seconds") for swap in swaps]),
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
        ("drift shows after, windows of a stream", "drift_delay_windows"),
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


def broken_promises(summary: dict[str, Any]) -> list[str]:
    """The promises of the demo that these figures do not keep; what was not measured keeps none."""
    sent = summary["windows_sent"]
    before, after = summary["f1_drifted"], summary["f1_recovered"]
    fraction = summary["trained_fraction"]
    promises = {
        "not one window lost": summary["lost"] == 0,
        "none twice": summary["duplicates"] == 0,
        "one prediction each": summary["predictions"] == summary["windows_acked"] == sent > 0,
        "a version with trained cores swapped in": bool(summary["core_norm"]),
        "F1 came back": None not in (before, after) and after >= before + _GAIN,
        "at most 1.49 % trained": fraction is not None and fraction <= _MOST_TRAINED,
        "the service ended cleanly": summary["exit_code"] == 0,
    }
    return [promise for promise, kept in promises.items() if not kept]


def _total(values: Sequence[float | None]) -> float | None:
    """Their sum; None if there is none, or one is not known."""
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None


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
