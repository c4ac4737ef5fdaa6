from __future__ import annotations

import importlib.util
import io
import pickle
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from demo import recordings
from demo.recordings import watch_windows
from edgetuner.data import WindowSet, load
from edgetuner.errors import DataError

needs_seglearn = pytest.mark.skipif(
    importlib.util.find_spec("seglearn") is None, reason="seglearn is not installed"
)


@pytest.fixture(scope="module")
def windows() -> WindowSet:
    return watch_windows()


@needs_seglearn
def test_counts_are_those_of_the_data_set(windows: WindowSet) -> None:
    assert windows.x.shape == (3605, 6, 128)
    assert windows.hz == 50
    assert np.bincount(windows.y).tolist() == [388, 592, 602, 555, 556, 449, 463]
    assert np.bincount(windows.groups["position"]).tolist() == [1877, 1728]
    people = [433, 418, 234, 226, 377, 367, 405, 372, 373, 400]
    assert np.bincount(windows.groups["subject"]).tolist() == [0, *people]
    assert len(windows.recordings()) == 140


@needs_seglearn
def test_neighbouring_windows_share_a_half(windows: WindowSet) -> None:
    for rows in windows.recordings():
        x = windows.x[rows]
        np.testing.assert_array_equal(x[:-1, :, 64:], x[1:, :, :64])


@needs_seglearn
def test_acceleration_contains_gravity(windows: WindowSet) -> None:
    norm = np.linalg.norm(windows.x[:, :3], axis=1).mean()
    assert 0.95 < norm < 1.15


@needs_seglearn
def test_the_package_is_not_imported() -> None:
    code = (
        "import sys, demo.recordings as r; r.watch_windows(); sys.exit('seglearn' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


class _Gadget:
    def __init__(self, call: Any, *args: Any) -> None:
        self.call, self.args = call, args

    def __reduce__(self) -> Any:
        return self.call, self.args


@pytest.mark.parametrize(
    "gadget", [_Gadget(pytest.fail, "it ran"), _Gadget(eval, "1"), _Gadget(getattr, 1, "real")]
)
def test_the_unpickler_knows_arrays_only(gadget: _Gadget) -> None:
    content = io.BytesIO()
    np.save(content, np.array(gadget, dtype=object), allow_pickle=True)
    with pytest.raises(pickle.UnpicklingError, match="is not allowed"):
        recordings._unpickle(content.getvalue())


def test_another_file_is_not_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "watch_dataset.npy"
    np.save(file, np.array(_Gadget(pytest.fail, "it ran"), dtype=object), allow_pickle=True)
    monkeypatch.setattr(recordings, "distribution", lambda name: _Distribution(file))
    with pytest.raises(DataError, match="is not the known file"):
        watch_windows()


def test_without_the_package_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(recordings, "distribution", absent)
    with pytest.raises(DataError, match="make setup"):
        watch_windows()


class _Distribution:
    def __init__(self, file: Path) -> None:
        self.file = file

    def locate_file(self, name: str) -> Path:
        return self.file


@needs_seglearn
def test_what_is_written_is_read_as_the_same_windows(windows: WindowSet, tmp_path: Path) -> None:
    few = windows.take(np.arange(0, len(windows), 500))
    recordings.write(few, tmp_path / "few.npz")
    read = load(tmp_path / "few.npz")
    assert np.array_equal(read.x, few.x) and np.array_equal(read.y, few.y)
    assert read.groups.keys() == few.groups.keys() and read.positions == few.positions
    assert (read.classes, read.channels, read.hz) == (few.classes, few.channels, few.hz)


def test_it_says_how_it_is_called() -> None:
    command = [sys.executable, "-m", "demo.recordings"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 1 and "FILE.npz" in ended.stderr
