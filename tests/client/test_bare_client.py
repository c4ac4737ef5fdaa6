"""The document alone is enough: a client that shares no code with ours keeps the same promises."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from .bare_client import BareClient, window
from .model_service import Peer

VECTORS = Path(__file__).parents[2] / "docs" / "vectors"
X = [[0.0, 0.5, -1.25, 9.80665], [1.0, -0.0, 65504.0, 0.1]]


def test_it_uses_nothing_of_ours() -> None:
    tree = ast.parse(Path(__file__).with_name("bare_client.py").read_text())
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
        )
    }
    assert "edgetuner" not in imported
    assert {"zmq", "json", "zlib"} <= imported


def test_it_builds_the_window_of_the_vectors() -> None:
    magic, header, payload = window("watch-7", "wrist", 41, X)
    vector = json.loads((VECTORS / "window_float32.json").read_text())
    wanted = {k: v for k, v in vector["header"].items() if k not in ("label", "gap")}
    assert json.loads(header) == wanted
    assert [magic, payload] == [
        (VECTORS / vector["frames"][index]).read_bytes() for index in (0, 2)
    ]


def test_it_loses_and_doubles_nothing_while_the_service_dies(
    address: str, peers: list[Peer]
) -> None:
    peers[0].service.no_room["s", 7] = 2
    client = BareClient(address, "bare", "s")
    try:
        for turn in range(4):
            for n in range(25):
                client.publish([[float(turn)] * 4, [float(n)] * 4])
            client.step()
            peers.append(peers[-1].reborn())
        client.run()
        assert list(peers[-1].disk.windows["s"]) == list(range(100))
        assert client.predicted[99] == "walk"
        client.publish([[float("nan")] * 4] * 2)
        client.publish([[1.0] * 4] * 2)
        client.run()
    finally:
        client.close()
    assert [r["error"]["code"] for r in client.refused] == ["window"]
    assert list(peers[-1].disk.windows["s"]) == list(range(102))


def test_a_new_program_goes_on_counting(address: str, peers: list[Peer]) -> None:
    for seq in range(2):
        client = BareClient(address, "bare", "s")
        try:
            client.publish([[1.0] * 4, [float(seq)] * 4])
            client.run()
        finally:
            client.close()
    assert list(peers[0].disk.windows["s"]) == [0, 1]


def test_the_one_in_javascript_does_the_same(address: str, peers: list[Peer]) -> None:
    """Where node has the zeromq package: `npm install zeromq` in docs/examples or above it."""
    folder = Path(__file__).parents[2] / "docs" / "examples"
    node = shutil.which("node")
    if (
        node is None
        or subprocess.run(
            [node, "-e", "require.resolve('zeromq')"], cwd=folder, stderr=subprocess.DEVNULL
        ).returncode
    ):
        pytest.skip("needs node with the zeromq package")
    with subprocess.Popen(
        [node, "client.mjs", address, "js", "200"], cwd=folder, stdout=subprocess.PIPE, text=True
    ) as process:
        for _ in range(3):
            peers[-1].wait_until_seen(20)
            peers.append(peers[-1].reborn())
        output, _ = process.communicate(timeout=60)
    assert output.splitlines()[-1] == "200 windows acknowledged, the last one 199"
    assert list(peers[-1].disk.windows["js"]) == list(range(200))
