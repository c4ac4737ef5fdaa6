"""An ordinary computer: with and without a power counter."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgetuner.errors import TelemetryError
from edgetuner.telemetry.host import Host
from edgetuner.telemetry.source import Options

from .conftest import Clock, write

RAPL = "sys/class/powercap"


def rapl(root: Path, package_uj: int, **domains: int) -> None:
    write(
        root,
        {
            f"{RAPL}/intel-rapl/enabled": 1,
            f"{RAPL}/intel-rapl:0/name": "package-0",
            f"{RAPL}/intel-rapl:0/energy_uj": package_uj,
            f"{RAPL}/intel-rapl:0/max_energy_range_uj": 100_000_000,
            f"{RAPL}/intel-rapl:0:0/name": "core",
            f"{RAPL}/intel-rapl:0:0/energy_uj": package_uj,
        },
    )
    for number, (name, energy_uj) in enumerate(domains.items(), 1):
        files = {"name": name, "energy_uj": energy_uj}
        write(root, {f"{RAPL}/intel-rapl:{number}/{key}": value for key, value in files.items()})


def test_without_a_power_counter_power_is_absent(computer: Path) -> None:
    sample = Host(Options(sysroot=computer)).read()
    assert sample.power_w == {}
    assert sample.total_power_w is None
    assert sample.temperature_c == {}
    assert sample.gpu_load is None
    assert sample.memory_total_bytes == 7_802_880 * 1024


def test_the_first_reading_of_a_counter_is_no_power(computer: Path, clock: Clock) -> None:
    rapl(computer, 10_000_000)
    host = Host(Options(sysroot=computer, clock=clock))
    assert host.read().total_power_w is None
    rapl(computer, 40_000_000)
    clock.advance(2.0)
    sample = host.read()
    assert sample.power_w == {"package-0": 15.0}  # 30 J in 2 s, and its core is part of it
    assert sample.total_power_w == 15.0


def test_a_counter_that_wraps(computer: Path, clock: Clock) -> None:
    rapl(computer, 90_000_000)
    host = Host(Options(sysroot=computer, clock=clock))
    host.read()
    rapl(computer, 10_000_000)
    clock.advance(2.0)
    assert host.read().total_power_w == 10.0


def test_the_platform_counter_is_the_total_where_there_is_one(computer: Path, clock: Clock) -> None:
    rapl(computer, 0, psys=0)
    host = Host(Options(sysroot=computer, clock=clock))
    host.read()
    rapl(computer, 10_000_000, psys=25_000_000)
    clock.advance(1.0)
    sample = host.read()
    assert sample.power_w == {"package-0": 10.0, "psys": 25.0}
    assert sample.total_power_w == 25.0


def test_a_package_that_cannot_be_read_leaves_no_total(computer: Path, clock: Clock) -> None:
    rapl(computer, 0, **{"package-1": 0})
    host = Host(Options(sysroot=computer, clock=clock))
    host.read()
    rapl(computer, 10_000_000)
    (computer / RAPL / "intel-rapl:1/energy_uj").unlink()
    clock.advance(1.0)
    sample = host.read()
    assert sample.power_w == {"package-0": 10.0}
    assert sample.total_power_w is None


def test_without_proc_there_is_no_host(tmp_path: Path) -> None:
    with pytest.raises(TelemetryError, match=r"telemetry.host: no memory.*ProcSubset"):
        Host(Options(sysroot=tmp_path)).read()
