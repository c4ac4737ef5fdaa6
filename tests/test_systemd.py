from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from edgetuner.errors import AccessError, BundleError, ConfigError, UsageError

SYSTEMD = Path(__file__).resolve().parents[1] / "systemd"
UNIT = SYSTEMD / "edgetuner.service"
DEVICES = SYSTEMD / "edgetuner.service.d" / "10-devices.conf.example"
PROGRAM = "/opt/edgetuner/venv/bin/edgetuner"

# JetPack 6.2 has systemd 249, which ignores what came later but for a line in the journal.
SINCE_250 = {
    "ExecSearchPath",
    "LoadCredentialEncrypted",
    "MemoryZSwapMax",
    "OpenFile",
    "RestartMaxDelaySec",
    "RestartSteps",
    "RestrictFileSystems",
    "RestrictNetworkInterfaces",
    "SetCredentialEncrypted",
}


def directives(path: Path) -> list[tuple[str, str]]:
    lines = (line.strip() for line in path.read_text().splitlines())
    pairs = (line.partition("=") for line in lines if line and line[0] not in "#;[")
    return [(key, value) for key, _, value in pairs]


def value(key: str) -> str:
    [found] = [text for name, text in directives(UNIT) if name == key]
    return found


def systemd(tool: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    if not shutil.which(tool):
        pytest.skip(f"{tool} is not on this machine")
    return subprocess.run([tool, *map(str, arguments)], capture_output=True, text=True)


def offline_security_review(unit: Path, threshold: int) -> subprocess.CompletedProcess[str]:
    if "--offline" not in systemd("systemd-analyze", "--help").stdout:
        pytest.skip("this systemd-analyze cannot review a unit offline")
    return systemd(
        "systemd-analyze",
        "security",
        "--offline=yes",
        f"--threshold={threshold}",
        "--no-pager",
        unit,
    )


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with a program that exists here, which is all that `verify` may not find."""
    text = UNIT.read_text()
    assert text.count(PROGRAM) == 1
    copy = tmp_path / UNIT.name
    copy.write_text(text.replace(PROGRAM, "/bin/true"))
    return copy


@pytest.fixture
def unit_with_devices(unit: Path) -> Path:
    drop_ins = unit.with_name(f"{unit.name}.d")
    drop_ins.mkdir()
    shutil.copy(DEVICES, drop_ins / DEVICES.stem)
    return unit


@pytest.mark.parametrize("which", ["unit", "unit_with_devices"])
def test_systemd_has_nothing_to_say_about_the_unit(
    which: str, request: pytest.FixtureRequest
) -> None:
    # The exit status is 0 for a misspelt key too, so what counts is that nothing is printed.
    seen = systemd("systemd-analyze", "verify", request.getfixturevalue(which))
    assert (seen.stdout, seen.stderr, seen.returncode) == ("", "", 0)


def test_a_misspelt_key_would_be_noticed(unit: Path) -> None:
    unit.write_text(unit.read_text().replace("KillMode=", "KilMode="))
    assert "KilMode" in systemd("systemd-analyze", "verify", unit).stderr


def test_the_exposure_is_at_most_two_and_a_half(unit: Path) -> None:
    seen = offline_security_review(unit, threshold=25)
    assert seen.returncode == 0, seen.stdout


def test_the_devices_drop_in_lowers_the_exposure(unit_with_devices: Path) -> None:
    seen = offline_security_review(unit_with_devices, threshold=17)
    assert seen.returncode == 0, seen.stdout


def test_nothing_is_used_that_the_oldest_systemd_ignores() -> None:
    used = {key for path in (UNIT, DEVICES) for key, _ in directives(path)}
    assert not used & SINCE_250
    assert value("Type") == "notify"


def test_what_a_restart_does_not_cure_is_not_restarted() -> None:
    prevented = {int(code) for code in value("RestartPreventExitStatus").split()}
    assert prevented == {e.exit_code for e in (UsageError, BundleError, AccessError, ConfigError)}


def test_nothing_is_set_that_hides_or_breaks_the_gpu() -> None:
    set_keys = {key for key, _ in directives(UNIT)}
    assert not set_keys & {"PrivateDevices", "MemoryDenyWriteExecute", "ProcSubset", "PrivateUsers"}
    assert value("SupplementaryGroups").split() == ["video", "render"]


def test_the_user_and_the_folders_are_made(tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("needs root, to give the folders their owner")
    (tmp_path / "etc").mkdir()
    users = SYSTEMD / "sysusers.d" / "edgetuner.conf"
    folders = SYSTEMD / "tmpfiles.d" / "edgetuner.conf"
    for tool, arguments in (
        ("systemd-sysusers", [users]),
        ("systemd-tmpfiles", ["--create", folders]),
    ):
        made = systemd(tool, f"--root={tmp_path}", *arguments)
        assert made.returncode == 0, made.stderr

    groups = (line.split(":") for line in (tmp_path / "etc" / "group").read_text().splitlines())
    members = {name: listed for name, _, _, listed in groups}
    assert members["video"] == members["render"] == "edgetuner"
    uid = int((tmp_path / "etc" / "passwd").read_text().split(":")[2])
    seen = {
        name: ((tmp_path / name).stat().st_mode & 0o777, (tmp_path / name).stat().st_uid)
        for name in ("etc/edgetuner", "etc/edgetuner/keys", "var/lib/edgetuner")
    }
    assert seen == {
        "etc/edgetuner": (0o755, 0),
        "etc/edgetuner/keys": (0o750, 0),
        "var/lib/edgetuner": (0o750, uid),
    }
