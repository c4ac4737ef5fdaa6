from __future__ import annotations

from edgetuner.adapt.energy import DayEnergy

HOUR_S = 3600.0


def test_what_was_used_counts_for_24_hours() -> None:
    now = 0.0
    energy = DayEnergy(lambda: now)
    assert energy.used_j == 0
    energy.use(300.0)
    now = 10 * HOUR_S
    energy.use(40.0)
    assert energy.used_j == 340
    now = 24 * HOUR_S - 1
    assert energy.used_j == 340
    now = 24 * HOUR_S
    assert energy.used_j == 40, "the first is a day old"
    energy.use(1.0)
    assert energy.used_j == 41
    now = 34 * HOUR_S
    assert energy.used_j == 1
