"""What the machine is, what it can tell of itself, and whether it has room to train."""

from __future__ import annotations

import platform
import re
import time
from collections.abc import Iterator
from pathlib import Path

from edgetuner.config import Config
from edgetuner.doctor.diagnosis import Diagnosis
from edgetuner.errors import BudgetError, TelemetryError
from edgetuner.telemetry import Sample, files, open_telemetry
from edgetuner.telemetry.proc import Proc

_MB = 1024 * 1024
_RELEASE = re.compile(r"R(\d+) \(release\), REVISION: ([\d.]+)")
_RELEASED_S = 1_764_000_000  # when this was written: no clock that is right stands before it


def board(sysroot: Path) -> Diagnosis:
    """Which board this is, and its release of L4T."""
    model = files.text(sysroot / "proc/device-tree/model")
    release = _RELEASE.search(files.text(sysroot / "etc/nv_tegra_release") or "")
    machine = f"{platform.system()} on {platform.machine()}, Python {platform.python_version()}"
    if release is None:
        here = model or machine
        return Diagnosis("board", "note", f"not a Jetson: {here}", {"machine": here})
    l4t = f"{release[1]}.{release[2]}"
    named = model or "a Jetson without a name"
    return Diagnosis("board", "ok", f"{named}, L4T {l4t}, {machine}", {"model": named, "l4t": l4t})


def telemetry(config: Config, sysroot: Path) -> Iterator[Diagnosis]:
    """Of each source that is configured: what it measures, or why it does not. The service reads
    the first that answers.
    """
    read: Sample | None = None  # by the service
    for name in config.telemetry.sources:
        source = open_telemetry([name], config.telemetry.interval_s, sysroot=sysroot)
        try:
            sample = source.read()
            skipped = source.skipped.get(name, "says nothing")
        finally:
            source.close()
        check = f"telemetry: {name}"
        if sample is None:
            yield Diagnosis(check, "note", skipped)
            continue
        read = read or sample
        yield Diagnosis(check, "ok", _measured(sample), sample.to_wire())
    if (
        read is None or read.total_power_w is None
    ) and config.adapt.energy_budget_j_per_day is not None:
        error = TelemetryError(
            "the source that is read measures no power, so that no energy is counted",
            field="adapt.energy_budget_j_per_day",
            value=config.adapt.energy_budget_j_per_day,
            remedy="put sysfs or jtop first in telemetry.sources, or leave the budget out",
        )
        yield Diagnosis.of("telemetry: energy", error)


def _measured(sample: Sample) -> str:
    hottest = max(sample.temperature_c.items(), key=lambda item: item[1], default=None)
    watts, gpu, mode = sample.total_power_w, sample.gpu_load, sample.power_mode
    parts = [
        None if watts is None else f"{watts:.1f} W",
        None if hottest is None else f"{hottest[0]} at {hottest[1]:.0f} C",
        None if gpu is None else f"GPU load {100 * gpu:.0f} %",
        None if mode is None else f"power mode {mode}",
        f"over-current on {', '.join(sample.over_current)}" if sample.over_current else None,
    ]
    known = [part for part in parts if part is not None]
    return ", ".join(known) or "memory and processor load only"


def memory(config: Config, sysroot: Path) -> Diagnosis:
    """Whether as much is free as training may take."""
    reading, adapt = Proc(sysroot).read(), config.adapt
    free, total = reading["memory_available_bytes"], reading["memory_total_bytes"]
    if free is None:
        return Diagnosis("memory", "note", "/proc/meminfo does not tell what is available")
    needed = (adapt.memory_budget_mb + adapt.min_available_mb) * _MB
    facts = {"memory_available_bytes": free, "needed_bytes": needed}
    if free < needed:
        error = BudgetError(
            "less memory is free than training needs: it would be put off",
            field="adapt.memory_budget_mb",
            value=f"{free // _MB} MB free, {needed // _MB} MB asked for",
            remedy="end what holds it, such as a desktop, or lower adapt.memory_budget_mb",
        )
        return Diagnosis.of("memory", error, facts)
    of = "" if total is None else f" of {total // _MB}"
    return Diagnosis(
        "memory", "ok", f"{free // _MB}{of} MB available, training asks for {needed // _MB}", facts
    )


def heat(config: Config, sysroot: Path) -> Diagnosis:
    """Whether training may start at this temperature, and before the board slows itself down."""
    names = [name for name in config.telemetry.sources if name != "jtop"]
    source = open_telemetry(names, config.telemetry.interval_s, sysroot=sysroot)
    try:
        sample = source.read()
    finally:
        source.close()
    if sample is None or not sample.temperature_c:
        return Diagnosis("heat", "note", "no temperature is told; none puts training off")
    most = config.adapt.max_temperature_c
    zone, hottest = max(sample.temperature_c.items(), key=lambda item: item[1])
    said = f"{zone} at {hottest:.0f} C, training starts up to {most:.0f}"
    facts = {"temperature_c": sample.temperature_c, "passive_trip_c": sample.passive_trip_c}
    if hottest > most:
        return Diagnosis("heat", "note", f"{said}: it would wait", facts)
    slows = min(sample.passive_trip_c.values(), default=None)
    if slows is not None and slows < most:
        said += f", the board slows down at {slows:.0f}: lower adapt.max_temperature_c"
        return Diagnosis("heat", "note", said, facts)
    return Diagnosis("heat", "ok", said, facts)


def clock(sysroot: Path, now_s: float | None = None) -> Diagnosis:
    """Whether the clock can be right: a board without a battery wakes up in the past."""
    now_s = time.time() if now_s is None else now_s
    shown = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now_s))
    facts = {"unix_s": round(now_s)}
    if now_s < _RELEASED_S:
        return Diagnosis("clock", "note", f"{shown} is past: wait for NTP or set it", facts)
    if not (sysroot / "run/systemd/timesync/synchronized").exists():
        said = f"{shown}, not known to be synchronised by systemd-timesyncd"
        return Diagnosis("clock", "note", said, facts)
    return Diagnosis("clock", "ok", f"{shown}, synchronised", facts)
