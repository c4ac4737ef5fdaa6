from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from edgetuner.inference import ModelVersion, Outputs  # noqa: E402
from edgetuner.serving import Serving  # noqa: E402
from tests import waves  # noqa: E402

K = 3
X = np.zeros((1, 1, 1), np.float32)


class Sure:
    """A version that gives the same probabilities to whatever it sees."""

    classes = ("a", "b", "c")

    def __init__(self, *probabilities: float) -> None:
        self.logits = np.log(np.array([probabilities], np.float32))

    def predict(self, x: Any) -> Outputs:
        logits = np.repeat(self.logits, len(x), axis=0)
        out = Outputs(logits.argmax(1), np.zeros(0, np.float32), logits, np.zeros((len(x), 2)))
        return replace(out, confidence=out.probabilities().max(1).astype(np.float32))


def pair(new: Sure, old: Sure | None, **over: float) -> Serving:
    return Serving(new, old, **over)  # type: ignore[arg-type]


def test_alone_a_version_is_served_as_it_is(wave_bundle: Path) -> None:
    version = ModelVersion.load(wave_bundle)
    x = np.stack([waves.window(n, n % 3) for n in range(9)])
    answer, own = Serving(version).answer(x)
    assert answer.predicted is own.predicted and answer.confidence is own.confidence
    assert np.allclose(own.probabilities().max(axis=1), own.confidence, atol=1e-6)
    serving, _ = Serving(version).told(x, np.zeros(9, np.int64))
    assert serving == Serving(version), "there is nothing to weigh"


def test_what_all_adaptations_began_with_answers_beside_the_next_version(wave_bundle: Path) -> None:
    source = ModelVersion.load(wave_bundle)
    manifest = source.manifest.model_copy(update={"adaptation": {"method": "lora-edge"}})
    adapted = ModelVersion(replace(source.bundle, manifest=manifest))
    assert Serving(source).anchor is source
    assert Serving(adapted, source).anchor is source
    assert Serving(adapted).anchor is adapted, "nobody else is there"
    assert Serving(source, adapted).anchor is source, "it was not adapted from the other"


def test_the_surer_one_decides_and_the_detectors_hear_the_live_one_alone() -> None:
    new, old = Sure(0.4, 0.3, 0.3), Sure(0.05, 0.9, 0.05)
    answer, own = pair(new, old, share=0.5).answer(X)
    assert answer.predicted.tolist() == [1] and own.predicted.tolist() == [0]
    assert answer.confidence[0] == pytest.approx(0.6)
    assert answer.predicted.dtype == np.int64 and answer.confidence.dtype == np.float32


def test_a_new_version_counts_more_until_labels_speak() -> None:
    equally_sure = pair(Sure(0.9, 0.05, 0.05), Sure(0.05, 0.9, 0.05))
    assert equally_sure.predict(X).predicted.tolist() == [0]
    against, _ = equally_sure.told(np.repeat(X, 2, axis=0), np.array([1, 1]))
    assert against.predict(X).predicted.tolist() == [1], "two labels turn it round"
    back, _ = against.told(np.repeat(X, 3, axis=0), np.array([0, 0, 0]))
    assert back.predict(X).predicted.tolist() == [0], "and three more, whatever came before"


shares = st.floats(0.01, 0.98)
rows = st.tuples(shares, shares).map(
    lambda p: (p[0] / (p[0] + p[1] + 0.01), p[1] / (p[0] + p[1] + 0.01))
)


@given(rows, rows, st.lists(st.integers(0, 2), min_size=1, max_size=60))
def test_the_pair_loses_little_to_the_better_one_whatever_the_labels(
    new: tuple[float, float], old: tuple[float, float], labels: list[int]
) -> None:
    """The bound of fixed share, for labels of which one in ten is wrong: at every label the better
    one keeps 19 of 20 parts of its weight.
    """
    versions = [Sure(*p, 1 - sum(p)) for p in (new, old)]
    serving, lost, alone = pair(*versions), 0.0, np.zeros(2)
    for label in labels:
        likely = [0.9 * np.exp(v.logits[0, label]) + 0.1 / K for v in versions]
        lost -= math.log(serving.share * likely[0] + (1 - serving.share) * likely[1])
        alone -= np.log(likely)
        serving, _ = serving.told(X, np.array([label]))
        assert 0.05 <= serving.share <= 0.95
    assert lost <= alone.min() - math.log(0.3) - len(labels) * math.log(0.95) + 1e-6


def test_labels_one_by_one_weigh_what_they_weigh_together() -> None:
    serving = pair(Sure(0.6, 0.3, 0.1), Sure(0.2, 0.7, 0.1))
    labels = np.array([0, 1, 1, 2, 0])
    together, own = serving.told(np.repeat(X, 5, axis=0), labels)
    for label in labels:
        serving, _ = serving.told(X, np.array([label]))
    assert serving.share == pytest.approx(together.share)
    assert own.predicted.tolist() == [0] * 5
