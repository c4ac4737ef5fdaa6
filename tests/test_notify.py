"""Against a real datagram socket, as systemd has one."""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgetuner.notify import Notify


@pytest.fixture(params=["path", "abstract"])
def systemd(
    request: pytest.FixtureRequest, ipc_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    """The receiving end, named in the environment."""
    name = f"edgetuner-{secrets.token_hex(8)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.settimeout(5)
        end.bind(str(ipc_dir / "notify") if request.param == "path" else f"\0{name}")
        shown = str(ipc_dir / "notify") if request.param == "path" else f"@{name}"
        monkeypatch.setenv("NOTIFY_SOCKET", shown)
        yield end


@pytest.mark.parametrize(
    ("tell", "told"),
    [
        (lambda n: n.ready("serving a-1"), "READY=1\nSTATUS=serving a-1"),
        (lambda n: n.status("drains"), "STATUS=drains"),
        (lambda n: n.alive(), "WATCHDOG=1"),
        (lambda n: n.extend(1.5), "EXTEND_TIMEOUT_USEC=1500000"),
        (lambda n: n.stopping(), "STOPPING=1"),
    ],
)
def test_what_systemd_is_told(
    systemd: socket.socket, tell: Callable[[Notify], None], told: str
) -> None:
    tell(Notify())
    assert systemd.recv(4096).decode() == told


def test_a_reload_says_when_it_began(systemd: socket.socket) -> None:
    before = time.monotonic_ns() // 1000
    Notify().reloading()
    first, stamp = systemd.recv(4096).decode().split("\n")
    assert first == "RELOADING=1"
    name, _, usec = stamp.partition("=")
    assert name == "MONOTONIC_USEC"
    assert before <= int(usec) <= time.monotonic_ns() // 1000


def test_the_watchdog_is_fed_when_no_descriptor_is_left(
    systemd: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    notify = Notify()

    def none_left(*_: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(socket, "socket", none_left)
    notify.alive()
    assert systemd.recv(4096) == b"WATCHDOG=1"


def test_nothing_is_said_where_systemd_did_not_start_us(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.setattr(socket, "socket", None)  # not even a socket is opened
    Notify().ready("serving")


def test_systemd_may_be_gone(ipc_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(ipc_dir / "absent"))
    Notify().alive()


@pytest.mark.parametrize(
    ("usec", "pid", "seconds"),
    [
        ("30000000", "mine", 30.0),
        ("30000000", None, 30.0),
        ("30000000", "1", None),  # somebody else's
        ("0", None, None),
        ("soon", None, None),
        (None, None, None),
    ],
)
def test_the_watchdog_is_fed_where_it_is_ours(
    usec: str | None, pid: str | None, seconds: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = str(os.getpid()) if pid == "mine" else pid
    for name, value in (("WATCHDOG_USEC", usec), ("WATCHDOG_PID", pid)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert Notify().watchdog_s == seconds
