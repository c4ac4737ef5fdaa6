"""From jtop's shapes and units to ours.

Shapes of jetson-stats 7.2: power `{"rail": {name: r}, "tot": r}` with `r["power"]` in mW and
`r["online"]`; on an Orin Nano the input rail is moved to `tot` and named there. Temperature
`{zone: {"temp": C, "online": bool}}`, -256 when offline. GPU `{name: {"status": {"load": %}}}`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, TypedDict

from edgetuner.telemetry import thermal
from edgetuner.telemetry.rails import total_power_w


class BoardReading(TypedDict):
    """The fields of a Sample that jtop knows and /proc does not."""

    power_w: dict[str, float]
    total_power_w: float | None
    temperature_c: dict[str, float]
    gpu_load: float | None
    power_mode: str | None


def board_reading(line: dict[str, Any]) -> BoardReading:
    """One line of the child in base units; what is offline, missing or no number is absent."""
    found, power_w = _rails(_mapping(line.get("power")))
    mode = line.get("nvpmodel")
    return BoardReading(
        power_w=power_w,
        total_power_w=total_power_w(found, power_w),
        temperature_c={
            thermal.zone_name(zone): celsius
            for zone, reading in _mappings(line.get("temperature"))
            if reading.get("online") is not False
            and (celsius := number(reading.get("temp"))) is not None
            and thermal.plausible(celsius)
        },
        gpu_load=_gpu_load(line.get("gpu")),
        power_mode=mode if isinstance(mode, str) else None,
    )


def number(value: object) -> float | None:
    """A finite number as a float; anything else is absent."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _rails(power: dict[str, Any]) -> tuple[set[str], dict[str, float]]:
    """Names of all rails, and watts of those that are online."""
    rails = dict(_mappings(power.get("rail")))
    total = _mapping(power.get("tot"))
    # Without a name `tot` is a sum, 0 if no rail could be read: it measures nothing.
    if isinstance(total.get("name"), str):
        rails[total["name"]] = total
    watts = {
        name: milliwatts / 1000
        for name, rail in rails.items()
        if rail.get("online") is not False and (milliwatts := number(rail.get("power"))) is not None
    }
    return set(rails), watts


def _gpu_load(gpus: object) -> float | None:
    for _, gpu in _mappings(gpus):
        percent = number(_mapping(gpu.get("status")).get("load"))
        if percent is not None and 0 <= percent <= 100:
            return percent / 100
    return None


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _mappings(value: object) -> Iterator[tuple[str, dict[str, Any]]]:
    """The entries of a mapping that are mappings themselves."""
    for name, entry in _mapping(value).items():
        if isinstance(entry, dict):
            yield name, entry
