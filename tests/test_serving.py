from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from edgetuner.errors import DriftError  # noqa: E402
from edgetuner.inference import ModelVersion, Outputs  # noqa: E402
from edgetuner.serving import Answer, Serving  # noqa: E402
from tests import waves  # noqa: E402

K = 3
X = np.zeros((1, 1, 1), np.float32)


class Sure:
    """A version that gives the same probabilities to whatever it sees, and finds it so ordinary."""

    classes = ("a", "b", "c")

    def __init__(self, *probabilities: float, ordinary: float = 1.0) -> None:
        self.logits = np.log(np.array([probabilities], np.float32))
        self.reference = SimpleNamespace(ordinary=lambda *out: np.full(len(out[0]), ordinary))

    def predict(self, x: Any) -> Outputs:
        logits = np.repeat(self.logits, len(x), axis=0)
        out = Outputs(logits.argmax(1), np.zeros(0, np.float32), logits, np.zeros((len(x), 2)))
        return replace(out, confidence=out.probabilities().max(1).astype(np.float32))


def together(new: Sure, *others: Sure, **over: Any) -> Serving:
    return Serving(new, others, **over)  # type: ignore[arg-type]


def told(serving: Serving, labels: list[int]) -> Serving:
    return serving.told(serving.outputs(np.repeat(X, len(labels), axis=0)), np.array(labels))


@pytest.fixture
def source(wave_bundle: Path) -> ModelVersion:
    return ModelVersion.load(wave_bundle)


def adapted(source: ModelVersion) -> ModelVersion:
    manifest = source.manifest.model_copy(update={"adaptation": {"method": "lora-edge"}})
    return ModelVersion(replace(source.bundle, manifest=manifest))


def test_alone_a_version_is_served_as_it_is(source: ModelVersion) -> None:
    x = np.stack([waves.window(n, n % 3) for n in range(9)])
    (own,) = Serving(source).outputs(x)
    answer = Answer.of(Serving(source).mixed([own]))
    assert answer.predicted.tolist() == own.predicted.tolist()
    assert np.allclose(answer.confidence, own.confidence, atol=1e-6)
    serving = Serving(source).told([own], np.zeros(9, np.int64))
    assert serving == Serving(source), "there is nothing to weigh"
    assert own.take(np.array([7, 2])).predicted.tolist() == own.predicted[[7, 2]].tolist()


def test_what_all_adaptations_began_with_answers_beside_the_next_version(
    source: ModelVersion,
) -> None:
    first = adapted(source)
    assert Serving(source).anchor is source
    assert Serving(first, (source,)).anchor is source
    assert Serving(first).anchor is first, "nobody else is there"
    assert Serving(source, (first,)).anchor is source, "it was not adapted from the other"


def test_on_probation_the_version_before_answers_as_well_and_then_no_more(
    source: ModelVersion,
) -> None:
    first, second = adapted(source), adapted(source)
    serving = Serving(source).followed_by(first)
    assert (serving.version, serving.beside, serving.shares) == (first, (source,), (0.5, 0.5))
    serving = replace(serving, shares=(0.8, 0.2)).proven()
    assert serving.shares == pytest.approx((0.8, 0.2)), "there is nobody to leave"
    serving = serving.followed_by(second)
    assert (serving.version, serving.beside) == (second, (source, first))
    assert serving.shares == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    serving = replace(serving, shares=(0.6, 0.2, 0.2)).proven()
    assert (serving.version, serving.beside) == (second, (source,))
    assert serving.shares == pytest.approx((0.75, 0.25)), "what labels have said stays said"
    assert Serving(second).proven() == Serving(second)


def test_the_surer_one_decides_and_the_live_one_comes_first() -> None:
    serving = together(Sure(0.4, 0.3, 0.3), Sure(0.05, 0.9, 0.05))
    outputs = serving.outputs(X)
    answer = Answer.of(serving.mixed(outputs))
    assert answer.predicted.tolist() == [1] and outputs[0].predicted.tolist() == [0]
    assert answer.confidence[0] == pytest.approx(0.6)
    assert answer.predicted.dtype == np.int64 and answer.confidence.dtype == np.float32


def test_who_finds_a_window_ordinary_decides() -> None:
    """Both are as sure, and labels have said nothing: one of them has seen nothing like it."""
    at_home, lost = Sure(0.9, 0.05, 0.05), Sure(0.05, 0.05, 0.9, ordinary=0.25)
    for versions in ((at_home, lost), (lost, at_home)):
        answer = together(*versions).predict(X)
        assert answer.predicted.tolist() == [0]
        assert answer.confidence[0] == pytest.approx((0.9 + 0.25 * 0.05) / 1.25)


def test_who_gives_what_is_not_finite_has_no_voice(source: ModelVersion) -> None:
    x = np.stack([waves.window(n, n % 3) for n in range(6)])
    broken = ModelVersion(source.bundle)
    with torch.no_grad():
        for weight in broken._module.parameters():
            weight.fill_(float("nan"))
    serving = Serving(source, (broken,))
    assert serving.predict(x).predicted.tolist() == source.predict(x).predicted.tolist()
    told = serving.told(serving.outputs(x), np.array([n % 3 for n in range(6)]))
    assert told.shares[0] > 0.8
    with pytest.raises(DriftError, match="not finite"):
        Serving(broken, (source,)).predict(x)


def test_an_ordinary_window_of_one_version_may_be_strange_to_another(source: ModelVersion) -> None:
    x = np.stack([waves.window(n, n % 3) for n in range(12)])

    def ordinary(windows: np.ndarray) -> Any:
        out = source.predict(windows)
        return source.reference.ordinary(out.embeddings, out.predicted, out.confidence)

    near, far = ordinary(x), ordinary(-5 * x)
    assert near.shape == (12,) and (near > 0).all() and (near <= 1).all()
    assert np.median(far) < np.median(near)


def test_labels_turn_it_round_and_back() -> None:
    equally_sure = together(Sure(0.9, 0.05, 0.05), Sure(0.05, 0.9, 0.05))
    against = told(equally_sure, [1, 1])
    assert against.predict(X).predicted.tolist() == [1], "two labels turn it round"
    back = told(against, [0, 0, 0])
    assert back.predict(X).predicted.tolist() == [0], "and three more, whatever came before"


chances = st.floats(0.01, 0.98)
rows = st.tuples(chances, chances).map(
    lambda p: (p[0] / (p[0] + p[1] + 0.01), p[1] / (p[0] + p[1] + 0.01))
)


@given(st.lists(rows, min_size=2, max_size=3), st.lists(st.integers(0, 2), max_size=60))
def test_together_they_lose_little_to_the_best_one_whatever_the_labels(
    all_rows: list[tuple[float, float]], labels: list[int]
) -> None:
    """The bound of fixed share, for labels of which one in five is wrong: at every label the best
    one keeps at least 1 - .2 (1 - 1 / n) of its weight.
    """
    versions = [Sure(*p, 1 - sum(p)) for p in all_rows]
    n = len(versions)
    serving, lost, alone = together(*versions), 0.0, np.zeros(n)
    for label in labels:
        likely = np.array([0.8 * np.exp(v.logits[0, label]) + 0.2 / K for v in versions])
        lost -= math.log(serving.shares @ likely)
        alone -= np.log(likely)
        serving = told(serving, [label])
        assert sum(serving.shares) == pytest.approx(1)
        assert min(serving.shares) >= 0.2 / n
    kept = math.log(1 - 0.2 * (1 - 1 / n))
    assert lost <= alone.min() + math.log(n) - len(labels) * kept + 1e-6


def test_labels_one_by_one_weigh_what_they_weigh_together() -> None:
    serving = together(Sure(0.6, 0.3, 0.1), Sure(0.2, 0.7, 0.1), Sure(0.1, 0.1, 0.8))
    labels = [0, 1, 1, 2, 0]
    at_once = told(serving, labels)
    for label in labels:
        serving = told(serving, [label])
    assert serving.shares == pytest.approx(at_once.shares)
