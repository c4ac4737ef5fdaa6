from __future__ import annotations

import pytest

from edgetuner.adapt.lessons import Lessons


@pytest.mark.parametrize(("learned", "enough"), [(2, 3), (3, 5), (4, 6), (7, 11)])
def test_a_version_is_outgrown_by_half_as_many_classes_more(learned: int, enough: int) -> None:
    lessons = Lessons()
    lessons.begin(learned)
    assert lessons.of_this_context
    assert not lessons.outgrown(enough - 1) and lessons.outgrown(enough)


def test_a_version_that_was_not_trained_for_this_context_is_not_outgrown() -> None:
    lessons = Lessons()
    assert not lessons.of_this_context and not lessons.outgrown(100)
    lessons.know(2)
    assert not lessons.outgrown(100), "it still was not"
    lessons.begin(2)
    lessons.forget()
    assert not lessons.of_this_context and not lessons.outgrown(100)
    lessons.begin(None)
    assert not lessons.of_this_context and not lessons.outgrown(100)


def test_what_turned_out_to_be_known_need_not_be_learned() -> None:
    lessons = Lessons()
    lessons.begin(2)
    lessons.know(4)
    assert not lessons.outgrown(5) and lessons.outgrown(6)


def test_after_a_refusal_a_candidate_waits_for_more_labels() -> None:
    lessons = Lessons()
    assert lessons.repeated(0, with_labels=False) is None
    lessons.refuse(36, with_labels=False)
    said = "50 labelled windows, 51 are needed after the candidate that was refused"
    assert lessons.repeated(50, with_labels=False) == said
    assert lessons.repeated(36, with_labels=False) is not None
    assert lessons.repeated(51, with_labels=False) is None
    assert lessons.repeated(35, with_labels=False) is None, "so few are of another context"


def test_the_last_refusal_counts_until_another_version_goes_live() -> None:
    lessons = Lessons()
    lessons.refuse(36, with_labels=False)
    lessons.refuse(60, with_labels=False)
    assert (
        lessons.repeated(83, with_labels=False) is not None
        and lessons.repeated(84, with_labels=False) is None
    )
    lessons.forget()
    assert lessons.repeated(60, with_labels=False) is not None, "the one before is no other one"
    lessons.begin(3)
    assert lessons.repeated(60, with_labels=False) is None


def test_one_that_is_no_better_than_labels_may_be_better_without_them() -> None:
    lessons = Lessons()
    lessons.refuse(36, with_labels=True)
    said = lessons.repeated(40, with_labels=True) or ""
    assert said.endswith(
        "51 are needed after the candidate that was refused, or none for five minutes"
    )
    assert lessons.repeated(40, with_labels=False) is None
    assert lessons.unfinished
    lessons.refuse(40, with_labels=False)
    assert lessons.repeated(41, with_labels=False) is not None
    assert not lessons.unfinished
    assert lessons.repeated(55, with_labels=True) is not None, "nor is it with them"
    assert lessons.repeated(56, with_labels=True) is None
