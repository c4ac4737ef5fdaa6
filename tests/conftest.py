"""What all tests share."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Before torch is imported, and for child processes too: several processes, each with a thread per
# core, would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("project", deadline=None, print_blob=True)
settings.register_profile("ci", settings.get_profile("project"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "project")

RECORDINGS = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture
def ipc_dir() -> Iterator[Path]:
    """A folder for sockets: `tmp_path` may exceed the 107 characters that an address may have."""
    folder = Path(tempfile.mkdtemp(prefix="et-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def recordings() -> Callable[[str], Path]:
    """The path of real recordings by their name, such as `dsads`; skips where they are absent."""

    def path(name: str) -> Path:
        file = RECORDINGS / f"{name}.npz"
        if not file.is_file():
            pytest.skip(f"the recordings {name} are not beside the project")
        return file

    return path


@pytest.fixture(scope="session")
def wave_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a bundle trained on `tests.waves`; not to be written to."""
    pytest.importorskip("torch")
    from edgetuner.pretrain import Evidence, Recipe, create_bundle
    from tests import waves

    out = tmp_path_factory.mktemp("waves") / "bundle"
    create_bundle(
        waves.source(),
        "small_cnn",
        out,
        backbone_args={"width": 8},
        recipe=Recipe(epochs=8, batch_size=32, lr=1e-2),
        evidence=Evidence(exemplars=4, arl_windows=2000, bouts=(2, 8)),
    )
    return out
