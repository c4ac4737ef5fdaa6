from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from demo.bundle import OUT, PAIR, measure  # noqa: E402
from demo.recordings import CHANNELS, CLASSES, PAIRS, watch_windows  # noqa: E402
from edgetuner.bundle import Bundle  # noqa: E402
from edgetuner.drift import Reference  # noqa: E402

needs_seglearn = pytest.mark.skipif(
    importlib.util.find_spec("seglearn") is None, reason="seglearn is not installed"
)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.load(OUT)


def test_it_is_small_enough_to_ship(bundle: Bundle) -> None:
    assert sum(file.stat().st_size for file in Path(bundle.path).iterdir()) < 3_000_000


def test_it_is_what_the_demo_expects(bundle: Bundle) -> None:
    manifest = bundle.manifest
    assert (manifest.classes, manifest.channels) == (CLASSES, CHANNELS)
    assert (manifest.length, manifest.hz, manifest.backbone.name) == (128, 50.0, "t_resnet")
    assert Reference.from_arrays(bundle.reference).calibration is not None
    assert set(bundle.exemplar_y) == set(range(7))
    assert PAIR in PAIRS


@needs_seglearn
def test_no_exemplar_is_of_the_held_out_pair(bundle: Bundle) -> None:
    pair = watch_windows().select(subject=PAIR).x.astype("float16")
    known = {x.tobytes() for x in pair}
    assert not any(x.tobytes() in known for x in bundle.exemplar_x)


@needs_seglearn
def test_the_other_wrist_is_the_problem(bundle: Bundle) -> None:
    windows = watch_windows().select(subject=PAIR)
    right, left = (measure(bundle, windows.select(position=p)) for p in (1, 0))
    assert right == pytest.approx(bundle.manifest.metrics["unseen_subjects_macro_f1"], abs=0.01)
    assert right > 0.8
    assert left < 0.45
