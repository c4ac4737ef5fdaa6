"""The rule that makes one total of several power rails, the same for every source."""

from __future__ import annotations

from collections.abc import Collection, Mapping

# Rails through which all power enters: the Orin and Xavier NX modules, a carrier, the first Nano.
INPUT_RAILS = ("VIN", "VDD_IN", "POM_5V_IN")


def total_power_w(found: Collection[str], power_w: Mapping[str, float]) -> float | None:
    """Watts of the input rail if the board has one, else the sum of its rails.

    Args:
        found: names of all rails of the board.
        power_w: watts of those that could be read.

    Returns:
        None as soon as a rail that is needed could not be read: a sum with a hole is no total.
    """
    for name in INPUT_RAILS:
        if name in found:
            return power_w.get(name)
    return sum(power_w.values()) if found and set(found) <= set(power_w) else None
