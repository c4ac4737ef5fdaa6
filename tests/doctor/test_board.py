from __future__ import annotations

from pathlib import Path

import pytest

from edgetuner.config import parse_config
from edgetuner.doctor import board
from tests.telemetry.conftest import JETSON, PROC, write


@pytest.fixture
def jetson(tmp_path: Path) -> Path:
    """Root of an Orin Nano."""
    write(tmp_path, JETSON)
    write(
        tmp_path,
        {
            "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
            "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 1, BOARD: generic",
            "run/systemd/timesync/synchronized": "",
        },
    )
    return tmp_path


@pytest.fixture
def computer(tmp_path: Path) -> Path:
    """Root of a computer that is none."""
    write(tmp_path, PROC)
    return tmp_path


def test_a_jetson_is_known_by_its_device_tree(jetson: Path) -> None:
    found = board.board(jetson)
    assert found.state == "ok"
    assert found.said.startswith("NVIDIA Jetson Orin Nano Developer Kit, L4T 36.4.3")
    assert found.facts["l4t"] == "36.4.3"


def test_another_computer_is_noted(computer: Path) -> None:
    found = board.board(computer)
    assert found.state == "note" and "l4t" not in found.facts


def test_every_source_says_what_it_measures_or_why_not(jetson: Path) -> None:
    config = parse_config({"telemetry": {"sources": ["sysfs", "host"]}})
    sysfs, host = board.telemetry(config, jetson)
    assert (sysfs.check, sysfs.state) == ("telemetry: sysfs", "ok")
    assert sysfs.said == "5.0 W, cpu at 48 C, GPU load 12 %, power mode 25W, over-current on " + (
        "VDD_CPU_GPU_CV"
    )
    assert sysfs.facts["total_power_w"] == 5.0
    assert host.state == "ok" and "total_power_w" not in host.facts


def test_a_source_that_is_not_there_is_a_note(computer: Path) -> None:
    config = parse_config({"telemetry": {"sources": ["sysfs"]}})
    (found,) = board.telemetry(config, computer)
    assert found.state == "note" and "INA3221" in found.said and not found.facts


def test_a_budget_of_energy_needs_a_rail(computer: Path, jetson: Path) -> None:
    asked = {"adapt": {"energy_budget_j_per_day": 500}}
    config = parse_config(asked | {"telemetry": {"sources": ["host"]}})
    trouble = [one for one in board.telemetry(config, computer) if one.state == "trouble"]
    assert len(trouble) == 1 and "adapt.energy_budget_j_per_day" in trouble[0].said
    config = parse_config(asked | {"telemetry": {"sources": ["sysfs"]}})
    assert [one.state for one in board.telemetry(config, jetson)] == ["ok"]


@pytest.mark.parametrize(("budget", "state"), [(3000, "ok"), (3797, "trouble")])
def test_training_needs_its_memory_free(computer: Path, budget: int, state: str) -> None:
    config = parse_config({"adapt": {"memory_budget_mb": budget, "min_available_mb": 300}})
    found = board.memory(config, computer)  # of 4096 MB
    assert found.state == state
    assert found.facts["memory_available_bytes"] == 4 << 30
    assert (found.error is not None) == (state == "trouble")


def test_memory_that_is_not_told_is_no_trouble(tmp_path: Path) -> None:
    found = board.memory(parse_config({}), tmp_path)
    assert found.state == "note" and not found.facts


@pytest.mark.parametrize(
    ("most", "state", "said"),
    [(85, "ok", "starts up to 85"), (97, "note", "slows down at 95"), (40, "note", "would wait")],
)
def test_heat_puts_training_off(jetson: Path, most: float, state: str, said: str) -> None:
    config = parse_config({"adapt": {"max_temperature_c": most}})
    found = board.heat(config, jetson)
    assert found.state == state and said in found.said


def test_heat_that_is_not_told_is_a_note(computer: Path) -> None:
    found = board.heat(parse_config({"telemetry": {"sources": ["sysfs"]}}), computer)
    assert found.state == "note" and not found.facts


def test_a_board_without_a_battery_wakes_up_in_the_past(jetson: Path, computer: Path) -> None:
    assert board.clock(jetson, 2e9).state == "ok"
    (jetson / "run/systemd/timesync/synchronized").unlink()
    assert "not known" in board.clock(jetson, 2e9).said
    assert "1970-01-01 00:02" in board.clock(computer, 120).said
