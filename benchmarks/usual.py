"""The usual detectors beside ours: ADWIN of river on confidence, MMD of frouros on embeddings.

Their packages ask for other versions of numpy than this project has, so they may live in an
environment of their own, to which a file of arrays is handed:

    python -m venv build/detectors
    build/detectors/bin/pip install river frouros typing_extensions

    build/detectors/bin/python benchmarks/usual.py STREAMS.npz ALARMS.json

Where they are in neither, they are left out, and the result says so. This file imports nothing of
the project, so that their interpreter can run it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ENVIRONMENT = Path(__file__).parents[1] / "build" / "detectors" / "bin" / "python"
DETECTORS = ("ADWIN", "MMD")
DELTA = 0.002  # ADWIN's confidence, its default
_WINDOW, _REFERENCE = 64, 256  # windows, of MMD
Arrays = Mapping[str, NDArray[Any]]


def interpreter() -> str | None:
    """A Python that has both packages; None if there is none."""
    if find_spec("river") and find_spec("frouros"):
        return sys.executable
    return str(ENVIRONMENT) if ENVIRONMENT.exists() else None


def usual_alarms(
    python: str, home: Arrays, calm: Arrays, streams: list[Arrays], names: tuple[str, ...]
) -> dict[str, list[list[int]]]:
    """Windows of all alarms, by detector and stream.

    Args:
        python: from `interpreter`.
        home: `embeddings` (M, D) and `confidence` (M,) of windows at home, in any order.
        calm: the same of a stream without a change: MMD, which has no threshold of its own, takes
            its highest value on it.
        streams: the same of each stream.
        names: of `DETECTORS`.
    """
    arrays = {f"home.{key}": value for key, value in home.items()}
    arrays |= {f"calm.{key}": value for key, value in calm.items()}
    for number, stream in enumerate(streams):
        arrays |= {f"{number}.{key}": value for key, value in stream.items()}
    with tempfile.TemporaryDirectory(prefix="edgetuner-") as folder:
        source, result = Path(folder) / "streams.npz", Path(folder) / "alarms.json"
        np.savez(source, allow_pickle=False, **arrays)
        command = [python, "-I", __file__, str(source), str(result), *names]
        subprocess.run(command, check=True)
        found: dict[str, list[list[int]]] = json.loads(result.read_text())
    return found


def _adwin(home: Arrays, calm: Arrays, streams: list[Arrays]) -> list[list[int]]:
    from river.drift import ADWIN  # type: ignore[import-not-found,unused-ignore]

    found = []
    for stream in streams:
        detector, alarms = ADWIN(delta=DELTA), []
        for at, value in enumerate(stream["confidence"].tolist()):
            detector.update(value)
            if detector.drift_detected:
                alarms.append(at)
        found.append(alarms)
    return found


def _mmd(home: Arrays, calm: Arrays, streams: list[Arrays]) -> list[list[int]]:
    from frouros.detectors.data_drift import (  # type: ignore[import-not-found,unused-ignore]
        MMDStreaming,
    )
    from frouros.utils.kernels import (  # type: ignore[import-not-found,unused-ignore]
        rbf_kernel,
    )

    draw = np.random.default_rng(0)
    some = home["embeddings"][draw.permutation(len(home["embeddings"]))[:_REFERENCE]]
    apart = np.sqrt(np.square(some[:, None] - some[None]).sum(2))
    sigma = float(np.median(apart[apart > 0]))  # the median heuristic

    def watched(stream: NDArray[Any], threshold: float) -> tuple[list[int], float]:
        detector = MMDStreaming(window_size=_WINDOW, kernel=partial(rbf_kernel, sigma=sigma))
        detector.fit(X=some)
        alarms, highest, fresh = [], 0.0, 0
        for at, value in enumerate(stream):
            result, _ = detector.update(value=value)
            fresh += 1
            if result is None:
                continue
            highest = max(highest, float(result.distance))
            if result.distance > threshold and fresh > _WINDOW:
                alarms.append(at)
                fresh = 0  # the next alarm rests on windows of its own
        return alarms, highest

    _, threshold = watched(calm["embeddings"], np.inf)
    return [watched(stream["embeddings"], threshold)[0] for stream in streams]


_RUNS = {"ADWIN": _adwin, "MMD": _mmd}


def main(source: str, result: str, *names: str) -> None:
    """Reads streams, writes alarms."""
    with np.load(source, allow_pickle=False) as archive:
        arrays = dict(archive)

    def named(prefix: str) -> Arrays:
        start = f"{prefix}."
        return {k[len(start) :]: v for k, v in arrays.items() if k.startswith(start)}

    count = len({key.split(".")[0] for key in arrays} - {"home", "calm"})
    streams = [named(str(number)) for number in range(count)]
    found = {name: _RUNS[name](named("home"), named("calm"), streams) for name in names}
    Path(result).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
