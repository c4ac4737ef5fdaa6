from __future__ import annotations

import fcntl
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgetuner.config import Config, parse_config
from edgetuner.doctor import place
from edgetuner.errors import ConfigError, TransportError


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a short path: those of sockets have few letters."""
    yield tmp_path_factory.mktemp("d")


def configured(home: Path, **over: Any) -> Config:
    sockets = {name: f"ipc://{home}/{name}" for name in ("ingest", "status", "control")}
    return parse_config({"state_dir": str(home / "state"), "sockets": sockets, **over})


def test_a_folder_that_will_be_made_is_well_and_stays_to_be_made(home: Path) -> None:
    folder, commit = place.state_dir(configured(home))
    assert (folder.state, commit.state) == ("ok", "ok")
    assert "will be made" in folder.said
    assert 0 < commit.facts["commit_ms"] <= commit.facts["slowest_commit_ms"]
    assert list(home.iterdir()) == []


def test_nothing_is_left_in_the_folder(home: Path) -> None:
    (home / "state").mkdir(mode=0o750)
    assert [one.state for one in place.state_dir(configured(home))] == ["ok", "ok"]
    assert list((home / "state").iterdir()) == []


def test_the_store_itself_counts_as_room_for_it(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "state").mkdir(mode=0o750)
    (home / "state/windows.db").write_bytes(bytes(9 << 20))
    full = shutil.disk_usage(home)._replace(free=1 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    assert next(iter(place.state_dir(configured(home, store={"max_mb": 10})))).state == "ok"
    assert next(iter(place.state_dir(configured(home, store={"max_mb": 11})))).state == "trouble"


def test_nothing_is_written_for_a_store_in_memory(home: Path) -> None:
    config = configured(home, store={"durability": "memory"})
    assert [one.check for one in place.state_dir(config)] == ["state_dir"]


def test_a_folder_that_others_get_into_is_trouble(home: Path) -> None:
    (home / "state").mkdir()
    (home / "state").chmod(0o755)
    folder, _ = place.state_dir(configured(home))
    assert folder.state == "trouble" and folder.error is not None
    assert folder.error.exit_code == 77 and "chmod o=" in folder.said


def test_a_disk_with_less_room_than_the_store_may_take_is_trouble(home: Path) -> None:
    folder, _ = place.state_dir(configured(home, store={"max_mb": 10**9}))
    assert folder.state == "trouble" and "store.max_mb" in folder.said


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_of_somebody_else_is_trouble(home: Path) -> None:
    (home / "state").mkdir(mode=0o550)
    (folder,) = place.state_dir(configured(home))
    assert folder.state == "trouble" and "sudo -u" in folder.said


def test_sockets_that_can_be_bound_are_let_go_of(home: Path) -> None:
    found = place.sockets(configured(home))
    assert found.state == "ok" and found.facts["running"] is False
    assert list(home.iterdir()) == []


def test_a_socket_that_somebody_holds_is_trouble(home: Path) -> None:
    with socket.socket(socket.AF_UNIX) as held:
        held.bind(str(home / "status"))
        held.listen()
        with pytest.raises(TransportError, match=r"sockets\.status"):
            place.sockets(configured(home))
        assert (home / "status").exists(), "it is not ours to remove"


def test_an_address_that_others_reach_needs_keys(home: Path) -> None:
    with pytest.raises(ConfigError, match="server_key_file"):
        configured(home, sockets={"ingest": "tcp://0.0.0.0:0"})


def test_who_holds_the_folder_runs(home: Path) -> None:
    config = configured(home)
    assert not place.running(config)
    (home / "state").mkdir()
    lock = os.open(home / "state/lock", os.O_RDWR | os.O_CREAT, 0o600)
    assert not place.running(config), "a service that has ended leaves its lock"
    fcntl.flock(lock, fcntl.LOCK_EX)
    assert place.running(config)
    os.close(lock)
    assert not place.running(config)
