"""Where a socket may be bound, and who gets through, on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq
import zmq.asyncio
import zmq.auth
from zmq.utils.monitor import parse_monitor_message

from edgetuner.connect import credentials, load_key_pair, load_public_key
from edgetuner.errors import AccessError, ConfigError, TransportError
from edgetuner.protocol import MAGIC, Hello, encode
from edgetuner.transport import (
    DEALER,
    PUB,
    ROUTER,
    SUB,
    XPUB,
    KeyPair,
    Received,
    Sockets,
    async_context,
    connect,
    receive_batch,
    receive_now,
    send_now,
)

_TURNED_AWAY = {
    zmq.EVENT_HANDSHAKE_FAILED_AUTH,
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL,
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL,
    zmq.EVENT_DISCONNECTED,
}


_GIVE_UP_S = 10.0


async def receive(socket: Any, most: int) -> list[Received]:
    return await asyncio.wait_for(receive_batch(socket, most), _GIVE_UP_S)


async def send(socket: Any, message: bytes) -> None:
    await asyncio.wait_for(socket.send(message), _GIVE_UP_S)  # waits for a connection


@contextmanager
def closing(sockets: Sockets) -> Iterator[Sockets]:
    try:
        yield sockets
    finally:
        sockets.close()


@asynccontextmanager
async def connected(kind: int, address: str, **arguments: Any) -> AsyncIterator[Any]:
    context = async_context()
    socket = connect(kind, address, context=context, **arguments)
    try:
        yield socket
    finally:
        socket.close(linger=0)
        context.destroy(linger=0)


def endpoint(socket: Any) -> str:
    return str(socket.last_endpoint.decode())


def make_key(folder: Path, name: str) -> tuple[Path, Path]:
    folder.mkdir(exist_ok=True)
    public, secret = map(Path, zmq.auth.create_certificates(folder, name))
    secret.chmod(0o600)
    return public, secret


class Keys:
    """A service's key, one sensor's and one operator's, each known, and one that nobody knows."""

    def __init__(self, folder: Path) -> None:
        self.sensors, self.operators = folder / "sensors", folder / "operators"
        self.service_public, service = make_key(folder, "service")
        self.service = load_key_pair(service)
        self.secrets = {
            "watch-7": make_key(self.sensors, "watch-7")[1],
            "desk": make_key(self.operators, "desk")[1],
            "stranger": make_key(folder / "elsewhere", "stranger")[1],
        }

    def sockets(self) -> Sockets:
        return Sockets(self.service, sensors=self.sensors, operators=self.operators)

    def of(self, name: str) -> dict[str, Any]:
        key, server_key = credentials(self.secrets[name], self.service_public)
        return {"key": key, "server_key": server_key}


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path)


# ------------------------------------------------------------------ addresses


@pytest.mark.parametrize(
    "address", ["tcp://*:*", "tcp://0.0.0.0:*", "tcp://[::]:*", "tcp://localhost:*", "tcp://lo:*"]
)
@pytest.mark.asyncio
async def test_an_address_that_others_reach_is_refused_without_keys(address: str) -> None:
    with (
        closing(Sockets()) as sockets,
        pytest.raises(TransportError, match="CURVE") as caught,
    ):
        sockets.bind(ROUTER, address, field="sockets.ingest")
    assert caught.value.field == "sockets.ingest"


@pytest.mark.asyncio
async def test_an_address_that_others_reach_is_bound_with_keys(keys: Keys) -> None:
    with closing(keys.sockets()) as sockets:
        await sockets.start()
        sockets.bind(ROUTER, "tcp://*:*", field="sockets.ingest", for_sensors=True)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1:5555",
        "tcp://127.0.0.1",
        "tcp://127.0.0.1:99999",
        "tcp://127.0.0.1:x",
        "ws://127.0.0.1:80",
        "TCP://127.0.0.1:5555",
        "ipc://",
        "ipc://@abstract",
        "ipc://*",
        "",
    ],
)
@pytest.mark.asyncio
async def test_what_is_no_address_is_refused_by_its_field(keys: Keys, address: str) -> None:
    for sockets in (Sockets(), keys.sockets()):
        with (
            closing(sockets),
            pytest.raises(TransportError, match="not a usable address") as caught,
        ):
            sockets.bind(ROUTER, address, field="sockets.ingest")
        assert caught.value.field == "sockets.ingest"


@pytest.mark.asyncio
async def test_a_port_in_use_is_refused() -> None:
    with closing(Sockets()) as sockets:
        taken = endpoint(sockets.bind(ROUTER, "tcp://127.0.0.1:*", field="sockets.ingest"))
        with pytest.raises(TransportError, match="in use") as caught:
            sockets.bind(ROUTER, taken, field="sockets.control")
        assert caught.value.field == "sockets.control"


@pytest.mark.asyncio
async def test_ipv6_loopback() -> None:
    with closing(Sockets()) as sockets:
        try:
            router = sockets.bind(ROUTER, "tcp://[::1]:*", field="sockets.ingest")
        except TransportError as error:
            pytest.skip(f"no IPv6 here: {error}")
        async with connected(DEALER, endpoint(router)) as dealer:
            await send(dealer, b"x")
            assert (await receive(router, 1))[0].frames[1:] == [b"x"]


@pytest.mark.parametrize("address", ["nowhere", "tcp://127.0.0.1", "ws://127.0.0.1:80"])
def test_connecting_to_no_address(address: str) -> None:
    with pytest.raises(TransportError, match="cannot connect"):
        connect(DEALER, address)


# ------------------------------------------------------------------ ipc


@pytest.mark.asyncio
async def test_an_ipc_socket_shuts_others_out_and_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "ingest"
    before = os.umask(0o022)
    try:
        with closing(Sockets()) as sockets:
            sockets.bind(ROUTER, f"ipc://{path}", field="sockets.ingest")
            assert stat.S_IMODE(path.stat().st_mode) == 0o660
            assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)
    assert not path.exists()


@pytest.mark.asyncio
async def test_an_ipc_path_is_not_taken_from_a_living_service(tmp_path: Path) -> None:
    address = f"ipc://{tmp_path / 'ingest'}"
    with closing(Sockets()) as first:
        router = first.bind(ROUTER, address, field="sockets.ingest")
        with (
            closing(Sockets()) as second,
            pytest.raises(TransportError, match="another process listens"),
        ):
            second.bind(ROUTER, address, field="sockets.ingest")
        async with connected(DEALER, address) as dealer:
            await send(dealer, b"still there")
            assert (await receive(router, 1))[0].frames[1:] == [b"still there"]


@pytest.mark.asyncio
async def test_an_ipc_path_left_by_a_killed_service_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "ingest"
    with zmq.Context() as context, context.socket(zmq.ROUTER) as dead:
        dead.bind(f"ipc://{path}")
        left = tmp_path / "left"
        os.link(path, left)  # closing removes the name it was bound to, killing would not
    left.rename(path)
    with closing(Sockets()) as sockets:
        sockets.bind(ROUTER, f"ipc://{path}", field="sockets.ingest")


@pytest.mark.asyncio
async def test_an_ipc_path_that_is_a_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with closing(Sockets()) as sockets, pytest.raises(TransportError, match="not a socket"):
        sockets.bind(ROUTER, f"ipc://{path}", field="sockets.ingest")
    assert path.read_text() == "data"


@pytest.mark.parametrize(
    ("name", "match"), [("no/such/folder/x", "no such folder"), ("x" * 120, "at most 107 bytes")]
)
@pytest.mark.asyncio
async def test_an_ipc_path_that_cannot_be(tmp_path: Path, name: str, match: str) -> None:
    with closing(Sockets()) as sockets, pytest.raises(TransportError, match=match):
        sockets.bind(ROUTER, f"ipc://{tmp_path}/{name}", field="sockets.ingest")


# ------------------------------------------------------------------ messages


@pytest.mark.asyncio
async def test_batches_take_what_is_there_in_order(tmp_path: Path) -> None:
    address = f"ipc://{tmp_path / 'a'}"
    with closing(Sockets()) as sockets:
        router = sockets.bind(ROUTER, address, field="a")
        async with connected(DEALER, address) as dealer:
            for number in range(5):
                await send(dealer, b"%d" % number)
            got: list[bytes] = []
            while len(got) < 5:
                batch = await receive(router, 2)
                assert 1 <= len(batch) <= 2
                assert all(received.key is None for received in batch)
                got += [received.frames[1] for received in batch]
            assert got == [b"0", b"1", b"2", b"3", b"4"]
            assert receive_now(router) is None


@pytest.mark.asyncio
async def test_an_answer_to_a_peer_that_is_gone_was_not_sent(tmp_path: Path) -> None:
    address = f"ipc://{tmp_path / 'a'}"
    with closing(Sockets()) as sockets:
        router = sockets.bind(ROUTER, address, field="a")
        async with connected(DEALER, address) as dealer:
            await send(dealer, b"x")
            identity = (await receive(router, 1))[0].frames[0]
            assert send_now(router, [identity, b"answer"])
            assert await dealer.recv() == b"answer"
            assert not send_now(router, [b"nobody", b"answer"])


@pytest.mark.asyncio
async def test_without_a_connection_nothing_is_queued(tmp_path: Path) -> None:
    async with connected(DEALER, f"ipc://{tmp_path / 'nobody'}") as dealer:
        assert not send_now(dealer, [b"x"])


@pytest.mark.asyncio
async def test_the_plain_socket_takes_messages_of_this_protocol_alone(tmp_path: Path) -> None:
    address = f"ipc://{tmp_path / 'plain'}"
    with closing(Sockets()) as sockets:
        plain = sockets.bind(SUB, address, field="sockets.plain", for_sensors=True)
        async with connected(XPUB, address) as publisher:
            arriving = asyncio.create_task(receive(plain, 9))
            assert await publisher.recv() == b"\x01" + MAGIC
            await publisher.send_multipart([b"other", b"x"])
            await publisher.send_multipart(encode(Hello(client_id="c")))
            assert [received.frames[0] for received in await arriving] == [MAGIC]


@pytest.mark.asyncio
async def test_every_subscription_is_seen(tmp_path: Path) -> None:
    address = f"ipc://{tmp_path / 'status'}"
    with closing(Sockets()) as sockets:
        status = sockets.bind(XPUB, address, field="sockets.status")
        async with connected(SUB, address, topics=("status.",)):
            assert (await receive(status, 1))[0].frames == [b"\x01status."]
            async with connected(SUB, address, topics=("status.",)):
                assert (await receive(status, 1))[0].frames == [b"\x01status."]


@pytest.mark.asyncio
async def test_far_too_large_a_message_costs_the_connection(tmp_path: Path) -> None:
    address = f"ipc://{tmp_path / 'a'}"
    with closing(Sockets()) as sockets:
        router = sockets.bind(ROUTER, address, field="a")
        async with connected(DEALER, address) as rogue, connected(DEALER, address) as good:
            monitor = rogue.get_monitor_socket(zmq.EVENT_DISCONNECTED)
            await send(rogue, bytes(9 * 2**20))
            await asyncio.wait_for(monitor.recv_multipart(), _GIVE_UP_S)
            rogue.disable_monitor()
            monitor.close()
            await send(good, bytes(5 * 2**20))  # a little too large: the service can say so
            assert len((await receive(router, 1))[0].frames[1]) == 5 * 2**20


@pytest.mark.asyncio
async def test_a_flood_leaves_room_for_others(tmp_path: Path) -> None:
    address = f"ipc://{tmp_path / 'a'}"
    with closing(Sockets()) as sockets:
        router = sockets.bind(ROUTER, address, field="a")
        async with connected(DEALER, address) as dealer:
            for _ in range(100):
                await send(dealer, b"x")
            for _ in range(100):
                other = asyncio.get_running_loop().create_future()
                asyncio.get_running_loop().call_soon(other.set_result, None)
                await receive(router, 1)
                assert other.done()


# ------------------------------------------------------------------ CURVE


async def turned_away(socket: Any) -> None:
    """Waits until the service has turned the connection down."""
    monitor = socket.get_monitor_socket()
    # Once more: it may have been turned down before anybody looked, and some ends are for good.
    address = endpoint(socket)
    with contextlib.suppress(zmq.ZMQError):  # nothing is left of it
        socket.disconnect(address)
    socket.connect(address)
    event = None
    while event not in _TURNED_AWAY:
        message = await asyncio.wait_for(monitor.recv_multipart(), _GIVE_UP_S)
        event = parse_monitor_message(message)["event"]
    socket.disable_monitor()
    monitor.close()


@pytest.mark.parametrize(
    ("who", "for_sensors", "passes"),
    [
        ("watch-7", True, True),
        ("desk", False, True),
        ("watch-7", False, False),
        ("desk", True, False),
        ("stranger", True, False),
        ("stranger", False, False),
        (None, True, False),
        (None, False, False),
    ],
)
@pytest.mark.asyncio
async def test_who_gets_through(
    keys: Keys, who: str | None, for_sensors: bool, passes: bool
) -> None:
    with closing(keys.sockets()) as sockets:
        await sockets.start()
        router = sockets.bind(
            ROUTER, "tcp://127.0.0.1:*", field="sockets.x", for_sensors=for_sensors
        )
        arguments = keys.of(who) if who else {}
        async with connected(DEALER, endpoint(router), **arguments) as dealer:
            if passes:
                await send(dealer, b"hello")
                received = (await receive(router, 1))[0]
                assert received.frames[1:] == [b"hello"]
                assert received.key is not None
                assert sockets.client_name(received.key) == ("watch-7" if for_sensors else "")
            else:
                await turned_away(dealer)
                assert not send_now(dealer, [b"hello"])
                assert receive_now(router) is None


@pytest.mark.asyncio
async def test_a_peer_that_trusts_another_service_is_not_fooled(keys: Keys, tmp_path: Path) -> None:
    other = load_public_key(make_key(tmp_path, "other")[0])
    with closing(keys.sockets()) as sockets:
        await sockets.start()
        router = sockets.bind(ROUTER, "tcp://127.0.0.1:*", field="x", for_sensors=True)
        arguments = keys.of("watch-7") | {"server_key": other}
        async with connected(DEALER, endpoint(router), **arguments) as dealer:
            await turned_away(dealer)
            assert receive_now(router) is None


@pytest.mark.asyncio
async def test_a_key_counts_from_when_the_folder_is_read_again(keys: Keys) -> None:
    with closing(keys.sockets()) as sockets:
        await sockets.start()
        router = sockets.bind(ROUTER, "tcp://127.0.0.1:*", field="x", for_sensors=True)
        stranger = keys.secrets["stranger"].with_name("stranger.key")
        (keys.sensors / "guest.key").write_bytes(stranger.read_bytes())
        (keys.sensors / "watch-7.key").unlink()
        sockets.reload_keys()
        async with (
            connected(DEALER, endpoint(router), **keys.of("stranger")) as guest,
            connected(DEALER, endpoint(router), **keys.of("watch-7")) as revoked,
        ):
            await turned_away(revoked)
            await send(guest, b"hello")
            received = (await receive(router, 1))[0]
            assert sockets.client_name(received.key) == "guest"


@pytest.mark.asyncio
async def test_a_damaged_key_leaves_the_keys_as_they_were(keys: Keys) -> None:
    with closing(keys.sockets()) as sockets:
        await sockets.start()
        (keys.sensors / "watch-7.key").unlink()
        (keys.operators / "bad.key").write_text("not a key")
        with pytest.raises(ConfigError, match=r"bad\.key"):
            sockets.reload_keys()
        router = sockets.bind(ROUTER, "tcp://127.0.0.1:*", field="x", for_sensors=True)
        async with connected(DEALER, endpoint(router), **keys.of("watch-7")) as dealer:
            await send(dealer, b"hello")
            assert (await receive(router, 1))[0].frames[1:] == [b"hello"]


@pytest.mark.asyncio
async def test_ipc_needs_no_key_where_tcp_does(keys: Keys, tmp_path: Path) -> None:
    with closing(keys.sockets()) as sockets:
        await sockets.start()
        router = sockets.bind(ROUTER, f"ipc://{tmp_path / 'a'}", field="x", for_sensors=True)
        for arguments in ({}, keys.of("stranger")):
            async with connected(DEALER, f"ipc://{tmp_path / 'a'}", **arguments) as dealer:
                await send(dealer, b"hello")
                received = (await receive(router, 1))[0]
                assert received.key is None
                assert sockets.client_name(received.key) is None


# ------------------------------------------------------------------ key files


def test_a_secret_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    _, secret = make_key(tmp_path, "a")
    assert isinstance(load_key_pair(secret), KeyPair)
    for mode in (0o640, 0o604, 0o620, 0o602):
        secret.chmod(mode)
        with pytest.raises(AccessError, match="others may read"):
            load_key_pair(secret)


def test_a_secret_key_is_never_shown(tmp_path: Path) -> None:
    pair = load_key_pair(make_key(tmp_path, "a")[1])
    assert pair.secret.decode() not in repr(pair)


def test_files_that_hold_no_key(tmp_path: Path) -> None:
    public, _ = make_key(tmp_path, "a")
    with pytest.raises(ConfigError, match="no secret key"):
        load_key_pair(public)
    with pytest.raises(ConfigError, match="not a CURVE certificate"):
        load_public_key(tmp_path / "missing.key")
    for text in ("", "\0\xff", 'curve\n    public-key = "short"\n'):
        (tmp_path / "bad.key").write_text(text)
        with pytest.raises(ConfigError, match="not a CURVE certificate"):
            load_public_key(tmp_path / "bad.key")


def test_a_client_needs_both_keys(tmp_path: Path) -> None:
    public, secret = make_key(tmp_path, "a")
    assert credentials(None, None) == (None, None)
    with pytest.raises(ConfigError, match="server_key"):
        credentials(secret, None)
    with pytest.raises(ConfigError, match="key: CURVE"):
        credentials(None, public)


def test_a_key_is_checked_where_it_is_used() -> None:
    pair = KeyPair(b"x" * 40, b"\0" * 40)
    with pytest.raises(TransportError, match="cannot connect"):
        connect(PUB, "tcp://127.0.0.1:9", key=pair, server_key=b"?" * 40)
