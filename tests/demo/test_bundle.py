from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from demo.bundle import OUT, PAIR, measure  # noqa: E402
from demo.recordings import CHANNELS, CLASSES, PAIRS, watch_windows  # noqa: E402
from edgetuner.bundle import Bundle  # noqa: E402
from edgetuner.drift import DriftMonitor, Reference, calibrate  # noqa: E402
from edgetuner.inference import ModelVersion  # noqa: E402

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


@needs_seglearn
@pytest.mark.parametrize("subject", PAIR)
def test_its_detectors_notice_the_other_wrist(bundle: Bundle, subject: int) -> None:
    version = ModelVersion.load(bundle.path)
    monitor = DriftMonitor(version.reference, profile=version.sensor)
    noticed: dict[int, list[int]] = {1: [], 0: []}
    seq = 0
    for position, found in noticed.items():
        windows = watch_windows().select(subject=subject, position=position)
        x = windows.x[np.concatenate(windows.recordings())]
        out = version.predict(x)
        for i in range(len(x)):
            told = monitor.update_many(
                [("watch", str(subject))],
                [seq],
                x[i : i + 1],
                out.embeddings[i : i + 1],
                out.predicted[i : i + 1],
                out.confidence[i : i + 1],
            )
            found += [i for one in told if one.kind == "drift" and one.detector == "embedding"]
            seq += 1
    assert not noticed[1]
    assert noticed[0]
    assert noticed[0][0] < 120  # windows, four minutes of exercise


def test_its_thresholds_are_those_of_today(bundle: Bundle) -> None:
    """Whoever makes it anew gets the detectors that are shown here."""
    reference = Reference.from_arrays(bundle.reference)
    known = reference.calibration
    assert known is not None
    made = calibrate(reference, known.run_length, bouts=known.bouts, seed=known.seed).calibration
    assert made is not None
    assert made.first_share == known.first_share
    assert made.thresholds == pytest.approx(dict(known.thresholds), rel=1e-6)
