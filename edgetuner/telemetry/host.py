"""An ordinary computer: memory, load, temperatures, and processor power if readable."""

from __future__ import annotations

import time

from edgetuner.errors import TelemetryError
from edgetuner.telemetry import thermal
from edgetuner.telemetry.proc import Proc
from edgetuner.telemetry.rapl import Rapl
from edgetuner.telemetry.sample import Sample
from edgetuner.telemetry.source import Options


class Host:
    """/proc and /sys of any Linux below `options.sysroot`."""

    def __init__(self, options: Options) -> None:
        self._root = options.sysroot
        self._clock = options.clock
        self._proc = Proc(self._root)
        self._rapl = Rapl(self._root, self._clock)
        self._zones = thermal.zones(self._root)
        self._passive_trip_c = thermal.passive_trips_c(self._zones)

    def read(self) -> Sample:
        """See `Source.read`. Takes a few milliseconds."""
        reading = self._proc.read()
        if reading["memory_total_bytes"] is None:
            raise TelemetryError(
                "no memory information",
                field="telemetry.host",
                value=str(self._root / "proc/meminfo"),
                remedy="run on Linux with /proc mounted (systemd: not ProcSubset=pid)",
            )
        power_w = self._rapl.power_w()
        # A zone and a hwmon sensor may be one piece of silicon under two names; both are shown.
        temperature_c = thermal.hwmon_temperatures_c(self._root)
        temperature_c.update(thermal.temperatures_c(self._zones))
        return Sample(
            source="host",
            t=time.time(),
            monotonic_s=self._clock(),
            power_w=power_w,
            total_power_w=self._rapl.total_w(power_w),
            temperature_c=temperature_c,
            passive_trip_c=self._passive_trip_c,
            **reading,
        )

    def close(self) -> None:
        """Nothing stays open between readings."""
