from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgetuner.drift import DETECTORS, Reference, calibrate
from edgetuner.drift.conformal import MIN_HELD, p_value
from edgetuner.errors import DriftError
from tests.drift.synthetic import CLASSES, WIDTH, reference, windows


@given(st.integers(0, 10_000), st.integers(1, 30))
@settings(max_examples=30)
def test_p_values_are_uniform_on_exchangeable_scores(seed: int, held: int) -> None:
    """The rank of a new score among n held-out ones takes each of n + 1 values equally often."""
    scores = np.random.default_rng(seed).normal(size=(4000, held + 1))
    p = np.array([p_value(row[:1], np.sort(row[1:]))[0] for row in scores])
    ranks = p * (held + 1) - 0.5
    np.testing.assert_allclose(ranks, np.round(ranks), atol=1e-9)
    counts = np.bincount(np.round(ranks).astype(int), minlength=held + 1)
    expected = len(scores) / (held + 1)
    assert np.abs(counts - expected).max() < 6 * np.sqrt(expected)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.integers(-1, 4))
def test_ties_count_half(held: list[int], score: int) -> None:
    table = np.sort(np.array(held, float))
    above, equal = sum(h > score for h in held), sum(h == score for h in held)
    expected = (above + (equal + 1) / 2) / (len(held) + 1)
    assert p_value(np.array([float(score)]), table)[0] == pytest.approx(expected)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=30))
def test_stranger_is_never_likelier(scores: list[float]) -> None:
    table = np.linspace(0, 1, 17)
    p = p_value(np.sort(np.array(scores)), table)
    assert (np.diff(p) <= 0).all()
    assert ((p > 0) & (p < 1)).all()


@pytest.mark.parametrize("name", DETECTORS)
class TestEveryDetector:
    """The contract of an entry of `DETECTORS`."""

    def test_one_finite_score_a_window(self, name: str) -> None:
        rng = np.random.default_rng(0)
        home, new = reference(rng), windows(rng, 6)
        scores = DETECTORS[name](home, new.embedding, new.y, new.confidence)
        assert scores.shape == (144,)
        assert np.isfinite(scores).all()

    def test_high_is_strange(self, name: str) -> None:
        rng = np.random.default_rng(0)
        home, new, moved = reference(rng), windows(rng, 30), windows(rng, 30, shift=3)
        p = home.p_values(new.embedding, new.y, new.confidence)[name]
        assert p.mean() == pytest.approx(0.5, abs=0.05)
        strange = home.p_values(moved.embedding, moved.y, moved.confidence)[name]
        assert strange.mean() < 0.2

    def test_a_change_of_activity_is_not_drift(self, name: str) -> None:
        rng = np.random.default_rng(0)
        home, new = reference(rng), windows(rng, 30)
        p = home.p_values(new.embedding, new.y, new.confidence)[name]
        for k in range(len(CLASSES)):
            assert p[new.y == k].mean() == pytest.approx(0.5, abs=0.1)

    def test_one_by_one_is_the_same_as_together(self, name: str) -> None:
        rng = np.random.default_rng(0)
        home, new = reference(rng), windows(rng, 3)
        together = home.p_values(new.embedding, new.y, new.confidence)[name]
        single = [
            home.p_values(new.embedding[i : i + 1], new.y[i : i + 1], new.confidence[i : i + 1])
            for i in range(len(new.y))
        ]
        # Sums in another order may differ in the last bit, so a rank may: hence not exactly.
        np.testing.assert_allclose([p[name][0] for p in single], together, atol=0.01)

    def test_gets_a_threshold(self, name: str) -> None:
        calibration = calibrate(reference(np.random.default_rng(0)), 500).calibration
        assert calibration is not None
        assert calibration.thresholds[name] > 0


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
    with pytest.raises(DriftError, match="incomplete or damaged"):
        Reference.from_arrays(arrays)


def test_same_data_same_hash() -> None:
    one, two, other = (reference(np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert one.data_hash == two.data_hash != other.data_hash


def test_a_class_with_few_held_out_windows_is_compared_with_all() -> None:
    rng = np.random.default_rng(0)
    fitted, held = windows(rng), windows(rng)
    keep = (held.y != 2) | (np.cumsum(held.y == 2) < MIN_HELD)
    held = type(held)(*(part[keep] for part in held))
    home = Reference.fit(
        fitted.embedding, fitted.y, held.embedding, held.y, held.confidence, CLASSES
    )
    score = np.array([[20.0] * WIDTH])
    expected = p_value(home.scores(score, np.array([2])), np.sort(home.held["embedding"]))
    found = home.p_values(score, np.array([2]), np.array([0.9]))["embedding"]
    assert found == expected


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
        home.p_values(good[:, 1:], predicted, confidence)
    with pytest.raises(DriftError, match=r"not in the drift reference \(got 3\)"):
        home.p_values(good, predicted + 3, confidence)
    with pytest.raises(DriftError, match=r"drift\.embedding: score is not finite"):
        home.p_values(good * np.nan, predicted, confidence)
    with pytest.raises(DriftError, match=r"drift\.confidence: score is not finite"):
        home.p_values(good, predicted, confidence * np.nan)
