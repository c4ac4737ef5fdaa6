"""A publisher for the plain plane: sends windows, and never learns whether they were taken."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from edgetuner.connect import XPUB, connect, credentials, receive_now, send_now, wait
from edgetuner.protocol import encode, whole, window_message

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


class PlainPublisher:
    """Publishes windows without acknowledgement, from one thread.

    What is sent while the service is away, or faster than it reads, is gone; the service counts the
    numbers that are missing as lost. Where that matters, use `Client`.

    Args:
        address: of the service's plain socket.
        client_id: as in `Client`.
        first_seq: number of the first window of each stream. A program that starts again must go on
            counting: the service drops numbers that it has had.
        key: as in `Client`, with `server_key`.

    Raises:
        ConfigError, AccessError: a key file that is missing, damaged, or readable by others.
        TransportError: not an address.
    """

    def __init__(
        self,
        address: str,
        client_id: str,
        *,
        first_seq: int = 0,
        key: str | Path | None = None,
        server_key: str | Path | None = None,
    ) -> None:
        key_pair, service_key = credentials(key, server_key)
        self._client_id = client_id
        self._first_seq = first_seq
        self._next: dict[str, int] = {}
        # XPUB sends as PUB does, and, unlike it, sees the service subscribe.
        self._socket = connect(XPUB, address, key=key_pair, server_key=service_key)

    def __enter__(self) -> PlainPublisher:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def wait(self, timeout: float) -> bool:
        """Waits until the service listens; whether it does within `timeout` seconds."""
        return wait(self._socket, None, timeout) and receive_now(self._socket) is not None

    def publish(
        self,
        stream: str,
        x: ArrayLike,
        *,
        t_ns: int,
        hz: float,
        label: str | None = None,
        seq: int | None = None,
    ) -> int:
        """Sends a window of shape (C, T) and returns its sequence number; arguments as in `Client`.

        Raises:
            ProtocolError: a name, time, rate, shape or sequence number that cannot be.
            WindowError: more bytes than a message may have.
        """
        number = self._next.get(stream, self._first_seq) if seq is None else whole("seq", seq)
        header, payload = window_message(
            np.asarray(x),
            client_id=self._client_id,
            stream=stream,
            seq=number,
            t_ns=whole("t_ns", t_ns),
            hz=float(hz),
            label=label,
        )
        self._next[stream] = number + 1
        send_now(self._socket, encode(header, payload))
        return number

    def close(self) -> None:
        """Closes the socket; what has not left yet has 0.2 s. May be called twice."""
        self._socket.close(linger=200)
