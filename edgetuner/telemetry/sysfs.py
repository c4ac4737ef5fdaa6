"""A Jetson through the kernel's own files: no service, no group, no third-party package."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path

from edgetuner.errors import TelemetryError
from edgetuner.telemetry import files, ina3221, thermal
from edgetuner.telemetry.proc import Proc
from edgetuner.telemetry.rails import total_power_w
from edgetuner.telemetry.sample import Sample
from edgetuner.telemetry.source import Options

# Device-tree names of the integrated GPUs: "gpu" since JetPack 6, chip names before.
_GPU_NAME = re.compile(r"gpu|g[abpv]\d\d?b")


@dataclass(frozen=True)
class _Board:
    """Where the sensors of this board are; it changes only when a driver is loaded."""

    rails: dict[str, ina3221.Rail]
    zones: dict[str, Path]
    passive_trip_c: dict[str, float]
    gpu_load: Path | None


class Sysfs:
    """INA3221 rails, thermal zones, GPU load and power mode below `options.sysroot`."""

    def __init__(self, options: Options) -> None:
        self._root = options.sysroot
        self._clock = options.clock
        self._proc = Proc(self._root)
        self._board = _scan(self._root)

    def read(self) -> Sample:
        """See `Source.read`. Takes a few milliseconds: one small file a value."""
        power_w = self._power_w()
        if not power_w:
            # A driver may have been loaded, or hwmon numbered anew, since the last scan.
            self._board = _scan(self._root)
            power_w = self._power_w()
        board = self._board
        if not board.rails and board.gpu_load is None:
            raise TelemetryError(
                "no INA3221 power monitor and no Jetson GPU",
                field="telemetry.sysfs",
                value=str(self._root / "sys/bus/i2c/devices"),
                remedy="use the host or the simulated source on a computer that is not a Jetson",
            )
        return Sample(
            source="sysfs",
            t=time.time(),
            monotonic_s=self._clock(),
            power_w=power_w,
            total_power_w=total_power_w(board.rails, power_w),
            temperature_c=thermal.temperatures_c(board.zones),
            passive_trip_c=board.passive_trip_c,
            gpu_load=_share(board.gpu_load),
            power_mode=_power_mode(self._root),
            over_current=self._over_current(),
            **self._proc.read(),
        )

    def close(self) -> None:
        """Nothing stays open between readings."""

    def _power_w(self) -> dict[str, float]:
        readings = {name: rail.power_w() for name, rail in self._board.rails.items()}
        return {name: watts for name, watts in readings.items() if watts is not None}

    def _over_current(self) -> tuple[str, ...] | None:
        alarms = {name: rail.over_current() for name, rail in self._board.rails.items()}
        known = [name for name, alarm in alarms.items() if alarm is not None]
        return tuple(name for name in known if alarms[name]) if known else None


def _scan(sysroot: Path) -> _Board:
    zones = thermal.zones(sysroot)
    return _Board(
        rails=ina3221.rails(sysroot),
        zones=zones,
        passive_trip_c=thermal.passive_trips_c(zones),
        gpu_load=_find_gpu_load(sysroot),
    )


def _find_gpu_load(sysroot: Path) -> Path | None:
    for device in files.matching(sysroot / "sys/class/devfreq", "*/device"):
        name = files.text(device / "of_node/name") or device.parent.name
        if _GPU_NAME.search(name.lower()) and (device / "load").exists():
            return device / "load"
    return None


def _share(permille: Path | None) -> float | None:
    """A devfreq load, written in thousandths, as 0..1."""
    value = None if permille is None else files.integer(permille)
    return value / 1000 if value is not None and 0 <= value <= 1000 else None


def _power_mode(sysroot: Path) -> str | None:
    """The name of the power mode, without asking nvpmodel, which wants root."""
    status = re.search(r"pmode:(\d+)", files.text(sysroot / "var/lib/nvpmodel/status") or "")
    if status is None:
        return None
    number = int(status[1])
    models = files.text(sysroot / "etc/nvpmodel.conf") or ""
    model = re.search(rf"<\s*POWER_MODEL\s+ID=0*{number}\s+NAME=(\S+)\s*>", models)
    return model[1] if model else str(number)
