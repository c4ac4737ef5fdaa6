"""The INA3221 power monitor of a Jetson through hwmon.

Files as in the kernel's Documentation/hwmon/ina3221.rst: `in{n}_input` in mV, `curr{n}_input` in
mA, `in{n}_label` the rail; n = 7 is the sum of the shunt voltages and no rail.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgetuner.telemetry import files

_SHUNT_SUM = 7


@dataclass(frozen=True)
class Rail:
    """One channel: its hwmon directory and number."""

    hwmon: Path
    channel: int

    def power_w(self) -> float | None:
        """Watts now, or None while the channel cannot be read."""
        millivolts = files.integer(self.hwmon / f"in{self.channel}_input")
        milliamperes = files.integer(self.hwmon / f"curr{self.channel}_input")
        if millivolts is None or milliamperes is None:
            return None
        return millivolts * milliamperes / 1e6

    def over_current(self) -> bool | None:
        """Whether an over-current alarm is raised; None where the kernel has none."""
        alarms = [
            files.integer(self.hwmon / f"curr{self.channel}_{kind}_alarm")
            for kind in ("max", "crit")
        ]
        known = [alarm for alarm in alarms if alarm is not None]
        return any(known) if known else None


def rails(sysroot: Path) -> dict[str, Rail]:
    """The connected rails of every INA3221, by label.

    The bus address and the hwmon number differ between boards and boots, so they are searched.
    """
    found: dict[str, Rail] = {}
    for hwmon in files.matching(sysroot / "sys/bus/i2c/devices", "*/hwmon/hwmon*"):
        if "ina3221" not in (files.text(hwmon / "name") or ""):
            continue
        for path in files.matching(hwmon, "in*_label"):
            digits, label = path.name[2:].removesuffix("_label"), files.text(path)
            connected = label and label.upper() != "NC"  # "not connected" in the device tree
            if label and connected and digits.isdigit() and int(digits) < _SHUNT_SUM:
                name = label if label not in found else f"{label} {hwmon.parent.parent.name}"
                found[name] = Rail(hwmon, int(digits))
    return found
