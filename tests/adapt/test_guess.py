from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgetuner.adapt.answers import Look  # noqa: E402
from edgetuner.adapt.guess import balanced_guesses, guessed  # noqa: E402
from tests.adapt.test_judge import A, context  # noqa: E402


def test_only_what_both_views_agree_upon_is_guessed() -> None:
    predicted = np.array([0] * 8 + [1] * 8)
    restated = np.where(np.arange(16) % 4 == 0, 2, predicted)
    found = balanced_guesses(predicted, restated, np.ones(16, np.float32))
    assert (found[::4] == -1).all()
    assert (found[found >= 0] == predicted[found >= 0]).all() and (found >= 0).any()


def test_of_every_class_the_surest_half_however_unsure_and_no_class_swallows_the_others() -> None:
    predicted = np.repeat([0, 1, 2], [100, 20, 12])
    confidence = np.concatenate([np.linspace(0.9, 1, 100), np.linspace(0.3, 0.4, 32)])
    found = balanced_guesses(predicted, predicted, confidence.astype(np.float32))
    assert [(found == k).sum() for k in range(3)] == [10, 10, 6]
    assert np.flatnonzero(found == 0).tolist() == list(range(90, 100))
    assert np.flatnonzero(found == 2).tolist() == list(range(126, 132))


def test_two_windows_are_no_class_and_nothing_is_guessed_where_nothing_agrees() -> None:
    few = np.array([0, 0, 1, 1, 1])
    found = balanced_guesses(few, few, np.ones(5, np.float32))
    assert found.tolist() == [-1, -1, 1, 1, 1]
    assert (balanced_guesses(few, few + 1, np.ones(5, np.float32)) == -1).all()


def test_labels_stay_what_they_are() -> None:
    windows = context((A,), [0] * 12, list(range(12)))
    windows.y[3:] = -1

    class Sure:
        async def look(self, x: Any) -> Look:
            ones = np.ones(len(x), np.int64)
            return Look(ones, ones.astype(np.float32), ones.astype(float))

        async def restated(self, live: Any, x: Any, of: Any) -> Any:
            assert (len(x), len(of)) == (9, 12)
            return np.ones(len(x), np.int64)

    answers: Any = Sure()
    live: Any = None
    found = asyncio.run(guessed(windows, live, answers))
    assert found.y[:3].tolist() == windows.y[:3].tolist()
    assert (found.y[3:] == 1).sum() == 4 and (windows.y[3:] == -1).all()
