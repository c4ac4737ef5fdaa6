"""The wave bundle's model, and what an adaptation of it to turned windows has to learn from."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests import waves

if TYPE_CHECKING:
    from torch import Tensor, nn

    from edgetuner.adapt.material import Material
    from edgetuner.bundle import Bundle
    from edgetuner.pipeline import Pipeline

    Labelled = Callable[..., tuple[Tensor, Tensor]]


@pytest.fixture(scope="session")
def bundle(wave_bundle: Path) -> Bundle:
    from edgetuner.bundle import Bundle

    return Bundle.load(wave_bundle)


@pytest.fixture
async def pipeline(wave_bundle: Path) -> AsyncIterator[Pipeline]:
    """A live path on which the bundle answers, with an empty store."""
    from edgetuner.config import Config
    from edgetuner.inference import ModelVersion
    from edgetuner.pipeline import Pipeline, watch_with
    from edgetuner.serving import Serving
    from edgetuner.store import Store

    version = ModelVersion.load(wave_bundle)
    store = Store.open(None, shape=(3, 32), classes=waves.CLASSES, durability="memory")
    live = Pipeline(store, Serving(version), watch_with(Config(), version))
    yield live
    await live.close()


@pytest.fixture
def base(bundle: Bundle) -> nn.Module:
    from edgetuner.factories import build_module

    return build_module(bundle)


@pytest.fixture(scope="session")
def material(bundle: Bundle) -> Material:
    """Sixty turned windows, every second one labelled."""
    from edgetuner.adapt.worker import _material
    from tests.adapt.material import windows

    return _material(bundle, windows(), "follow")


@pytest.fixture(scope="session")
def labelled(bundle: Bundle) -> Labelled:
    """Normalised windows of these classes in turn, turned or as the lab recorded them, with y."""
    torch = pytest.importorskip("torch")

    def made(
        count: int, classes: Sequence[int] = (0, 1, 2), *, seed: int = 5000, turn: bool = True
    ) -> Any:
        y = np.array([classes[n % len(classes)] for n in range(count)], dtype=np.int64)
        rows = [waves.window(seed + n, int(k)) for n, k in enumerate(y)]
        x = np.stack([waves.turned(row) if turn else row for row in rows])
        scaled = (x - bundle.mean[:, None]) / bundle.std[:, None]
        return torch.from_numpy(scaled.astype(np.float32)), torch.from_numpy(y)

    return made
