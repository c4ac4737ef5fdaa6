from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgetuner.store import Store
from tests.store.windows import opened


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "windows.db"


@pytest.fixture
def reopen(path: Path) -> Iterator[Callable[..., Store]]:
    """Opens the store in `path`, closing the one opened before."""
    stores: list[Store] = []

    def reopen(**options: Any) -> Store:
        if stores:
            stores[-1].close()
        stores.append(opened(path, **options))
        return stores[-1]

    yield reopen
    for store in stores:
        store.close()


@pytest.fixture
def store(reopen: Callable[..., Store]) -> Store:
    return reopen()
