"""The demo's recordings: a smartwatch on both wrists of ten people doing shoulder exercises.

They come inside the package `seglearn` (Burns et al. 2018, Physiological Measurement 39:075007,
arXiv:1802.01489; BSD 3-clause), as a pickled dictionary. The file is read without importing the
package, only if its hash is the known one, and by an unpickler that can build numpy arrays and
nothing else. It lives outside `edgetuner` because the product reads no pickle at all.

    python -m demo.recordings recording.npz

writes them as the product reads them, for `edgetuner simulate`, `replay` and `bundle create`.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np

from edgetuner.data import WindowSet
from edgetuner.errors import DataError

HZ = 50.0
LENGTH = 128  # samples, 2.56 s
HOP = 64  # samples: neighbouring windows share a half, so splits in time need a gap of one window
CLASSES = (
    "pendulum",
    "abduction",
    "forward_elevation",
    "internal_rotation_band",
    "external_rotation_band",
    "lower_trapezius_row_band",
    "bent_over_row_dumbbell",
)
CHANNELS = ("acc_x", "acc_y", "acc_z", "gyr_x", "gyr_y", "gyr_z")  # g with gravity, rad/s
POSITIONS = ("left_wrist", "right_wrist")
# These pairs move alike, probably side by side in one room: a split keeps each on one side.
PAIRS = ((3, 4), (5, 6), (7, 10), (8, 9))

_FILE = "seglearn/data/watch_dataset.npy"
_SHA256 = "eb122f23cdf06ef6bd6c6c5312958ec5cf9d038e2e6d457b8081662c75a42537"
_REMEDY = "run `make setup`, which installs seglearn==1.2.5"


def watch_windows() -> WindowSet:
    """All windows, (3605, 6, 128), with groups `subject`, `position`, `recording` and `t`.

    Raises:
        DataError: the package is not installed, or its file is not the known one.
    """
    data = _unpickle(_read_file())
    recordings = [_cut(signal) for signal in data["X"]]
    counts = [len(windows) for windows in recordings]

    def per_window(values: Any) -> np.ndarray[Any, np.dtype[np.int64]]:
        return np.repeat(np.asarray(values).astype(np.int64), counts)

    return WindowSet(
        x=np.concatenate(recordings),
        y=per_window(data["y"]),
        classes=CLASSES,
        channels=CHANNELS,
        hz=HZ,
        groups={
            "subject": per_window(data["subject"]),
            "position": per_window(data["side"]),
            "recording": per_window(range(len(recordings))),
            "t": np.concatenate([np.arange(n, dtype=np.int64) for n in counts]),
        },
        positions=POSITIONS,
    )


def _cut(signal: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Windows (n, C, LENGTH) of one recording (samples, C)."""
    windows = np.lib.stride_tricks.sliding_window_view(signal, LENGTH, axis=0)[::HOP]
    return windows.astype(np.float32)


def _read_file() -> bytes:
    try:
        path = Path(str(distribution("seglearn").locate_file(_FILE)))
        content = path.read_bytes()
    except PackageNotFoundError:
        raise DataError("is not installed", field="seglearn", remedy=_REMEDY) from None
    except OSError as error:
        raise DataError("cannot be read", field=_FILE, value=str(error), remedy=_REMEDY) from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != _SHA256:
        raise DataError("is not the known file", field=_FILE, value=digest, remedy=_REMEDY)
    return content


def _unpickle(content: bytes) -> Any:
    """The one object in a version 1 `.npy` file of dtype object."""
    stream = io.BytesIO(content)
    np.lib.format.read_magic(stream)
    np.lib.format.read_array_header_1_0(stream)
    return _ArraysOnly(stream).load().item()


def _encode(text: str, encoding: str) -> bytes:
    """Bytes of a protocol 2 pickle, which stores them as text; only latin-1 has business here."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"encoding {encoding!r} is not allowed")
    return text.encode("latin1")


class _ArraysOnly(pickle.Unpickler):
    """An unpickler that knows what a numpy array needs, and refuses every other name."""

    _KNOWN = {  # noqa: RUF012
        # The constructor moved between numpy 1 and 2; an array's own __reduce__ names it in either.
        ("numpy.core.multiarray", "_reconstruct"): np.zeros(0).__reduce__()[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): _encode,
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._KNOWN[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed") from None


def write(windows: WindowSet, path: Path) -> None:
    """An .npz that `edgetuner.data.load` reads as the same windows."""
    arrays: dict[str, Any] = {
        "X": windows.x,
        "y": windows.y,
        "classes": np.array(windows.classes),
        "channels": np.array(windows.channels),
        "positions": np.array(windows.positions),
        "hz": np.array(windows.hz),
    }
    np.savez_compressed(path, **arrays, **windows.groups)  # type: ignore[arg-type]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m demo.recordings FILE.npz")
    write(watch_windows(), Path(sys.argv[1]))
