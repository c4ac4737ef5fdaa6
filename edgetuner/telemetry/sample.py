"""One reading of the board. What was not measured is None or missing, never 0."""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

SIMULATED: Final = "simulated"


class Sample(BaseModel):
    """What one source measured at one moment, in base units.

    Attributes:
        source: who measured: jtop, sysfs, host or simulated.
        t: when, seconds since the epoch.
        monotonic_s: when, on this process's monotonic clock; for differences, and not on the wire.
        age_s: seconds from the measurement to the moment it was read.
        power_w: watts by rail.
        total_power_w: watts of everything the source can see: the module's input on a Jetson (not
            the wall socket), the processor packages on an ordinary host.
        memory_total_bytes: memory of the machine; shared by CPU and GPU on a Jetson.
        memory_available_bytes: the kernel's MemAvailable: free, and reclaimable without swapping.
        process_rss_bytes: resident set of this process.
        swap_used_bytes: swap in use on the machine.
        temperature_c: degrees Celsius by zone.
        passive_trip_c: degrees Celsius by zone at which the kernel begins to slow the board down.
        gpu_load: share of time the GPU was busy, 0..1.
        cpu_load: share of time the processors were busy since the last reading, 0..1.
        power_mode: name of the nvpmodel power mode.
        over_current: rails whose over-current alarm is raised; () means none is, None not known.
    """

    # NaN and infinity are refused: no instrument measures them, and JSON cannot carry them.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    source: str
    t: float
    monotonic_s: float = Field(exclude=True)
    age_s: float | None = Field(default=None, ge=0)
    power_w: dict[str, float] = {}
    total_power_w: float | None = None
    memory_total_bytes: int | None = Field(default=None, ge=0)
    memory_available_bytes: int | None = Field(default=None, ge=0)
    process_rss_bytes: int | None = Field(default=None, ge=0)
    swap_used_bytes: int | None = Field(default=None, ge=0)
    temperature_c: dict[str, float] = {}
    passive_trip_c: dict[str, float] = {}
    gpu_load: float | None = Field(default=None, ge=0, le=1)
    cpu_load: float | None = Field(default=None, ge=0, le=1)
    power_mode: str | None = None
    over_current: tuple[str, ...] | None = None

    @property
    def simulated(self) -> bool:
        """Whether power, temperature and GPU load are invented."""
        return self.source == SIMULATED

    def aged(self, monotonic_s: float) -> Sample:
        """The same reading as seen at `monotonic_s`."""
        return self.model_copy(update={"age_s": max(0.0, monotonic_s - self.monotonic_s)})

    def to_wire(self) -> dict[str, Any]:
        """JSON-compatible values; whatever is absent has no key."""
        wire = self.model_dump(mode="json", exclude_none=True)
        return {key: value for key, value in wire.items() if value != {}}
