from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetuner.corrections import Correction, Corrections

OWN = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])


def said(*speaks: list[float], word: float = 1.0) -> Correction:
    return Correction(np.full(len(speaks), word), np.array(speaks))


def test_labels_are_added_to_the_models_own_word() -> None:
    found = said([0.0, 1.0, 0.0], [0.0, 0.0, 0.0], word=0.5).of(OWN)
    assert found[0] == pytest.approx(np.array([0.35, 1.1, 0.05]) / 1.5)
    assert found[1] == pytest.approx(OWN[1]), "nobody says anything of it"


def test_others_are_corrected_as_those_who_answered_were() -> None:
    corrections = Corrections()
    corrections.note([11, 12], said([0.0, 1.0, 0.0], [2.0, 0.0, 0.0]))
    others = np.array([[0.1, 0.1, 0.8], [0.3, 0.3, 0.4], [0.0, 0.2, 0.8]])
    correction = corrections.of([12, 99, 11], 3)
    assert correction.speaks.any(axis=1).tolist() == [True, False, True]
    found = correction.of(others)
    assert found[0] == pytest.approx(np.array([2.1, 0.1, 0.8]) / 3)
    assert found[1] == pytest.approx(others[1]), "labels said nothing of it"
    assert found[2] == pytest.approx(np.array([0.0, 1.2, 0.8]) / 2)
    assert others[0] == pytest.approx([0.1, 0.1, 0.8]), "what was given stays"


def test_windows_of_which_labels_say_nothing_take_no_room() -> None:
    corrections = Corrections()
    corrections.note(range(5000), said(*[[0.0, 0.0, 0.0]] * 5000))
    corrections.note([7], said([1.0, 0.0, 0.0]))
    corrections.note(range(8, 4104), said(*[[0.0, 1.0, 0.0]] * 4096))
    assert corrections.of([7], 3).of(OWN[:1])[0] == pytest.approx(OWN[0]), "the oldest is gone"
    assert corrections.of([8, 4103], 3).of(OWN).argmax(axis=1).tolist() == [1, 1]


def test_a_window_does_not_keep_its_batch_in_memory() -> None:
    corrections, batch = Corrections(), said(*[[0.0, 0.0, 0.0]] * 63, [1.0, 0.0, 0.0])
    corrections.note(range(64), batch)
    batch.speaks[:] = 0
    assert corrections.of([63], 3).speaks.tolist() == [[1.0, 0.0, 0.0]]


@given(st.lists(st.floats(0, 5), min_size=3, max_size=3), st.floats(0.1, 4))
def test_probabilities_stay_such(speaks: list[float], word: float) -> None:
    found = said(speaks, speaks, word=word).of(OWN)
    assert found.sum(axis=1) == pytest.approx(1) and (found >= 0).all()
