from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[1] / "tools" / "check_imports.py"


def check(folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOOL), *([str(folder)] if folder else [])]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "edgetuner"
    (folder / "peft").mkdir(parents=True)
    for name in ("__init__", "bundle", "config", "drift", "errors", "pipeline", "peft/__init__"):
        (folder / f"{name}.py").touch()
    return folder


def test_the_project_keeps_its_shape() -> None:
    seen = check()
    assert seen.returncode == 0, seen.stdout
    assert seen.stdout.startswith("edgetuner: ")


def test_imports_downward_and_beside_are_allowed(package: Path) -> None:
    (package / "pipeline.py").write_text("from edgetuner import bundle\nimport edgetuner.config\n")
    (package / "bundle.py").write_text("from edgetuner.config import Config\n")
    (package / "peft" / "tt.py").write_text(
        "import torch\nfrom edgetuner.errors import ModelError\nmodel.eval()\n"
    )
    assert check(package).returncode == 0


@pytest.mark.parametrize(
    ("file", "code", "message"),
    [
        ("bundle.py", "from edgetuner.pipeline import Pipeline", "which lies above it"),
        ("bundle.py", "from edgetuner import pipeline", "which lies above it"),
        ("bundle.py", "def f():\n    import edgetuner.pipeline", "bundle.py:2: bundle imports"),
        ("drift.py", "from edgetuner.peft.tt import tt_svd", "nobody knows a neighbour"),
        ("drift.py", "from . import errors", "imports relatively"),
        ("attic.py", "", "stands on no floor"),
        ("config.py", "import torch.nn", "imports torch, which belongs in"),
        ("peft/models.py", "import zmq", "imports zmq, which belongs in transport.py"),
        ("drift.py", "from jtop import jtop", "imports jtop, which belongs in telemetry"),
        ("config.py", "import pickle", "imports pickle"),
        ("config.py", "x = eval(text)", "calls eval"),
        ("config.py", "exec(text)", "calls exec"),
        ("config.py", "yaml.load(text)", "calls yaml.load"),
        ("peft/tt.py", "torch.load(path)", "calls torch.load"),
        ("pipeline.py", "socket.recv_pyobj()", "calls socket.recv_pyobj"),
        ("config.py", "np.load(path, allow_pickle=True)", "may only have allow_pickle=False"),
        ("config.py", "np.load(path, allow_pickle=flag)", "may only have allow_pickle=False"),
    ],
)
def test_a_violation_is_named_with_its_place(
    package: Path, file: str, code: str, message: str
) -> None:
    (package / file).write_text(code)
    seen = check(package)
    assert seen.returncode == 1
    assert f"edgetuner/{file}:" in seen.stdout
    assert message in seen.stdout


def test_a_circle_beside_each_other_is_named(package: Path) -> None:
    (package / "bundle.py").write_text("import edgetuner.config")
    (package / "config.py").write_text("import edgetuner.bundle")
    seen = check(package)
    assert seen.returncode == 1
    assert "in a circle" in seen.stdout
