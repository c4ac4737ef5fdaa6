"""One total from several rails, or none."""

from __future__ import annotations

import pytest

from edgetuner.telemetry.rails import total_power_w


@pytest.mark.parametrize(
    ("found", "power_w", "total"),
    [
        (["VDD_IN", "VDD_SOC"], {"VDD_IN": 5.0, "VDD_SOC": 1.0}, 5.0),
        (["VDD_IN", "VDD_SOC"], {"VDD_SOC": 1.0}, None),  # not the sum of what is left
        (["VDD_GPU_SOC", "VDD_CPU_CV"], {"VDD_GPU_SOC": 2.0, "VDD_CPU_CV": 1.0}, 3.0),
        (["VDD_GPU_SOC", "VDD_CPU_CV"], {"VDD_GPU_SOC": 2.0}, None),
        ([], {}, None),
    ],
)
def test_total(found: list[str], power_w: dict[str, float], total: float | None) -> None:
    assert total_power_w(found, power_w) == total
