from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edgetuner.drift import DETECTORS, Calibration, Cusum, Reference, calibrate
from edgetuner.drift.calibrate import MIN_WINDOWS, calibrated_for
from edgetuner.drift.error import ALIKE, ErrorRate, LabelledError
from edgetuner.errors import DriftError
from tests.drift.synthetic import CLASSES, Windows, reference, windows

PRECISION = 1 / ALIKE - 1


def measured_run_length(home: Reference, stream: Windows) -> float:
    """Windows per alarm of all detectors together, which start afresh at the next bout: the rest
    of this one would only tell the same again.
    """
    calibration = thresholds(home)
    detectors = {
        name: Cusum(calibration.thresholds[name], home.scales[name].spread) for name in DETECTORS
    }
    scores = home.scores(stream.embedding, stream.y, stream.confidence)
    alarms, watched, told = 0, 0, -1
    for i in range(len(stream.y)):
        if stream.recording[i] == told and stream.recording[-1] != told:
            continue
        watched += 1
        for name, detector in detectors.items():
            detector.update(scores[name][i], int(stream.y[i]))
        if any(detector.drift_detected for detector in detectors.values()):
            alarms, told = alarms + 1, stream.recording[i]
            for detector in detectors.values():
                detector.reset()
    return watched / alarms if alarms else np.inf


def in_any_order(rng: np.random.Generator, taken: Windows) -> Windows:
    """The same bouts, one after the other as they come."""
    bouts = rng.permutation(taken.recording[-1] + 1)
    order = np.concatenate([np.flatnonzero(taken.recording == bout) for bout in bouts])
    return Windows(*(part[order] for part in taken))


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
def test_run_length_is_the_asked_one(life: dict[str, Any]) -> None:
    asked = 2000
    home = reference(np.random.default_rng(1), bouts=4000, **life)
    home = calibrate(home, asked, bouts=(24, 24))
    rng = np.random.default_rng(2)
    stream = in_any_order(rng, windows(rng, bouts=10_000, **life))
    assert asked / 1.5 < measured_run_length(home, stream) < asked * 1.5


def test_run_length_on_one_long_autocorrelated_stream() -> None:
    """One class for ever, held out as one recording that bouts are cut from."""
    rng = np.random.default_rng(3)
    fitted, held = (one_class(rng, 20_000) for _ in range(2))
    home = Reference.fit(
        fitted.embedding,
        fitted.y,
        held.embedding,
        held.y,
        held.confidence,
        CLASSES[:1],
        held_recording=held.recording,
    )
    home = calibrate(home, 500, bouts=(100, 240))
    assert 500 / 1.5 < measured_run_length(home, one_class(rng, 100_000)) < 500 * 1.5


def one_class(rng: np.random.Generator, length: int) -> Windows:
    return windows(rng, bouts=1, length=length, correlation=0.7)


def test_textbook_thresholds_would_not_hold() -> None:
    """The reason for bouts: thresholds that take windows one by one cry much more often."""
    life: dict[str, Any] = {"correlation": 0.7, "wearer": 0.4}
    home = calibrate(reference(np.random.default_rng(1), bouts=400, **life), 500, bouts=(1, 1))
    stream = windows(np.random.default_rng(2), bouts=1000, **life)
    assert measured_run_length(home, stream) < 300


def test_same_seed_same_thresholds() -> None:
    home = reference(np.random.default_rng(1))
    assert calibrate(home, 500).calibration == calibrate(home, 500).calibration
    assert thresholds(calibrate(home, 500, seed=1)) != thresholds(calibrate(home, 500))


def test_fewer_alarms_need_higher_thresholds() -> None:
    home = reference(np.random.default_rng(1))
    low, high = thresholds(calibrate(home, 2000)), thresholds(calibrate(home, 50_000))
    assert all(low.thresholds[name] < high.thresholds[name] for name in low.thresholds)


def test_run_lengths_too_long_to_believe_go_on_from_shorter_ones() -> None:
    """Thresholds grow with the logarithm of the run length, also past what can be simulated."""
    home = reference(np.random.default_rng(1), bouts=400)
    found = [thresholds(calibrate(home, r)).thresholds["embedding"] for r in (1e4, 1e5, 1e6, 1e8)]
    per_decade = np.diff(found) / [1, 1, 2]
    assert (per_decade > 0).all()
    assert per_decade.max() < 3 * per_decade.min()


@pytest.mark.parametrize("people", [30, 60])
def test_one_strange_person_among_calm_ones_raises_no_threshold(people: int) -> None:
    """One in thirty is met less often than an alarm may come; only who asks for rarer ones than
    that has to ask for as much as this one gives.
    """
    home = reference(np.random.default_rng(people), bouts=3 * people)
    wearer = home.held_recording // 3
    held = {
        name: np.where(
            wearer == 0,
            np.quantile(scores, 0.99) + scores.std(),
            np.median(scores) + 0.3 * (scores - np.median(scores)),
        )
        for name, scores in home.held.items()
    }
    home = replace(home, held_wearer=wearer, held=held)

    def embedding(run_length: float) -> float:
        asked = calibrate(home, run_length, bouts=(4, 16), first_share=1.0)
        return thresholds(asked).thresholds["embedding"]

    least, rare = embedding(500), embedding(500_000)
    assert embedding(2_000) == embedding(10_000) == least
    assert least < 20
    assert 2 * least < rare < 200


def test_errors_on_labelled_windows_cry_less_often_than_the_rest() -> None:
    home = replace(reference(np.random.default_rng(1)), errors=ErrorRate(20, 200))
    calibration = thresholds(calibrate(home, 300, bouts=(24, 24)))
    rng = np.random.default_rng(2)
    detector = LabelledError(ErrorRate(20, 200), calibration.thresholds["error"])
    alarms, bouts = 0, 4000
    for bout in range(bouts):
        chance = rng.beta(0.1 * PRECISION, 0.9 * PRECISION)  # as alike as errors are taken to be
        for wrong in rng.random(24) < chance:
            detector.update(bool(wrong), bout % len(CLASSES))
            if detector.drift_detected:
                alarms += 1
                detector = LabelledError(ErrorRate(20, 200), calibration.thresholds["error"])
    assert 24 * bouts / max(alarms, 1) > 1500


def test_only_another_wish_is_calibrated_again() -> None:
    home = calibrate(reference(np.random.default_rng(1)), 500, bouts=(2, 40))
    assert calibrated_for(home, None) is home
    assert calibrated_for(home, 500.0) is home
    other = thresholds(calibrated_for(home, 900.0))
    assert (other.run_length, other.bouts) == (900.0, (2, 40))


def test_where_the_same_days_come_again_the_first_alarm_may_come_sooner() -> None:
    """Bouts differ, and the same ones come again: what was answered once is not told again."""
    asked = 2000
    same = reference(np.random.default_rng(1), bouts=30, wearer=0.6)
    home = calibrate(same, asked, bouts=(4, 60))
    assert thresholds(home).first_share < 1
    first_only = calibrate(same, asked, bouts=(4, 60), first_share=1.0)
    for name in DETECTORS:
        assert thresholds(home).thresholds[name] <= thresholds(first_only).thresholds[name]
    assert thresholds(home).thresholds["embedding"] < thresholds(first_only).thresholds["embedding"]
    again = calibrate(same, asked, bouts=(4, 60), first_share=thresholds(home).first_share)
    assert thresholds(again).thresholds == thresholds(home).thresholds


def test_where_nothing_comes_again_the_first_alarm_is_as_rare_as_any() -> None:
    new = reference(np.random.default_rng(1), bouts=400, correlation=0.7)
    assert thresholds(calibrate(new, 2000, bouts=(24, 24))).first_share == 1


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
        ({"run_length": 500, "bouts": (0, 5)}, "bouts"),
        ({"run_length": 500, "bouts": (5, 4)}, "bouts"),
    ],
)
def test_impossible_wishes_are_named(arguments: dict[str, Any], field: str) -> None:
    with pytest.raises(DriftError) as caught:
        calibrate(reference(np.random.default_rng(1)), **arguments)
    assert caught.value.field == field
