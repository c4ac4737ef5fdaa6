"""What goes wrong: one line on standard error, the exit code of sysexits, and no traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgetuner.cli import main
from tests.cli.child import ROOT, complaint, edgetuner

USAGE, DATA, NOBODY, IO, CONFIG = 64, 65, 69, 74, 78


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "nonsense",
        "status --nonsense",
        "status extra",
        "status --timeout soon",
        "status --timeout -1",
        "status --timeout nan",
        "tail -n 0",
        "tail -n many",
        "models",
        "models show",
        "bundle create source.npz",
        "bundle create source.npz -o out --backbone alexnet",
        "bundle create source.npz -o out --epochs 0",
        "bundle create source.npz -o out --unseen three",
        "bundle create source.npz -o out --factory mine:build",
        "bundle create source.npz -o out --factory m:b --weights w --backbone t_resnet",
        "bundle create one.npz two.npz -o out",
        "bundle create one.csv -o out",
        "bundle create one.csv -o out --length 8 --hz 8",
        "replay",
        "replay x.npz --bout 0",
        "status --address ipc:///nowhere --key mine",
    ],
)
def test_wrong_usage_is_64(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments.split()) == USAGE
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("edgetuner: ")
    assert said.err.count("\n") == 1


def test_wrong_usage_names_the_help() -> None:
    assert complaint(USAGE, "tail", "-n", "x").endswith("see `edgetuner tail --help`")


def test_wrong_usage_in_json() -> None:
    done = edgetuner("tail", "--json", "-n", "x")
    assert done.returncode == USAGE
    assert done.stdout == ""
    assert json.loads(done.stderr)["error"]["code"] == "usage"


@pytest.mark.parametrize(
    "command",
    [
        *("status", "adapt", "pause", "resume", "models list", "models show champion"),
        *("models promote champion", "models rollback", "tail"),
    ],
)
def test_nobody_answers_is_69(
    command: str, ipc_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = f"ipc://{ipc_dir}/nobody"
    assert main([*command.split(), "--address", where, "--timeout", "0.1"]) == NOBODY
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert where in said.err or "silence" in said.err


def test_nobody_answers_a_child_in_json(ipc_dir: Path) -> None:
    done = edgetuner("status", "--address", f"ipc://{ipc_dir}/nobody", "--timeout", "0.1", "--json")
    assert done.returncode == NOBODY
    assert json.loads(done.stderr)["error"]["code"] == "unavailable"


def test_no_address_is_a_transport_error() -> None:
    assert "nonsense" in complaint(NOBODY, "status", "--address", "nonsense")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot be read"),
        ("adapt: {rnak: 3}", "adapt.rnak: unknown key; did you mean adapt.rank?"),
        ("adapt: {rank: 0}", "adapt.rank: "),
        ("a: [", "not valid YAML"),
        ("[1, 2]", "must be a mapping"),
    ],
)
def test_a_wrong_configuration_is_78(tmp_path: Path, text: str | None, said: str) -> None:
    file = tmp_path / "edgetuner.yaml"
    if text is not None:
        file.write_text(text)
    assert said in complaint(CONFIG, "validate-config", file)


def test_a_missing_bundle_is_78_for_a_service(tmp_path: Path, ipc_dir: Path) -> None:
    pytest.importorskip("torch")
    file = tmp_path / "edgetuner.yaml"
    addresses = {name: f"ipc://{ipc_dir}/{name}" for name in ("ingest", "status", "control")}
    file.write_text(
        json.dumps({"state_dir": "state", "sockets": addresses, "telemetry": {"sources": []}})
    )
    assert "edgetuner bundle create" in complaint(CONFIG, "run", "-c", file)


def test_a_missing_recording_is_65(tmp_path: Path) -> None:
    absent = tmp_path / "absent.npz"
    assert "does not exist" in complaint(
        DATA, "simulate", absent, "--address", "ipc:///nowhere", "--timeout", "0.1"
    )


def test_a_missing_bundle_is_65(tmp_path: Path) -> None:
    for action in ("show", "verify"):
        assert "is missing" in complaint(DATA, "bundle", action, tmp_path)


def window_set(folder: Path) -> Path:
    file = folder / "windows.npz"
    names: Any = {"classes": np.array(["a"]), "channels": np.array(["x"])}
    np.savez(file, X=np.zeros((1, 1, 4), np.float32), y=np.zeros(1, np.int64), hz=1.0, **names)
    return file


def test_a_missing_torch_is_said(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')"
    )
    said = complaint(
        NOBODY,
        *("bundle", "create", window_set(tmp_path), "-o", "out"),
        environment={"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
    )
    assert said.startswith("edgetuner: torch: is not installed")


def test_another_missing_module_is_a_bug_and_not_hidden(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("import a_module_that_nobody_has")
    done = edgetuner(
        *("bundle", "create", window_set(tmp_path), "-o", "out"),
        environment={"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
    )
    assert "a_module_that_nobody_has" in done.stderr
    assert done.returncode == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_74() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "edgetuner", "validate-config", "configs/default.yaml"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
    assert done.returncode == IO
    assert done.stderr.count("\n") == 1
    assert "No space left" in done.stderr


def test_a_reader_that_is_gone_is_no_failure() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as deaf:
        done = subprocess.run(
            [sys.executable, "-m", "edgetuner", "validate-config", "configs/default.yaml"],
            stdout=deaf,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
    assert (done.returncode, done.stderr) == (0, "")
