"""The answer to `edgetuner status`, on one screen."""

from __future__ import annotations

from typing import Any

from edgetuner.cli import digest
from edgetuner.cli.output import bar, cell, colour, duration, latency, pairs, size, spoken, table

Data = dict[str, Any]

_STATE_COLOURS = {"watching": "green", "drifted": "yellow", "paused": "yellow"}


def overview(status: Data) -> str:
    """What the service does, what came in, how each stream drifts, what became of adaptations."""
    parts = [_service(status), _streams(status), _adaptation(status.get("adaptation") or {})]
    return "\n\n".join(parts)


def _service(status: Data) -> str:
    state, ingest = status.get("state") or {}, status.get("ingest") or {}
    name = cell(state.get("state"))
    board = status.get("board")
    return pairs(
        [
            ("state", colour(name, _STATE_COLOURS.get(name, "blue"))),
            ("up", f"{duration(state.get('uptime_s'))}, on {cell(state.get('device'))}"),
            ("model", _model(status.get("model") or {})),
            ("came in", digest.ingest(ingest)),
            (
                "predicted",
                f"{cell(state.get('predictions'))}, {cell(state.get('backlog'))} waiting; "
                f"{latency(state.get('latency_s'))}",
            ),
            ("store", _store(ingest)),
            ("board", digest.board(board) if board else None),
        ]
    )


def _model(model: Data) -> str:
    metrics = (f"{spoken(name)} {value:.3f}" for name, value in model.get("metrics", {}).items())
    return "; ".join([digest.model(model), ", ".join(metrics) or "nothing measured"])


def _store(ingest: Data) -> str:
    a_day = ingest.get("bytes_written_per_day")
    text = f"{size(ingest.get('store_bytes'))}, {size(ingest.get('bytes_written'))} written"
    return text if a_day is None else f"{text}, {size(a_day)} a day"


def _streams(status: Data) -> str:
    ingest, drift = status.get("ingest") or {}, status.get("drift") or {}
    detectors = list(drift.get("detectors") or {})
    watched = {f"{one.get('client')}/{one.get('stream')}": one for one in drift.get("streams", [])}
    counters = ("accepted", "labelled", "lost", "refused", "duplicates")
    rows = []
    for key, counts in (ingest.get("streams") or {}).items():
        stream = watched.get(key, {})
        shares = digest.statistic_shares(stream, drift)
        bars = [bar(shares[name]) if name in shares else None for name in detectors]
        rows.append([key, *(counts.get(name) for name in counters), *bars, _condition(stream)])
    if not rows:
        return "no stream yet"
    header = ("stream", *counters, *(f"{name} drift" for name in detectors), "condition")
    return table(rows, header)


def _condition(stream: Data) -> str | None:
    """What stands on a stream."""
    if fault := stream.get("sensor_fault"):
        return f"sensor fault: {fault}"
    if stream.get("drifted"):
        return f"drifted since window {cell(stream.get('context_start'))}"
    return "no drift" if stream.get("windows") else None


def _adaptation(adaptation: Data) -> str:
    return pairs(
        [
            ("adaptations", digest.counts(adaptation)),
            ("now", _now(adaptation)),
            ("last", digest.last(adaptation)),
        ]
    )


def _now(adaptation: Data) -> str | None:
    parts = (
        digest.requested(adaptation),
        digest.deferred(adaptation),
        digest.progress(adaptation),
        digest.probation(adaptation),
    )
    return "; ".join(filter(None, parts)) or None
