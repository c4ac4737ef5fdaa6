from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from edgetuner.drift import DETECTORS, Reference, calibrate
from edgetuner.drift.error import ErrorRate
from edgetuner.errors import DriftError
from tests.drift.synthetic import CLASSES, WIDTH, reference, windows


@pytest.mark.parametrize("name", DETECTORS)
class TestEveryDetector:
    """The contract of an entry of `DETECTORS`."""

    def test_one_finite_score_a_window(self, name: str) -> None:
        rng = np.random.default_rng(0)
        home, new = reference(rng), windows(rng, 6)
        scores = DETECTORS[name](home.distance, new.embedding, new.y, new.confidence)
        assert scores.shape == (144,)
        assert np.isfinite(scores).all()

    def test_high_is_strange(self, name: str) -> None:
        rng = np.random.default_rng(0)
        home, new, moved = reference(rng), windows(rng, 30), windows(rng, 30, shift=3)
        z = home.scores(new.embedding, new.y, new.confidence)[name]
        assert z.mean() == pytest.approx(0, abs=0.15)
        assert z.std() == pytest.approx(1, abs=0.15)
        strange = home.scores(moved.embedding, moved.y, moved.confidence)[name]
        assert strange.mean() > 1

    def test_a_change_of_activity_is_not_drift(self, name: str) -> None:
        rng = np.random.default_rng(0)
        home, new = reference(rng), windows(rng, 30)
        z = home.scores(new.embedding, new.y, new.confidence)[name]
        for k in range(len(CLASSES)):
            assert z[new.y == k].mean() == pytest.approx(0, abs=0.3)

    def test_one_by_one_is_the_same_as_together(self, name: str) -> None:
        rng = np.random.default_rng(0)
        home, new = reference(rng), windows(rng, 3)
        together = home.scores(new.embedding, new.y, new.confidence)[name]
        single = [
            home.scores(new.embedding[i : i + 1], new.y[i : i + 1], new.confidence[i : i + 1])
            for i in range(len(new.y))
        ]
        np.testing.assert_allclose([z[name][0] for z in single], together, atol=1e-5)

    def test_gets_a_threshold(self, name: str) -> None:
        calibration = calibrate(reference(np.random.default_rng(0)), 500).calibration
        assert calibration is not None
        assert calibration.thresholds[name] > 0


def test_two_windows_of_a_class_lie_one_apart() -> None:
    rng = np.random.default_rng(0)
    y = np.arange(600) % len(CLASSES)
    embedding = 7.0 * y[:, None] + rng.normal(size=(600, WIDTH)) * np.linspace(1, 9, WIDTH)
    sure = np.full(600, 0.9)
    home = Reference.fit(embedding, y, embedding, y, sure, CLASSES)
    places = home.places(embedding)
    for k in range(len(CLASSES)):
        first, second = np.array_split(places[y == k], 2)
        assert np.square(first - second).sum(1).mean() == pytest.approx(1, abs=0.2)
    with pytest.raises(DriftError, match="embedding"):
        home.places(np.zeros((2, WIDTH + 1)))


def test_how_ordinary_a_window_is() -> None:
    rng = np.random.default_rng(0)
    home, new, moved = reference(rng), windows(rng, 30), windows(rng, 30, shift=3)
    z = home.scores(new.embedding, new.y, new.confidence)["embedding"]
    ordinary = home.ordinary(new.embedding, new.y, new.confidence)
    assert ordinary.shape == z.shape
    assert (ordinary[z <= 0] == 1).all(), "none is more ordinary than those at home"
    assert np.allclose(ordinary, np.exp(-(np.where(z > 0, z, 0) ** 2) / 4))
    strange = home.ordinary(moved.embedding, moved.y, moved.confidence)
    assert strange.min() > 0.105 and strange.mean() < 0.7 * ordinary.mean()


@pytest.mark.parametrize("with_thresholds", [False, True])
def test_arrays_round_trip_exactly(with_thresholds: bool) -> None:
    home = reference(np.random.default_rng(0))
    if with_thresholds:
        home = calibrate(home, 500)
    arrays = home.to_arrays()
    again = Reference.from_arrays(arrays)
    assert (again.classes, again.data_hash, again.calibration) == (
        home.classes,
        home.data_hash,
        home.calibration,
    )
    assert again.distance.rest_precision == home.distance.rest_precision
    second = again.to_arrays()
    assert arrays.keys() == second.keys()
    for name, array in arrays.items():
        assert array.dtype == second[name].dtype
        assert array.dtype.kind in "fiu"
        np.testing.assert_array_equal(array, second[name])


def test_arrays_survive_safetensors() -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    home = calibrate(reference(np.random.default_rng(0)), 500)
    again = Reference.from_arrays(safetensors.load(safetensors.save(home.to_arrays())))
    assert again.calibration == home.calibration
    np.testing.assert_array_equal(again.held["embedding"], home.held["embedding"])


@pytest.mark.parametrize("damage", [{"about": None}, {"about": b"{"}, {"means": None}])
def test_damaged_arrays_are_named(damage: dict[str, Any]) -> None:
    arrays = reference(np.random.default_rng(0)).to_arrays()
    for name, value in damage.items():
        if value is None:
            del arrays[name]
        else:
            arrays[name] = np.frombuffer(value, np.uint8)
    with pytest.raises(DriftError, match="incomplete, damaged"):
        Reference.from_arrays(arrays)


def test_same_data_same_hash() -> None:
    one, two, other = (reference(np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert one.data_hash == two.data_hash != other.data_hash


def test_what_other_days_differ_by_is_taken_from_the_version_before() -> None:
    """A few bouts of one day look alike, and say nothing about the next day."""
    before = reference(np.random.default_rng(0), wearer=1.0)
    rng = np.random.default_rng(1)
    fitted, held = windows(rng), windows(rng, bouts=6)
    arguments = (fitted.embedding, fitted.y, held.embedding, held.y, held.confidence, CLASSES)
    alone = Reference.fit(*arguments, held_recording=held.recording)
    after = Reference.fit(*arguments, held_recording=held.recording, before=before)
    for name in DETECTORS:
        assert alone.scales[name].spread.between < before.scales[name].spread.between
        assert after.scales[name].spread.between == before.scales[name].spread.between
    low, high = (calibrate(home, 500).calibration for home in (alone, after))
    assert low is not None and high is not None
    again = Reference.from_arrays(after.to_arrays())
    assert again.scales["embedding"].spread == after.scales["embedding"].spread
    assert calibrate(again, 500).calibration == high


def test_errors_are_kept() -> None:
    arguments = _arguments()
    home = Reference.fit(**arguments, errors=ErrorRate(3, 40))
    assert Reference.from_arrays(home.to_arrays()).errors == ErrorRate(3, 40)
    assert "error" in (calibrate(home, 500).calibration or pytest.fail()).thresholds


def test_reference_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        reference(np.random.default_rng(0)).classes = ()  # type: ignore[misc]


def _arguments() -> dict[str, Any]:
    fitted, held = (windows(np.random.default_rng(seed)) for seed in (1, 2))
    return {
        "embeddings": fitted.embedding,
        "y": fitted.y,
        "held_embeddings": held.embedding,
        "held_predicted": held.y,
        "held_confidence": held.confidence,
        "classes": CLASSES,
    }


@pytest.mark.parametrize(
    ("field", "spoil", "message"),
    [
        ("embeddings", lambda a: a[:, 0], "give \\(N, D\\)"),
        ("embeddings", lambda a: np.where(a > a.mean(), np.nan, a), "not finite"),
        ("y", lambda a: a[:-1], "does not fit"),
        ("y", lambda a: a + 1, "outside the classes \\(got 3\\)"),
        ("held_embeddings", lambda a: a[:, 1:], "width of 12"),
        ("held_predicted", lambda a: a - 1, "outside the classes \\(got -1\\)"),
        ("held_confidence", lambda a: a[:, None], "does not fit"),
    ],
)
def test_bad_input_is_named(field: str, spoil: Any, message: str) -> None:
    arguments = _arguments()
    arguments[field] = spoil(arguments[field])
    with pytest.raises(DriftError, match=message) as caught:
        Reference.fit(**arguments)
    assert caught.value.field == field


def test_live_embeddings_that_do_not_fit_are_named() -> None:
    home = reference(np.random.default_rng(0))
    good, predicted, confidence = np.zeros((1, WIDTH)), np.array([0]), np.array([0.9])
    with pytest.raises(DriftError, match="width of 12"):
        home.scores(good[:, 1:], predicted, confidence)
    with pytest.raises(DriftError, match=r"not in the drift reference \(got 3\)"):
        home.scores(good, predicted + 3, confidence)
    with pytest.raises(DriftError, match=r"drift\.embedding: .*not finite"):
        home.scores(good * np.nan, predicted, confidence)
    with pytest.raises(DriftError, match=r"drift\.confidence: .*not finite"):
        home.scores(good, predicted, confidence * np.nan)
