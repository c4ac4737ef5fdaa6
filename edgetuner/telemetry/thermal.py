"""Temperatures by zone, from the kernel's thermal framework and from hwmon."""

from __future__ import annotations

from pathlib import Path

from edgetuner.telemetry import files

# A sensor that is off reads -256 or -273.2; silicon that works is nowhere near either bound.
_LOWEST_C, _HIGHEST_C = -60.0, 200.0


def plausible(celsius: float) -> bool:
    """Whether this can be a temperature, and not the mark of a sensor that is off."""
    return _LOWEST_C < celsius < _HIGHEST_C


def zone_name(raw: str) -> str:
    """`cpu-thermal` -> `cpu`, so that a zone has one name whoever reads it."""
    return raw.removesuffix("-thermal").removesuffix("_thermal")


def zones(sysroot: Path) -> dict[str, Path]:
    """Directories of the thermal zones by name; a second zone of a name gets its number."""
    found: dict[str, Path] = {}
    for zone in files.matching(sysroot / "sys/class/thermal", "thermal_zone*"):
        raw = files.text(zone / "type")
        if raw:
            name = zone_name(raw)
            unique = name if name not in found else f"{name}_{zone.name.removeprefix('thermal_')}"
            found[unique] = zone
    return found


def temperatures_c(zones: dict[str, Path]) -> dict[str, float]:
    """Degrees Celsius of the zones that answer."""
    readings = {name: celsius(zone / "temp") for name, zone in zones.items()}
    return {name: value for name, value in readings.items() if value is not None}


def passive_trips_c(zones: dict[str, Path]) -> dict[str, float]:
    """By zone, the lowest temperature at which the kernel throttles it, where it ever does."""
    trips = {}
    for name, zone in zones.items():
        passive = [
            value
            for kind in files.matching(zone, "trip_point_*_type")
            if files.text(kind) == "passive"
            and (value := celsius(kind.with_name(kind.name.replace("_type", "_temp")))) is not None
        ]
        if passive:
            trips[name] = min(passive)
    return trips


def hwmon_temperatures_c(sysroot: Path) -> dict[str, float]:
    """Degrees Celsius of hwmon sensors, as `k10temp Tctl`: many computers have no thermal zones."""
    found = {}
    for path in files.matching(sysroot / "sys/class/hwmon", "hwmon*/temp*_input"):
        value = celsius(path)
        if value is not None:
            number = path.name.removesuffix("_input")
            label = files.text(path.with_name(f"{number}_label")) or number
            device = files.text(path.with_name("name")) or path.parent.name
            name = f"{device} {label}"
            found[name if name not in found else f"{name} {path.parent.name}"] = value
    return found


def celsius(path: Path) -> float | None:
    """A file in thousandths of a degree Celsius, or None."""
    value = files.integer(path)
    return None if value is None or not plausible(value / 1000) else value / 1000
