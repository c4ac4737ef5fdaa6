"""CURVE on TCP: who may publish, under which name, and who may ask."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import zmq  # noqa: E402
import zmq.auth  # noqa: E402

from edgetuner.client import Client, Operator, subscribe  # noqa: E402
from edgetuner.errors import AccessError, UnavailableError  # noqa: E402
from tests import waves  # noqa: E402
from tests.live import PATIENCE_S, Live, Sensor  # noqa: E402

SHORT_S = 1.0  # how long nothing is waited for, where nothing may come


class Keys:
    """Certificates of the service, of two sensors, of an operator, and of a stranger."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("sensors", "operators"):
            (folder / name).mkdir()
        for name in ("service", "watch-7", "watch-8", "operator", "stranger"):
            zmq.auth.create_certificates(folder, name)
            (folder / f"{name}.key_secret").chmod(0o600)
        for room, name in (
            ("sensors", "watch-7"),
            ("sensors", "watch-8"),
            ("operators", "operator"),
        ):
            (folder / f"{name}.key").rename(folder / room / f"{name}.key")

    def of(self, name: str) -> dict[str, Path]:
        """The two files that a peer of this name connects with."""
        return {
            "key": self.folder / f"{name}.key_secret",
            "server_key": self.folder / "service.key",
        }


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [taken.getsockname()[1] for taken in sockets]
    for taken in sockets:
        taken.close()
    return ports


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def live(wave_bundle: Path, keys: Keys) -> Iterator[Live]:
    names = ("ingest", "status", "control")
    tcp = {n: f"tcp://127.0.0.1:{p}" for n, p in zip(names, free_ports(3), strict=True)}
    security = {
        "server_key_file": os.fspath(keys.folder / "service.key_secret"),
        "sensors_dir": os.fspath(keys.folder / "sensors"),
        "operators_dir": os.fspath(keys.folder / "operators"),
    }
    service = Live(
        wave_bundle,
        {"sockets": {**tcp, "plain": None}, "security": security},
        keys=keys.of("operator"),
    )
    with service:
        yield service


def test_a_listed_sensor_publishes_under_its_own_name(live: Live, keys: Keys) -> None:
    with live.client("watch-7", **keys.of("watch-7")) as client:
        Sensor(client).publish(3)
        assert [next(client.predictions(PATIENCE_S)).seq for _ in range(3)] == [0, 1, 2]


def test_a_listed_sensor_publishes_under_no_other_name(live: Live, keys: Keys) -> None:
    client = live.client("watch-7", **keys.of("watch-8"))
    with pytest.raises(AccessError) as refused:
        client.publish("wrist", waves.window(0, 0), t_ns=0)
    client.close()
    assert refused.value.field == "client_id" and "watch-8" in str(refused.value.remedy)
    assert live.call("status")["ingest"]["refusals"]["permission.client_id"] >= 1


@pytest.mark.parametrize("name", ["stranger", "operator"])
def test_a_key_that_is_no_sensors_gets_no_answer(live: Live, keys: Keys, name: str) -> None:
    client = Client(live.sockets["ingest"], name, timeout=SHORT_S, **keys.of(name))
    with pytest.raises(UnavailableError):
        client.welcome()
    client.close()


def test_nobody_gets_an_answer_without_a_key(live: Live) -> None:
    client = Client(live.sockets["ingest"], "watch-7", timeout=SHORT_S)
    with pytest.raises(UnavailableError):
        client.welcome()
    client.close()


@pytest.mark.parametrize("name", ["watch-7", "stranger"])
def test_a_sensor_reaches_neither_control_nor_status(live: Live, keys: Keys, name: str) -> None:
    with (
        Operator(live.sockets["control"], timeout_s=SHORT_S, **keys.of(name)) as operator,
        pytest.raises(UnavailableError),
    ):
        operator.status()
    assert next(subscribe(live.sockets["status"], timeout_s=SHORT_S, **keys.of(name))) is None


def test_a_key_that_is_added_or_taken_away_counts_after_a_reload(live: Live, keys: Keys) -> None:
    assert live.heard is not None
    stranger = keys.folder / "stranger.key"
    listed = keys.folder / "sensors" / "stranger.key"
    stranger.rename(listed)
    live.heard.forget()
    live.hang_up()
    live.heard.wait("event.reloaded")
    with live.client("stranger", **keys.of("stranger")) as client:
        Sensor(client).publish(1)
    listed.rename(stranger)
    live.heard.forget()
    live.hang_up()
    live.heard.wait("event.reloaded")
    client = Client(live.sockets["ingest"], "stranger", timeout=SHORT_S, **keys.of("stranger"))
    with pytest.raises(UnavailableError):
        client.welcome()
    client.close()
