"""The connecting end of a socket: keys, addresses, sending and receiving without waiting.

Apart from `transport`, which binds, because every command line call pays for this import: neither
asyncio nor the authenticator is loaded here. These two modules are the only ones that import zmq.
"""

from __future__ import annotations

import math
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import zmq

from edgetuner.errors import AccessError, ConfigError, TransportError

SyncSocket = zmq.Socket[bytes]

ROUTER: Final = zmq.ROUTER
DEALER: Final = zmq.DEALER
SUB: Final = zmq.SUB
PUB: Final = zmq.PUB
XPUB: Final = zmq.XPUB
POLLIN: Final = zmq.POLLIN
POLLOUT: Final = zmq.POLLOUT

_Z85_KEY_CHARS = 40
_HEARTBEAT_MS = 5_000
_HEARTBEAT_TIMEOUT_MS = 15_000


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A CURVE certificate: both halves in Z85, the secret one never shown."""

    public: bytes
    secret: bytes

    def __repr__(self) -> str:
        return f"KeyPair(public={self.public!r})"


class Received(NamedTuple):
    """A message, and its sender's CURVE key; None where none was needed."""

    frames: list[bytes]
    key: str | None


def load_key_pair(path: Path) -> KeyPair:
    """Reads a `.key_secret` certificate that only its owner may read.

    Raises:
        ConfigError: no such file, or not a certificate with a secret key.
        AccessError: others may read or write it.
    """
    public, secret = _load_certificate(path)
    if secret is None:
        raise ConfigError(
            "holds no secret key", field=str(path), remedy="name the .key_secret file"
        )
    mode = path.stat().st_mode
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise AccessError(
            "a secret key that others may read",
            field=str(path),
            value=oct(stat.S_IMODE(mode)),
            remedy="chmod 600 the file, and make a new key if it was ever shared",
        )
    return KeyPair(public, secret)


def load_public_key(path: Path) -> bytes:
    """The public key (Z85) of a `.key` certificate. Raises ConfigError where there is none."""
    return _load_certificate(path)[0]


def credentials(
    key: str | Path | None, server_key: str | Path | None
) -> tuple[KeyPair | None, bytes | None]:
    """What `connect` needs for CURVE, from the files of both keys; nothing from neither.

    Raises:
        ConfigError: only one of the two, or a file that holds no key.
        AccessError: the secret key is readable by others.
    """
    if key is None and server_key is None:
        return None, None
    if key is None or server_key is None:
        raise ConfigError(
            "CURVE takes two files",
            field="key" if key is None else "server_key",
            remedy="give both the secret key of this peer and the public key of the service",
        )
    return load_key_pair(Path(key)), load_public_key(Path(server_key))


def connect(
    kind: int,
    address: str,
    *,
    context: Any = None,
    key: KeyPair | None = None,
    server_key: bytes | None = None,
    topics: tuple[str, ...] = (),
) -> Any:
    """A connected socket: of zmq.asyncio if `context` is `async_context()`, else a blocking one.

    It connects again by itself. While there is no connection nothing is queued: `send_now` says
    False.

    Args:
        key: this peer's CURVE key pair, and with it `server_key`, the service's public key. Both
            are ignored for an ipc address, which the file system guards.
        topics: what a SUB socket subscribes to.

    Raises:
        TransportError: not an address, or not a key.
    """
    socket = (context or zmq.Context.instance()).socket(kind)
    try:
        _configure(socket, kind, address)
        if key is not None and address.startswith("tcp://"):
            socket.curve_publickey, socket.curve_secretkey = key.public, key.secret
            socket.curve_serverkey = server_key
        for topic in topics:
            socket.subscribe(topic)
        socket.connect(address)
    except zmq.ZMQError as error:
        socket.close()
        raise TransportError(
            "cannot connect", field="address", value=address, remedy=str(error.strerror)
        ) from None
    return socket


def wait(socket: SyncSocket, wake: int | None, seconds: float, *, writable: bool = False) -> bool:
    """Waits until a message is there, or, if `writable`, until one can be sent.

    Args:
        wake: a descriptor on which a byte ends the waiting early; it is taken off.

    Returns:
        Whether the socket is ready; False after `seconds`, or if it was only woken.
    """
    poller = zmq.Poller()
    poller.register(socket, zmq.POLLOUT if writable else zmq.POLLIN)
    if wake is not None:
        poller.register(wake, zmq.POLLIN)
    ready = [who for who, _ in poller.poll(max(0, math.ceil(seconds * 1000)))]
    if wake is not None and wake in ready:
        os.read(wake, 4096)
    return any(who is socket for who in ready)


def receive_now(socket: Any) -> Received | None:
    """The next message, or None if none is waiting. Never blocks."""
    try:
        frames = _done(socket.recv_multipart(zmq.NOBLOCK, copy=False))
    except zmq.Again:
        return None
    try:
        user_id = frames[-1].get("User-Id")
    except zmq.ZMQError:
        user_id = None  # no authentication took place: a local peer
    return Received([frame.bytes for frame in frames], user_id or None)


def send_now(socket: Any, frames: list[bytes]) -> bool:
    """Sends without waiting; False if the peer is gone or takes nothing more."""
    try:
        _done(socket.send_multipart(frames, zmq.NOBLOCK))
    except zmq.ZMQError:
        return False
    return True


def _done(result: Any) -> Any:
    # zmq.asyncio carries out a call that must not block at once, and hands back a finished future.
    return result.result() if hasattr(result, "result") else result


def _configure(socket: Any, kind: int, address: str) -> None:
    socket.linger = 0
    socket.ipv6 = "[" in address
    if kind == zmq.DEALER:
        # What was queued for a lost connection would arrive out of its turn after the next one.
        socket.immediate = True
    socket.heartbeat_ivl = _HEARTBEAT_MS  # a peer that lost power closes nothing
    socket.heartbeat_timeout = _HEARTBEAT_TIMEOUT_MS


def _load_certificate(path: Path) -> tuple[bytes, bytes | None]:
    from zmq.auth import load_certificate  # only those who use keys pay for it

    try:
        public, secret = load_certificate(path)
    except (OSError, ValueError) as error:
        raise _not_a_certificate(path, str(error)) from None
    if any(len(key) != _Z85_KEY_CHARS for key in (public, secret) if key is not None):
        raise _not_a_certificate(path, f"a key has {_Z85_KEY_CHARS} characters")
    return public, secret


def _not_a_certificate(path: Path, why: str) -> ConfigError:
    return ConfigError(
        "not a CURVE certificate",
        field=str(path),
        value=why,
        remedy="make one with zmq.auth.create_certificates (see docs/security.md)",
    )
