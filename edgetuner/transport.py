"""Sockets that are bound: where, and who may talk to them.

An address is local (`ipc://`, or `tcp://` on the loopback interface) or it is not; one that is not
is refused until CURVE keys are configured, and once they are, every TCP socket demands them. An ipc
socket is guarded by the file system: it is created without any right for others. The connecting end
is `connect`.
"""

from __future__ import annotations

import contextlib
import os
import socket as unix
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import zmq
import zmq.asyncio
from zmq.auth.asyncio import AsyncioAuthenticator

from edgetuner.addresses import REMEDY, is_local, is_usable
from edgetuner.config import SecurityConfig
from edgetuner.connect import (
    DEALER,
    POLLIN,
    POLLOUT,
    PUB,
    ROUTER,
    SUB,
    XPUB,
    KeyPair,
    Received,
    SyncSocket,
    connect,
    load_key_pair,
    load_public_key,
    receive_now,
    send_now,
)
from edgetuner.errors import TransportError
from edgetuner.protocol import MAGIC, MAX_PAYLOAD_BYTES

__all__ = [
    "DEALER",
    "POLLIN",
    "POLLOUT",
    "PUB",
    "ROUTER",
    "SUB",
    "XPUB",
    "AsyncSocket",
    "KeyPair",
    "Received",
    "Sockets",
    "SyncSocket",
    "async_context",
    "connect",
    "load_key_pair",
    "load_public_key",
    "receive_batch",
    "receive_now",
    "send_now",
]

AsyncSocket = zmq.asyncio.Socket

_IPC_PATH_MAX = 107  # sockaddr_un
_SENSORS, _OPERATORS = "sensors", "operators"
# A message that is a little too large is answered by a refusal, one that is far too large by
# hanging up.
_MAX_FRAME_BYTES: Final = 2 * MAX_PAYLOAD_BYTES
_HEARTBEAT_MS = 5_000
_HEARTBEAT_TIMEOUT_MS = 15_000


class Sockets:
    """Binds and connects the sockets of one process, and closes them together.

    Args:
        server_key: with it, every TCP socket demands CURVE.
        sensors: folder of `NAME.key`, the public keys of the clients that may publish; `NAME` is
            the only `client_id` that this key may use.
        operators: folder of the public keys that may use status and control.
    """

    def __init__(
        self,
        server_key: KeyPair | None = None,
        *,
        sensors: Path | None = None,
        operators: Path | None = None,
    ) -> None:
        self._context = zmq.asyncio.Context()
        self._server_key = server_key
        self._folders = {_SENSORS: sensors, _OPERATORS: operators}
        self._authenticator: AsyncioAuthenticator | None = None
        self._open: list[AsyncSocket] = []
        self._ipc_paths: list[Path] = []
        self._client_names: dict[str, str] = {}

    @classmethod
    def secured(cls, security: SecurityConfig) -> Sockets:
        """With the keys that are configured, if any. Raises ConfigError, AccessError."""
        key_file = security.server_key_file
        return cls(
            None if key_file is None else load_key_pair(key_file),
            sensors=security.sensors_dir,
            operators=security.operators_dir,
        )

    async def start(self) -> None:
        """Starts the authenticator where keys are configured; call it before the first bind."""
        if self._server_key is None:
            return
        self._authenticator = AsyncioAuthenticator(self._context)
        self._authenticator.start()
        self.reload_keys()

    def reload_keys(self) -> None:
        """Reads the folders of public keys again.

        A key that is gone opens no new connection, and `client_name` no longer knows it; a
        connection that is open already is not cut.

        Raises:
            ConfigError: a `.key` file that holds no key; the keys known before stay in force.
        """
        if self._authenticator is None:
            return
        # Read both before either takes effect: a damaged file must not leave half of the old keys.
        keys = {domain: _public_keys(folder) for domain, folder in self._folders.items()}
        for domain, names in keys.items():
            self._authenticator.certs[domain] = dict.fromkeys(names, True)
        self._client_names = {key.decode(): name for key, name in keys[_SENSORS].items()}

    def client_name(self, user_id: str | None) -> str | None:
        """The `client_id` that a CURVE public key is bound to; None for a peer without a key."""
        return None if not user_id else self._client_names.get(user_id, "")

    def bind(
        self, kind: int, address: str, *, field: str, for_sensors: bool = False
    ) -> AsyncSocket:
        """A bound socket.

        Args:
            kind: `ROUTER`, `SUB` or `XPUB`.
            address: a ZeroMQ address.
            field: the configuration's name of it, for the error message.
            for_sensors: whether sensor keys open it; else operator keys do.

        Raises:
            TransportError: in use, not an address, no such folder, or reachable from elsewhere
                without keys.
        """
        _check_address(address, field)
        if not is_local(address) and self._server_key is None:
            raise TransportError(
                "an address that other machines can reach needs CURVE keys",
                field=field,
                value=address,
                remedy="use ipc:// or tcp://127.0.0.1, or configure security.server_key_file",
            )
        socket = self._context.socket(kind)
        _configure(socket, kind, address)
        if self._server_key is not None and address.startswith("tcp://"):
            socket.curve_server = True  # before bind: a peer could otherwise slip in without a key
            socket.curve_publickey = self._server_key.public
            socket.curve_secretkey = self._server_key.secret
            socket.zap_domain = (_SENSORS if for_sensors else _OPERATORS).encode()
        try:
            with self._private_ipc(address, field):
                socket.bind(address)
        except zmq.ZMQError as error:
            socket.close()
            raise TransportError(
                "cannot bind",
                field=field,
                value=address,
                remedy=f"{error.strerror}: stop what holds it, or choose another address",
            ) from None
        except TransportError:
            socket.close()
            raise
        self._open.append(socket)
        return socket

    def close(self) -> None:
        """Closes every socket and removes the ipc files; what is still to be sent has 0.2 s."""
        for socket in self._open:
            socket.close(linger=200)
        if self._authenticator is not None:
            self._authenticator.stop()
        for path in self._ipc_paths:
            path.unlink(missing_ok=True)
        self._context.destroy(linger=200)

    @contextlib.contextmanager
    def _private_ipc(self, address: str, field: str) -> Iterator[None]:
        if not address.startswith("ipc://"):
            yield
            return
        path = Path(address.removeprefix("ipc://"))
        _check_ipc_path(path, field)
        old = os.umask(0o117)  # connecting needs the right to write: the owner's and the group's
        try:
            yield
        finally:
            os.umask(old)
        self._ipc_paths.append(path)


def async_context() -> zmq.asyncio.Context:
    """A context whose sockets are awaited; its owner destroys it."""
    return zmq.asyncio.Context()


async def receive_batch(socket: AsyncSocket, most: int) -> list[Received]:
    """Waits for a message, and takes up to `most` of those that lie there."""
    batch: list[Received] = []
    while not batch:
        await socket.poll()
        while len(batch) < most and (received := receive_now(socket)) is not None:
            batch.append(received)
    return batch


def _public_keys(folder: Path | None) -> dict[bytes, str]:
    certificates = sorted(folder.glob("*.key")) if folder else []
    return {load_public_key(path): path.stem for path in certificates}


def _configure(socket: AsyncSocket, kind: int, address: str) -> None:
    socket.linger = 0
    socket.ipv6 = "[" in address
    socket.maxmsgsize = _MAX_FRAME_BYTES
    socket.heartbeat_ivl = _HEARTBEAT_MS  # a peer that lost power closes nothing
    socket.heartbeat_timeout = _HEARTBEAT_TIMEOUT_MS
    if kind == ROUTER:
        socket.router_mandatory = True  # an answer to a peer that is gone is not "sent"
    if kind == SUB:
        socket.subscribe(MAGIC)
    if kind == XPUB:
        socket.xpub_verbose = True  # each subscriber is seen, and gets its snapshot


def _check_address(address: str, field: str) -> None:
    if not is_usable(address):
        raise TransportError("not a usable address", field=field, value=address, remedy=REMEDY)


def _check_ipc_path(path: Path, field: str) -> None:
    if len(os.fsencode(path)) > _IPC_PATH_MAX:
        raise TransportError(
            f"an ipc path holds at most {_IPC_PATH_MAX} bytes",
            field=field,
            value=str(path),
            remedy="choose a shorter path, such as one under /run",
        )
    if not path.parent.is_dir():
        raise TransportError(
            "no such folder", field=field, value=str(path.parent), remedy="create it first"
        )
    # ZeroMQ removes whatever lies there, be it a file or the socket of a living service.
    if path.exists() and not stat.S_ISSOCK(path.stat().st_mode):
        raise TransportError(
            "something that is not a socket lies here",
            field=field,
            value=str(path),
            remedy="choose another path",
        )
    with unix.socket(unix.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(os.fspath(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return
        except OSError:
            pass  # no right to connect, or a queue that is full: somebody is there
    raise TransportError(
        "another process listens here",
        field=field,
        value=str(path),
        remedy="stop it, or choose another address",
    )
