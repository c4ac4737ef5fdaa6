from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from edgetuner.addresses import SOCKETS, address_of, is_local, is_usable
from edgetuner.config import SocketsConfig
from edgetuner.errors import ConfigError


def written(folder: Path, sockets: Any, **others: Any) -> Path:
    file = folder / "edgetuner.yaml"
    file.write_text(yaml.safe_dump({"sockets": sockets, **others}))
    return file


def test_the_names_and_defaults_are_those_of_the_configuration(tmp_path: Path) -> None:
    defaults = SocketsConfig().model_dump()
    for file in (written(tmp_path, {}), written(tmp_path, None)):
        assert {name: address_of(name, file) for name in SOCKETS} == defaults


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("ipc://run/c", "ipc://{folder}/run/c"),
        ("ipc:///run/c", "ipc:///run/c"),
        ("ipc://@edgetuner", "ipc://@edgetuner"),
        ("tcp://127.0.0.1:5", "tcp://127.0.0.1:5"),
    ],
)
def test_relative_paths_are_taken_from_the_file(tmp_path: Path, given: str, found: str) -> None:
    file = written(tmp_path, {"control": given})
    assert address_of("control", file) == found.format(folder=tmp_path)


def test_a_mistake_elsewhere_does_not_matter(tmp_path: Path) -> None:
    file = written(tmp_path, {"plain": "ipc:///p"}, adapt={"rank": -1}, nonsense=True)
    assert address_of("plain", file) == "ipc:///p"


@pytest.mark.parametrize(
    ("sockets", "field"),
    [
        ({"controll": "ipc:///c"}, "sockets"),
        ("ipc:///c", "sockets"),
        ({"control": 5}, "sockets.control"),
    ],
)
def test_what_is_no_table_of_addresses_is_refused(tmp_path: Path, sockets: Any, field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        address_of("control", written(tmp_path, sockets))
    assert caught.value.field == field


def test_an_unreadable_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        address_of("control", tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("ipc:///run/edgetuner/ingest", True),
        ("inproc://x", True),
        ("tcp://127.0.0.1:5555", True),
        ("tcp://127.8.9.10:5555", True),
        ("tcp://[::1]:5555", True),
        ("tcp://*:5555", False),
        ("tcp://0.0.0.0:5555", False),
        ("tcp://[::]:5555", False),
        ("tcp://[::ffff:192.168.1.5]:5555", False),
        ("tcp://192.168.1.5:5555", False),
        ("tcp://eth0:5555", False),
        ("tcp://lo:5555", False),
        ("tcp://localhost:5555", False),
        ("tcp://localhost.example.org:5555", False),
        ("tcp://127.0.0.1.example.org:5555", False),
        ("tcp://127.0.0.1@192.168.1.5:5555", False),
        ("tcp://127.0.0.1;192.168.1.5:5555", False),
        ("tcp://", False),
        ("ws://127.0.0.1:80", False),
        ("udp://127.0.0.1:80", False),
        ("", False),
    ],
)
def test_is_local(address: str, local: bool) -> None:
    assert is_local(address) is local


@pytest.mark.parametrize(
    "address", ["ipc:///run/c", "ipc://run/c", "tcp://*:*", "tcp://[::1]:5", "tcp://[::1]:*"]
)
def test_usable(address: str) -> None:
    assert is_usable(address)


@pytest.mark.parametrize(
    "address",
    [
        *("", "ipc://", "ipc://@name", "ipc://*", "/run/c", "tcp://127.0.0.1", "tcp://h:65536"),
        *("tcp://h:x", "udp://127.0.0.1:5", "inproc://", "tcp://:5", "tcp://u@127.0.0.1:5"),
        *("tcp://127.0.0.1:5/x", "tcp://127.0.0.1:5?x", "tcp://127.0.0.1:5#x", "tcp://h:5:*"),
    ],
)
def test_not_usable(address: str) -> None:
    assert not is_usable(address)
