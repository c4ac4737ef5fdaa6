"""Power of an Intel or AMD processor from its RAPL energy counters.

Files as in the kernel's Documentation/power/powercap/powercap.rst. Most systems let only root read
them (CVE-2020-8694); then there is simply no power.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edgetuner.telemetry import files


class Rapl:
    """Turns the counters of the top-level domains (`package-0`, `psys`) into watts."""

    def __init__(self, sysroot: Path, clock: Callable[[], float]) -> None:
        self._clock = clock
        # Sub-domains (`intel-rapl:0:0`) are parts of a package and would be counted twice.
        self._domains = {
            files.text(path / "name") or path.name: path
            for path in files.matching(sysroot / "sys/class/powercap", "intel-rapl:*")
            if path.name.count(":") == 1
        }
        self._last: dict[str, tuple[float, int]] = {}

    def power_w(self) -> dict[str, float]:
        """Mean watts by domain since the last call; nothing for a domain read the first time."""
        readings = {name: self._domain_w(name, path) for name, path in self._domains.items()}
        return {name: watts for name, watts in readings.items() if watts is not None}

    def total_w(self, power_w: dict[str, float]) -> float | None:
        """Watts of the whole platform if it has a counter, else of all packages."""
        if "psys" in self._domains:
            return power_w.get("psys")
        packages = [name for name in self._domains if name.startswith("package")]
        if not packages or any(name not in power_w for name in packages):
            return None
        return sum(power_w[name] for name in packages)

    def _domain_w(self, name: str, path: Path) -> float | None:
        now_s, now_uj = self._clock(), files.integer(path / "energy_uj")
        before = self._last.pop(name, None)
        if now_uj is None:
            return None
        self._last[name] = (now_s, now_uj)
        if before is None or now_s <= before[0]:
            return None
        spent_uj = now_uj - before[1]
        if spent_uj < 0:  # the counter wrapped
            wrap_uj = files.integer(path / "max_energy_range_uj")
            if wrap_uj is None:
                return None
            spent_uj += wrap_uj
        return spent_uj / 1e6 / (now_s - before[0])
