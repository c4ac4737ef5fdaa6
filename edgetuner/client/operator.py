"""The operator's side: calls on the control socket, and the status socket."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from edgetuner.connect import (
    DEALER,
    SUB,
    SyncSocket,
    connect,
    credentials,
    receive_now,
    send_now,
    wait,
)
from edgetuner.errors import UnavailableError
from edgetuner.frames import error_from_wire, reply_of, request_frames

if TYPE_CHECKING:
    from edgetuner.protocol import StatusMessage

_CONNECT_WITHIN_S: Final = 1.0
_LONG_S: Final = 3600.0


class Operator:
    """Calls the service's control socket, one call at a time, from one thread.

    Args:
        address: of the control socket.
        key: file of the operator's secret CURVE key, and with it `server_key`, the file of the
            service's public key. Not used for ipc.
        timeout_s: how long a call waits for its reply.

    Raises:
        ConfigError, AccessError: a key file that is missing, damaged, or readable by others.
        TransportError: not an address.
    """

    def __init__(
        self,
        address: str,
        *,
        key: str | Path | None = None,
        server_key: str | Path | None = None,
        timeout_s: float = 5.0,
    ) -> None:
        key_pair, service_key = credentials(key, server_key)
        self._address = address
        self._timeout_s = timeout_s
        self._socket = connect(DEALER, address, key=key_pair, server_key=service_key)
        # A reply to an earlier call, or to an earlier program, must not be taken for this one's.
        self._ids = (f"{os.getpid():x}-{n}" for n in itertools.count(time.time_ns()))

    def __enter__(self) -> Operator:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def call(self, method: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        """The result of a method of `docs/protocol.md`.

        Raises:
            UnavailableError: nobody listens there, turns this key away, or answers in time. The
                call may have been carried out all the same.
            EdgetunerError: what the service answered.
        """
        name = next(self._ids)
        request = request_frames(name, method, params or {})
        give_up_at = time.monotonic() + self._timeout_s
        if not wait(self._socket, None, min(_CONNECT_WITHIN_S, self._timeout_s), writable=True):
            raise self._unavailable("nobody listens here")
        send_now(self._socket, request)
        while (reply := self._next_reply(give_up_at)).get("id") not in (name, None):
            continue
        if reply.get("error") is not None:
            raise error_from_wire(reply["error"])
        result: dict[str, Any] = reply.get("result") or {}
        return result

    def status(self) -> dict[str, Any]:
        """The state of the service, as its snapshot tells it."""
        return self.call("status")

    def close(self) -> None:
        """Closes the socket. May be called twice."""
        self._socket.close()

    def _next_reply(self, give_up_at: float) -> dict[str, Any]:
        if not wait(self._socket, None, give_up_at - time.monotonic()):
            raise self._unavailable(f"no reply within {self._timeout_s:g} s")
        received = receive_now(self._socket)
        if received is None:
            return self._next_reply(give_up_at)
        return reply_of(received.frames)

    def _unavailable(self, problem: str) -> UnavailableError:
        return UnavailableError(
            problem,
            field="address",
            value=self._address,
            remedy="see that the service runs with this address and knows your key",
        )


def subscribe(
    address: str,
    topics: Sequence[str] = ("",),
    *,
    key: str | Path | None = None,
    server_key: str | Path | None = None,
    timeout_s: float | None = None,
) -> Iterator[StatusMessage | None]:
    """Messages of the status socket as they come, and None for every `timeout_s` of silence.

    The first is a snapshot, where that is among the topics; silence for longer than the heartbeat
    means that the service is gone, or turns this key away.

    Args:
        address: of the status socket.
        topics: what their topics begin with: `status.`, `event.`, `prediction.watch-7.`; all by
            default.
        key: as in `Operator`, with `server_key`.
        timeout_s: None: silence is not told.

    Raises:
        ProtocolError: a message that is not of this protocol.
        ConfigError, AccessError, TransportError: as in `Operator`.
    """
    key_pair, service_key = credentials(key, server_key)
    socket = connect(SUB, address, key=key_pair, server_key=service_key, topics=tuple(topics))
    return _messages(socket, timeout_s)


def _messages(socket: SyncSocket, timeout_s: float | None) -> Iterator[StatusMessage | None]:
    from edgetuner.protocol import STATUS, decode

    try:
        while True:
            wait(socket, None, _LONG_S if timeout_s is None else timeout_s)
            received = receive_now(socket)
            if received is not None:
                yield decode(received.frames[1:], STATUS)[0]
            elif timeout_s is not None:
                yield None
    finally:
        socket.close()
