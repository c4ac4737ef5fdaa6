from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetuner.adapt.betting import wealth
from edgetuner.adapt.gate import evidence, guarded, guards, judge, least_gain
from edgetuner.config import GateConfig

SETTINGS = GateConfig(min_windows=8, min_gain=0.05, max_p_value=0.1)
Y = np.arange(24) % 3


def wrong_at(count: int) -> np.ndarray:
    """Predictions that miss the first `count` windows."""
    return np.where(np.arange(24) < count, (Y + 1) % 3, Y)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=12))
def test_only_windows_that_one_alone_gets_right_are_evidence(
    pairs: list[tuple[bool, bool]],
) -> None:
    better, worse = np.array(pairs, bool).reshape(-1, 2).T
    differing = [a for a, b in pairs if a != b]
    expected = wealth(sum(differing), len(differing) - sum(differing))
    assert evidence(better, worse) == pytest.approx(expected)


def test_a_candidate_that_is_clearly_better_passes() -> None:
    verdict = judge(Y, wrong_at(12), wrong_at(0), SETTINGS)
    assert verdict.passed and verdict.windows == 24
    assert verdict.candidate_f1 == 1 and verdict.champion_f1 < 0.6
    assert verdict.evidence == pytest.approx((2**13 - 1) / 13)


@pytest.mark.parametrize(
    ("champion", "candidate", "reason"),
    [(0, 0, "at least"), (0, 6, "at least"), (3, 0, "may be chance"), (12, 11, "at least")],
)
def test_a_candidate_that_proves_too_little_is_refused(
    champion: int, candidate: int, reason: str
) -> None:
    verdict = judge(Y, wrong_at(champion), wrong_at(candidate), SETTINGS)
    assert not verdict.passed and reason in verdict.reason


@pytest.mark.parametrize(("wins", "passes"), [(5, False), (6, True)])
def test_what_is_asked_has_to_be_shown(wins: int, passes: bool) -> None:
    """Five windows are evidence, of a gain that may be next to nothing."""
    asked = GateConfig(min_windows=8, min_gain=0.02, max_p_value=0.1)
    verdict = judge(Y, wrong_at(wins), wrong_at(0), asked)
    assert verdict.evidence is not None and verdict.evidence > 10
    assert verdict.passed is passes
    assert passes or "accuracy +0.003 at least (90 % sure), +0.020 is asked" in verdict.reason
    lenient = asked.model_copy(update={"min_gain": 0.0})
    assert judge(Y, wrong_at(wins), wrong_at(0), lenient).passed


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_the_least_gain_is_above_nothing_where_the_test_says_so(
    pairs: list[tuple[bool, bool]],
) -> None:
    better, worse = np.array(pairs, bool).T
    low = least_gain(better, worse, 0.1)
    assert (low > 1e-6) == (evidence(better, worse) > 10 + 1e-4)
    assert -1 <= low <= better.mean() - worse.mean() + 1e-6


def test_the_least_gain_is_too_much_as_rarely_as_it_says() -> None:
    draw = np.random.default_rng(5)
    worse = draw.random((2000, 60)) < 0.4
    better = np.where(draw.random((2000, 60)) < 0.3, draw.random((2000, 60)) < 0.8, worse)
    true_gain = 0.3 * (0.8 - 0.4)
    missed = np.mean(
        [least_gain(a, b, 0.1) > true_gain for a, b in zip(better, worse, strict=True)]
    )
    assert 0 < missed <= 0.1, "at any one look more rarely"


def test_thousands_of_windows_are_no_trouble() -> None:
    better = np.arange(4000) < 3000
    low = least_gain(better, ~better, 0.1)
    assert 0.45 < low < 0.5


def test_the_bound_is_told_with_its_confidence() -> None:
    verdict = judge(Y, wrong_at(12), wrong_at(0), SETTINGS)
    assert verdict.gain_low is not None and 0.2 < verdict.gain_low < 0.5
    assert verdict.confidence == pytest.approx(0.9)
    assert "90 % sure" in verdict.reason
    assert verdict.to_wire()["gain_low"] == verdict.gain_low


def test_no_class_may_be_shown_to_have_lost_too_much() -> None:
    y = np.repeat([0, 1, 2], [20, 20, 6])
    champion = np.where(y == 0, 1, y)  # knows all of 1 and 2
    candidate = np.where(np.arange(46) >= 41, 0, y)  # knows 0, and loses five of the six
    verdict = judge(y, champion, candidate, SETTINGS, ("sit", "stand", "run"))
    assert not verdict.passed and "recall of run" in verdict.reason
    assert (verdict.worst_class, verdict.worst_class_loss) == ("run", pytest.approx(5 / 6))
    assert judge(y, champion, np.where(np.arange(46) >= 43, 0, y), SETTINGS).passed, (
        "three windows are no evidence"
    )
    mild = SETTINGS.model_copy(update={"max_class_loss": 0.9})
    assert judge(y, champion, candidate, mild).passed


def test_without_evidence_nothing_passes_and_nothing_is_measured() -> None:
    empty = np.empty(0, np.int64)
    for y in (empty, Y[:7]):
        verdict = judge(y, wrong_at(12)[: len(y)], y, SETTINGS)
        assert not verdict.passed and "8 are needed" in verdict.reason
        assert verdict.to_wire().keys() == {"passed", "reason", "windows"}


def test_every_fourth_exemplar_of_a_class_guards_the_source() -> None:
    y = np.array([0, 1, 0, 1, 0, 1, 0, 1, 0, 2, 2])
    mask = guards(y)
    assert np.flatnonzero(mask).tolist() == [6, 7, 10], "of two, the last"
    assert not guards(np.array([0])).any(), "the only one is needed"
    assert not guards(np.empty(0, np.int64)).any()


def test_a_candidate_that_forgets_the_source_is_refused_under_retain() -> None:
    passed = judge(Y, wrong_at(12), wrong_at(0), SETTINGS)
    kept = guarded(passed, Y, wrong_at(0), wrong_at(1), SETTINGS)
    assert kept.passed and kept.source_champion_f1 == 1 and kept.source_candidate_f1 > 0.95
    one = guarded(passed, Y[:6], Y[:6], wrong_at(1)[:6], SETTINGS)
    assert one.passed and one.source_candidate_f1 < 0.9, "one window is no evidence"
    lost = guarded(passed, Y, wrong_at(0), wrong_at(6), SETTINGS)
    assert not lost.passed and "on the source 1.000 -> 0.7" in lost.reason
    assert lost.to_wire()["source_candidate_f1"] == lost.source_candidate_f1
    better = guarded(passed, Y, wrong_at(6), wrong_at(0), SETTINGS)
    assert better.passed
    nobody = np.empty(0, np.int64)
    assert not guarded(passed, nobody, nobody, nobody, SETTINGS).passed


def test_the_guard_makes_nothing_pass_that_the_gate_refused() -> None:
    refused = judge(Y, wrong_at(0), wrong_at(0), SETTINGS)
    assert not guarded(refused, Y, wrong_at(6), wrong_at(0), SETTINGS).passed
