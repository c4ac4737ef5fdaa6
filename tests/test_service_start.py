"""A service that cannot start says why in one line, with the exit code of sysexits, and no
traceback.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgetuner.bundle import Bundle, write_bundle  # noqa: E402
from tests import waves  # noqa: E402
from tests.live import PATIENCE_S, Heard, Live, Wire  # noqa: E402


@pytest.fixture
def live(wave_bundle: Path) -> Iterator[Live]:
    """Not started yet."""
    live = Live(wave_bundle)
    yield live
    live.kill()
    shutil.rmtree(live.folder, ignore_errors=True)


def complaint(live: Live) -> tuple[int, str]:
    """Exit code, and the one line that the process ends with."""
    code = live.launch().wait(PATIENCE_S)
    (line,) = live.errors.read_text().splitlines()
    assert line.startswith("edgetuner: ")
    return code, line


def test_a_configuration_that_is_no_yaml(live: Live) -> None:
    live.config_path.write_text("sockets: [\n")
    code, line = complaint(live)
    assert code == 78 and "edgetuner.yaml: not valid YAML" in line


def test_a_missing_bundle(live: Live) -> None:
    live.write_config(bundle=str(live.folder / "nowhere"))
    code, line = complaint(live)
    assert code == 65 and "bundle: cannot be taken" in line
    assert "nowhere" in line and "missing" in line


def test_a_tampered_bundle(live: Live, wave_bundle: Path) -> None:
    copy = live.folder / "copy"
    shutil.copytree(wave_bundle, copy)
    weights = bytearray((copy / "weights.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "weights.safetensors").write_bytes(weights)
    live.write_config(bundle=str(copy))
    code, line = complaint(live)
    assert code == 65 and "weights.safetensors" in line and "hash" in line


def test_a_bundle_that_cannot_serve_is_not_kept(live: Live, wave_bundle: Path) -> None:
    good = Bundle.load(wave_bundle)
    loud = np.full_like(good.weights["head.weight"], 3e38)  # a sum of these is infinite
    spoilt = replace(good, weights={**good.weights, "head.weight": loud})
    write_bundle(live.folder / "first", spoilt, good.manifest.description, prefix="spoilt")
    live.write_config(bundle=str(live.folder / "first"))
    code, line = complaint(live)
    assert code == 65 and "not finite" in line
    live.write_config(bundle=str(wave_bundle))
    live.start()
    assert live.call("status")["state"]["model"] == good.version
    assert live.terminate() == 0


def other(live: Live, bundle: Path, **changes: object) -> tuple[Path, str]:
    """Another bundle of the same weights, and its version."""
    good = Bundle.load(bundle)
    description = good.manifest.description.model_copy(update={"metrics": {}, **changes})
    folder = live.folder / "other"
    shutil.rmtree(folder, ignore_errors=True)
    return folder, write_bundle(folder, good, description, prefix="other").version


def restarted(live: Live) -> str:
    """The version that the service comes up with again."""
    assert live.terminate() == 0
    live.start()
    return str(live.call("status")["state"]["model"])


def test_another_bundle_takes_the_place_of_the_champion_once(live: Live, wave_bundle: Path) -> None:
    first = Bundle.load(wave_bundle).version
    live.start()
    folder, version = other(live, wave_bundle)
    live.write_config(bundle=str(folder))
    assert restarted(live) == version
    assert live.call("models.rollback")["live"] == first
    assert restarted(live) == first, "what was taken back is not installed again"
    live.write_config(bundle=str(wave_bundle))
    assert restarted(live) == first
    assert live.call("models.promote", version=version)["champion"] == version
    assert restarted(live) == version, "and what was promoted stays"
    live.write_config(bundle=str(folder))
    assert restarted(live) == version
    shutil.rmtree(folder)
    assert restarted(live) == version
    assert "trouble" in live.log.read_text(), "a bundle that is gone is told"
    assert live.terminate() == 0


@pytest.mark.parametrize("damaged", [False, True])
def test_another_bundle_that_cannot_take_its_place_leaves_the_champion(
    live: Live, wave_bundle: Path, damaged: bool
) -> None:
    first = Bundle.load(wave_bundle).version
    live.start()
    folder, version = other(live, wave_bundle, **({} if damaged else {"hz": 400.0}))
    if damaged:
        (folder / "weights.safetensors").write_bytes(b"")
    live.write_config(bundle=str(folder))
    assert restarted(live) == first
    said = live.log.read_text()
    assert "trouble" in said
    assert ("weights.safetensors" if damaged else f"{version}: hz") in said
    assert live.terminate() == 0


def test_a_champion_that_was_damaged_gives_way_to_the_configured_bundle(
    live: Live, wave_bundle: Path
) -> None:
    first = Bundle.load(wave_bundle).version
    live.start()
    assert live.terminate() == 0
    (live.state_dir / "models/versions" / first / "weights.safetensors").write_bytes(b"")
    live.start()
    assert live.call("status")["state"]["model"] == first
    (told,) = [line for line in live.log.read_text().splitlines() if "trouble" in line]
    assert "weights.safetensors" in told and "warning" in told
    assert restarted(live) == first
    assert live.terminate() == 0


def test_a_port_in_use(live: Live) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        live.write_config(sockets={"ingest": address})
        code, line = complaint(live)
    assert code == 69 and "sockets.ingest: cannot bind" in line and address in line


def test_an_ipc_path_in_use(live: Live) -> None:
    path = live.folder / "ingest"
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(os.fspath(path))
        taken.listen()
        code, line = complaint(live)
        assert code == 69 and "sockets.ingest: another process listens here" in line
        assert path.exists(), "the other's socket is left alone"


def test_a_state_directory_that_another_service_uses(wave_bundle: Path, live: Live) -> None:
    with Live(wave_bundle) as first:
        live.write_config(state_dir=str(first.state_dir))
        code, line = complaint(live)
        assert code == 75 and "state_dir: another service uses this folder" in line
        assert first.call("status")["state"]["model"]


def test_a_damaged_store_is_left_as_it_is(live: Live) -> None:
    live.state_dir.mkdir()
    store = live.state_dir / "windows.db"
    store.write_bytes(b"not a database, but somebody's file" * 100)
    before = store.read_bytes()
    code, line = complaint(live)
    assert code == 74 and "windows.db" in line
    assert store.read_bytes() == before


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", os.fspath(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("mounting a small disk takes root")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", os.fspath(folder)], check=True)


def test_a_disk_too_small_for_the_model(live: Live) -> None:
    with small_disk(live.state_dir, "24k"):
        code, line = complaint(live)
        assert code == 74 and "state/models" in line and "disk space" in line


def test_a_disk_that_fills_up_refuses_windows_and_takes_them_later(live: Live) -> None:
    with small_disk(live.state_dir, "3m"):
        ballast = live.state_dir / "ballast"
        live.start()
        heard = Heard(live.sockets["status"])
        heard.wait("status.snapshot")
        with Wire(live.sockets["ingest"], "w") as wire:
            wire.window("s", 0)
            assert wire.answer().durable
            heard.wait("prediction.w.s", lambda data: data["seq"] == 0)
            fill(ballast)
            seq = 1
            while True:
                wire.window("s", seq, waves.window(seq, 0))
                answer = wire.answer()
                if answer.type == "refusal":
                    break
                seq += 1
            assert (answer.error["code"], answer.final) == ("store", False)
            assert "full" in answer.error["message"] and answer.error["remedy"]
            status = live.call("status")
            assert any(key.startswith("store") for key in status["ingest"]["refusals"])
            ballast.unlink()
            wire.window("s", seq, waves.window(seq, 0))
            assert wire.answer().outcome == "stored"
        heard.wait("prediction.w.s", lambda data: data["seq"] == seq)
        heard.close()
        assert live.terminate() == 0
        assert live.errors.read_text() == ""
        assert live.rows("SELECT count(*), count(predicted) FROM window") == [(seq + 1,) * 2]


def fill(path: Path) -> None:
    """Takes all that the disk has."""
    with path.open("wb", buffering=0) as file:
        for size in (65536, 4096):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue
