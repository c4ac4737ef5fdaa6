"""What systemd is told of a `Type=notify` service, see sd_notify(3); nothing at all where it did
not start us.
"""

from __future__ import annotations

import os
import socket
import time
import weakref


class Notify:
    """Sends datagrams to `$NOTIFY_SOCKET`; every call is without effect where that is not set."""

    def __init__(self) -> None:
        self._address = os.environ.get("NOTIFY_SOCKET", "")
        # From the start: who comes by TCP can use up all descriptors before he shows a key, and the
        # watchdog must be fed even then.
        self._socket = (
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            if self._address
            else None
        )
        if self._socket is not None:
            weakref.finalize(self, self._socket.close)
        usec = os.environ.get("WATCHDOG_USEC", "")
        mine = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        # Zero is no interval: feeding it would never rest.
        self.watchdog_s = (int(usec) / 1e6 or None) if usec.isdigit() and mine else None

    def ready(self, status: str) -> None:
        """Sockets are bound and the model is loaded."""
        self._send(f"READY=1\nSTATUS={status}")

    def status(self, text: str) -> None:
        """The line that `systemctl status` shows."""
        self._send(f"STATUS={text}")

    def alive(self) -> None:
        """Feeds the watchdog."""
        self._send("WATCHDOG=1")

    def reloading(self) -> None:
        """A reload begins; `ready` ends it."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def extend(self, seconds: float) -> None:
        """Starting takes longer than usual."""
        self._send(f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}")

    def stopping(self) -> None:
        """The service drains and goes."""
        self._send("STOPPING=1")

    def _send(self, message: str) -> None:
        if self._socket is None:
            return
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        try:
            self._socket.sendto(message.encode(), address)
        except OSError:  # systemd gone: nobody to tell, and no reason to stop
            return
