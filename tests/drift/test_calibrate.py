from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edgetuner.drift import Calibration, Cusum, Reference, calibrate
from edgetuner.drift.calibrate import MIN_WINDOWS, held_normal_scores
from edgetuner.drift.cusum import normal_score
from edgetuner.errors import DriftError
from tests.drift.synthetic import CLASSES, Windows, reference, windows


def measured_run_length(home: Reference, stream: Windows) -> float:
    """Windows per alarm of all detectors together, each alarm starting them afresh."""
    calibration = thresholds(home)
    detectors = {
        name: Cusum(threshold, calibration.reference_value)
        for name, threshold in calibration.thresholds.items()
    }
    p_values = home.p_values(stream.embedding, stream.y, stream.confidence)
    alarms = 0
    for i in range(len(stream.y)):
        for name, detector in detectors.items():
            detector.update(normal_score(p_values[name][i]))
        if any(detector.drift_detected for detector in detectors.values()):
            alarms += 1
            for detector in detectors.values():
                detector.reset()
    return len(stream.y) / alarms if alarms else np.inf


def thresholds(home: Reference) -> Calibration:
    assert home.calibration is not None
    return home.calibration


@pytest.mark.parametrize(
    "life",
    [
        pytest.param({}, id="independent"),
        pytest.param({"correlation": 0.7}, id="autocorrelated"),
        pytest.param({"wearer": 0.4}, id="every bout another wearer"),
        pytest.param({"correlation": 0.7, "wearer": 0.4}, id="both"),
    ],
)
@pytest.mark.parametrize("reference_value", [0.35, 1.0])
def test_run_length_is_the_asked_one(life: dict[str, Any], reference_value: float) -> None:
    asked = 500
    home = calibrate(
        reference(np.random.default_rng(1), bouts=400, **life),
        asked,
        reference_value=reference_value,
    )
    stream = windows(np.random.default_rng(2), bouts=4000, **life)
    assert asked / 2 < measured_run_length(home, stream) < asked * 2


def test_run_length_on_one_long_autocorrelated_stream() -> None:
    """One class for ever, held out as one recording that bouts are cut from."""
    rng = np.random.default_rng(3)
    fitted, held = (one_class(rng, 3000) for _ in range(2))
    home = Reference.fit(
        fitted.embedding,
        fitted.y,
        held.embedding,
        held.y,
        held.confidence,
        CLASSES[:1],
        held_recording=held.recording,
    )
    home = calibrate(home, 500)
    assert 250 < measured_run_length(home, one_class(rng, 100_000)) < 1000


def one_class(rng: np.random.Generator, length: int) -> Windows:
    return windows(rng, bouts=1, length=length, correlation=0.7)


def test_textbook_thresholds_would_not_hold() -> None:
    """The reason for bouts: thresholds that take windows one by one cry much more often."""
    life: dict[str, Any] = {"correlation": 0.7, "wearer": 0.4}
    home = calibrate(reference(np.random.default_rng(1), bouts=400, **life), 500, bout_windows=1)
    stream = windows(np.random.default_rng(2), bouts=1000, **life)
    assert measured_run_length(home, stream) < 200


def test_same_seed_same_thresholds() -> None:
    home = reference(np.random.default_rng(1))
    assert calibrate(home, 500).calibration == calibrate(home, 500).calibration
    assert thresholds(calibrate(home, 500, seed=1)) != thresholds(calibrate(home, 500))


def test_fewer_alarms_need_higher_thresholds() -> None:
    home = reference(np.random.default_rng(1))
    low, high = thresholds(calibrate(home, 200)), thresholds(calibrate(home, 5000))
    assert all(low.thresholds[name] < high.thresholds[name] for name in low.thresholds)


def test_a_recording_is_compared_with_the_others() -> None:
    """One strange recording is strange beside the others, however many windows it has."""
    rng = np.random.default_rng(1)
    fitted, held = windows(rng), windows(rng, length=40)
    odd = held.recording == 0
    held.embedding[odd] += 5
    home = Reference.fit(
        fitted.embedding,
        fitted.y,
        held.embedding,
        held.y,
        held.confidence,
        CLASSES,
        held_recording=held.recording,
    )
    assert held_normal_scores(home, "embedding")[odd].min() > 2.5
    assert held_normal_scores(home, "confidence")[odd].mean() == pytest.approx(0, abs=0.5)


def test_lonely_recordings_leave_out_single_windows() -> None:
    home = reference(np.random.default_rng(1))
    one = replace(home, held_recording=np.zeros(len(home.held_recording), np.int64))
    assert held_normal_scores(one, "embedding").mean() == pytest.approx(0, abs=1e-6)


def test_too_short_a_stream_is_named() -> None:
    rng = np.random.default_rng(1)
    fitted, held = windows(rng), windows(rng, bouts=3, length=13)
    home = Reference.fit(
        fitted.embedding, fitted.y, held.embedding, held.y, held.confidence, CLASSES
    )
    with pytest.raises(
        DriftError, match=f"too few held-out windows.*got 39.*at least {MIN_WINDOWS}"
    ):
        calibrate(home, 500)


def test_constant_scores_are_named() -> None:
    home = reference(np.random.default_rng(1))
    held = {**home.held, "confidence": np.zeros(len(home.held_predicted))}
    with pytest.raises(DriftError, match=r"drift\.confidence: held-out scores are constant"):
        calibrate(replace(home, held=held), 500)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"run_length": 10}, "run_length"),
        ({"run_length": float("nan")}, "run_length"),
        ({"run_length": 500, "bout_windows": 0}, "bout_windows"),
        ({"run_length": 500, "reference_value": 9.0}, "reference_value"),
    ],
)
def test_impossible_wishes_are_named(arguments: dict[str, float], field: str) -> None:
    with pytest.raises(DriftError) as caught:
        calibrate(reference(np.random.default_rng(1)), **arguments)  # type: ignore[arg-type]
    assert caught.value.field == field
