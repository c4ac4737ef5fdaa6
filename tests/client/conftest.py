"""An address for each test, on a path short enough for ipc."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from .model_service import Peer, living_peers


@pytest.fixture
def address() -> Iterator[str]:
    with TemporaryDirectory(prefix="edgetuner-") as folder:
        yield f"ipc://{Path(folder) / 'ingest'}"


@pytest.fixture
def peers(address: str) -> Iterator[list[Peer]]:
    with living_peers(address) as peers:
        yield peers
