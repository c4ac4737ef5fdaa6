"""One source model for all tests of streams."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from benchmarks.homes import Home
    from edgetuner.inference import ModelVersion


@pytest.fixture(scope="session")
def wave_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    pytest.importorskip("torch")
    from tests.benchmarks import waves

    path = waves.recordings(tmp_path_factory.mktemp("set") / "waves.npz")
    with pytest.MonkeyPatch.context() as patch:
        yield waves.turned(path, tmp_path_factory.mktemp("sources"), patch)


@pytest.fixture(scope="session")
def wave_version(wave_home: Home, tmp_path_factory: pytest.TempPathFactory) -> ModelVersion:
    folder = tmp_path_factory.mktemp("version") / "source"
    return wave_home.version(wave_home.reference(2000.0), folder)
