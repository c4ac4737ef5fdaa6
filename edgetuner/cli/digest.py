"""One line for a person on each message of the status socket.

A service of another version may say less or more: what is missing is a dash, and an event that is
not known here is shown as its facts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgetuner.cli.output import cell, latency, percent, size
from edgetuner.log import one_line, readable

Data = dict[str, Any]


def digest(topic: str, data: Data) -> str:
    """The message in words."""
    if topic.startswith("prediction."):
        return _prediction(data)
    known = _LINES.get(topic)
    return readable(data) if known is None else one_line(known(data))


# ------------------------------------------------------------------ states


def state(data: Data) -> str:
    """What it does, and how fast."""
    return (
        f"{_of(data, 'state')}: {_of(data, 'model')} on {_of(data, 'device')}, "
        f"{_of(data, 'predictions')} predicted, {_of(data, 'backlog')} waiting, "
        f"{latency(data.get('latency_s'))}"
    )


def ingest(data: Data) -> str:
    """What came in."""
    counts = (
        f"{_of(data, name)} {name}"
        for name in ("windows", "labels", "lost", "duplicates", "refused")
    )
    refusals = data.get("refusals") or {}
    most = max(refusals, key=refusals.__getitem__, default=None)
    why = "" if most is None else f", mostly for {most}"
    return ", ".join(counts) + why


def model(data: Data) -> str:
    """Who answers, and which versions hold which name."""
    names = (f"{name} {data[name]}" for name in _ALIASES if data.get(name))
    live = f"{_of(data, 'live')} is live"
    if data.get("live_beside"):
        beside = data["live_beside"]
        others = beside if isinstance(beside, str) else " and ".join(beside)
        live = f"{live} and counts {_of(data, 'live_share')}, {others} the rest"
    return f"{live}; {', '.join(names)}"


def drift(data: Data) -> str:
    """The stream that is nearest to an alarm, or beyond."""
    shares = [
        (share, f"{_stream(one)}: {detector} at {percent(share)} of its threshold")
        for one in data.get("streams") or []
        for detector, share in statistic_shares(one, data).items()
    ]
    return max(shares)[1] if shares else "no window yet"


def adaptation(data: Data) -> str:
    """Where the adaptation stands, and how many there were."""
    state = cell(data.get("state"))
    parts = [state, requested(data), deferred(data), progress(data), probation(data)]
    return "; ".join([", ".join(filter(None, parts)), counts(data)])


def board(data: Data) -> str:
    """What the board measures of itself."""
    source = _of(data, "source")
    parts = [
        _power(data),
        _memory(data),
        _hottest(data.get("temperature_c") or {}),
        _load("GPU", data.get("gpu_load")),
        _load("CPU", data.get("cpu_load")),
        data.get("power_mode"),
        _energy(data.get("energy_j") or {}),
    ]
    return f"{source}: {', '.join(filter(None, parts)) or 'nothing is measured'}"


# ------------------------------------------------------------------ parts of states


def statistic_shares(stream: Data, drift: Data) -> dict[str, float]:
    """Each detector's statistic as a share of its threshold."""
    thresholds = drift.get("detectors") or {}
    return {
        name: statistic / thresholds[name]
        for name, statistic in (stream.get("statistics") or {}).items()
        if thresholds.get(name)
    }


def counts(data: Data) -> str:
    """The counters of adaptations."""
    return (
        f"{_of(data, 'adaptations')} begun, {_of(data, 'swaps')} swapped in, "
        f"{_of(data, 'promotions')} promoted, {_of(data, 'refused')} refused, "
        f"{_of(data, 'failed')} failed, {_of(data, 'rollbacks')} rolled back"
    )


def requested(data: Data) -> str | None:
    """That an operator asked for one, which has not begun."""
    return None if data.get("requested") is None else "asked for"


def deferred(data: Data) -> str | None:
    """Why it does not begin."""
    return f"waits: {data['deferred']}" if data.get("deferred") else None


def progress(data: Data) -> str | None:
    """How far training is."""
    now = data.get("progress")
    if not now:
        return None
    f1 = f", macro-F1 {now['held_f1']:.3f}" if now.get("held_f1") is not None else ""
    return f"rung {_of(now, 'rung')}{f1}"


def probation(data: Data) -> str | None:
    """How far probation is."""
    now = data.get("probation")
    return now and f"{_of(now, 'labels')} labels and {_of(now, 'windows')} windows of probation"


def last(data: Data) -> str | None:
    """What the last training gave."""
    about = data.get("last")
    if not about:
        return None
    gate = about.get("gate") or {}
    if about.get("reused"):
        return f"an earlier version passed the gate: {_of(gate, 'reason')}"
    verdict = "passed the gate" if gate.get("passed") else "refused"
    facts = [
        f"{cell(about.get('train_seconds'))} s of training",
        f"{percent(about.get('trained_fraction'), 2)} of the weights trained",
    ]
    if about.get("peak_held_bytes"):
        facts.append(f"{size(about['peak_held_bytes'])} of memory")
    return f"rung {_of(about, 'rung')} {verdict}: {_of(gate, 'reason')} ({', '.join(facts)})"


def _power(data: Data) -> str | None:
    watts = data.get("total_power_w")
    return None if watts is None else f"{watts:.1f} W"


def _memory(data: Data) -> str | None:
    free, total = data.get("memory_available_bytes"), data.get("memory_total_bytes")
    return None if free is None else f"{size(free)} of {size(total)} memory free"


def _hottest(zones: dict[str, float]) -> str | None:
    if not zones:
        return None
    zone, degrees = max(zones.items(), key=lambda item: item[1])
    return f"{degrees:.0f} C ({zone})"


def _load(name: str, share: float | None) -> str | None:
    return None if share is None else f"{name} {percent(share)}"


def _energy(joules: dict[str, float]) -> str | None:
    parts = [f"{phase} {used:.0f} J" for phase, used in joules.items()]
    return f"energy {' '.join(parts)}" if parts else None


# ------------------------------------------------------------------ events


def _prediction(data: Data) -> str:
    again = ", again" if data.get("again") else ""
    by = f"by {_of(data, 'model')}"
    if data.get("overruled") is not None:
        by = f"by labels, where {_of(data, 'model')} says {data['overruled']}"
    return (
        f"window {_of(data, 'seq')}: {_of(data, 'predicted')} "
        f"({percent(data.get('confidence'))}) {by}{again}"
    )


def _found(data: Data) -> str:
    statistic, threshold = data.get("statistic"), data.get("threshold")
    return (
        f"{_of(data, 'key')}: {_of(data, 'detector')} {cell(statistic)} of {cell(threshold)} "
        f"at window {_of(data, 'seq')}, since {_of(data, 'onset_seq')}"
    )


def _fault(data: Data) -> str:
    channel = data.get("channel")
    where = "" if channel is None else f" in channel {channel}"
    since = _of(data, "onset_seq")
    return f"{_of(data, 'key')}: {_of(data, 'detector')}{where} since window {since}"


def _well(data: Data) -> str:
    was, since = _of(data, "detector"), _of(data, "onset_seq")
    return f"{_of(data, 'key')}: no {was} any more since window {since}"


def _swap(data: Data) -> str:
    return (
        f"{_of(data, 'version')} is live on probation, {_of(data, 'previous')} stands by; "
        f"{'reused' if data.get('reused') else _of(data, 'rung')}: "
        f"{_of(data.get('gate') or {}, 'reason')}"
    )


def _recall(data: Data) -> str:
    asked = [
        f"{_of(one, 'version')}: {_error(one) if 'error' in one else _of(one, 'reason')}"
        for one in data.get("asked") or []
    ]
    return f"earlier versions were asked; {'; '.join(asked)}"


def _error(data: Data) -> str:
    return _of(data.get("error") or {}, "message")


def _of(data: Data, name: str) -> str:
    return cell(data.get(name))


def _stream(data: Data) -> str:
    return f"{_of(data, 'client')}/{_of(data, 'stream')}"


def _versioned(before: str) -> Callable[[Data], str]:
    return lambda data: f"{before}{_of(data, 'version')}: {_of(data, 'reason')}"


_ALIASES = ("champion", "candidate", "previous")
_LINES: dict[str, Callable[[Data], str]] = {
    "status.state": state,
    "status.ingest": ingest,
    "status.model": model,
    "status.drift": drift,
    "status.adaptation": adaptation,
    "status.board": board,
    "event.started": lambda d: f"edgetuner {_of(d, 'version')} serves {_of(d, 'model')}",
    "event.stopping": lambda d: f"{_of(d, 'backlog')} windows are still to be predicted",
    "event.warn": _found,
    "event.drift": _found,
    "event.drift_over": lambda d: (
        f"{_of(d, 'key')}: as before again at window {_of(d, 'onset_seq')}, by {_of(d, 'detector')}"
    ),
    "event.sensor_fault": _fault,
    "event.sensor_ok": _well,
    "event.deferred": lambda d: _of(d, "reason"),
    "event.adaptation_started": lambda d: _of(d, "why"),
    "event.gate": lambda d: "training is done; the candidate is judged on held-out windows",
    "event.false_alarm": lambda d: (
        f"macro-F1 {_of(d, 'champion_f1')}, {_of(d, 'home_f1')} at home: nothing to learn"
    ),
    "event.recall": _recall,
    "event.refused": lambda d: f"the candidate is not used: {_of(d, 'reason')}",
    "event.swap": _swap,
    "event.promoted": _versioned(""),
    "event.rollback": _versioned("back to "),
    "event.adaptation_failed": _error,
    "event.reload_refused": _error,
    "event.store_failed": _error,
    "event.trouble": _error,
}
