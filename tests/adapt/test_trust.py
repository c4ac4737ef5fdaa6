from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from edgetuner.adapt.trust import agreement, discredited, disputed, doubt

K = 6
NAMES = ("lie", "sit", "stand", "walk", "run", "climb")
IntArray = NDArray[np.int64]


def windows(per_class: int, right: float, seed: int = 0) -> tuple[IntArray, IntArray]:
    """True classes, and what a model says of them that is right in so many of the windows and
    otherwise says the same two classes.
    """
    draw = np.random.default_rng(seed)
    y = np.tile(np.arange(K), per_class)
    return y, np.where(draw.random(len(y)) < right, y, draw.integers(0, 2, len(y)))


def flipped(y: IntArray, share: float, seed: int = 1) -> IntArray:
    draw = np.random.default_rng(seed)
    other = (y + draw.integers(1, K, len(y))) % K
    return np.where(draw.random(len(y)) < share, other, y)


def test_agreement_is_counted_in_standard_errors_of_chance() -> None:
    """Against 20,000 shuffles of the labels."""
    y, predicted = windows(8, 0.3)
    draw = np.random.default_rng(7)
    chance = np.array([(draw.permutation(y) == predicted).sum() for _ in range(20_000)])
    expected = ((y == predicted).sum() - 0.5 - chance.mean()) / chance.std()
    assert agreement(y, predicted, K) == pytest.approx(expected, rel=0.03)


def test_where_one_class_is_all_there_is_nothing_agrees_better_than_chance() -> None:
    one = np.zeros(20, np.int64)
    assert agreement(one, one, K) == 0
    assert agreement(one[:1], one[:1], K) == 0


@pytest.mark.parametrize("flips", [0, 0.1, 0.2, 0.3])
def test_honest_labels_are_believed_though_a_third_is_wrong_and_so_is_the_model(
    flips: float,
) -> None:
    for seed in range(20):
        y, predicted = windows(12, 0.4, seed)
        assert doubt(flipped(y, flips, seed), [predicted], NAMES) is None


@pytest.mark.parametrize("right", [0.3, 0.6, 1.0])
def test_renamed_classes_are_not_believed(right: float) -> None:
    for seed in range(20):
        y, predicted = windows(12, right, seed)
        assert doubt((y + 1 + seed % (K - 1)) % K, [predicted], NAMES) is not None


def test_labels_without_meaning_are_not_believed() -> None:
    believed = 0
    for seed in range(100):
        y, predicted = windows(12, 0.6, seed)
        noise = np.random.default_rng(seed + 500).integers(0, K, len(y))
        believed += doubt(noise, [predicted], NAMES) is None
    assert believed <= 10


def test_a_renaming_that_fits_far_better_is_told_of() -> None:
    """The model takes each class for the next now and then, just as the renamed labels do."""
    y = np.tile(np.arange(K), 100)
    slips = np.random.default_rng(0).random(len(y)) < 0.22
    predicted = np.where(slips, (y + 1) % K, y)
    assert agreement((y + 1) % K, predicted, K) > 1.645, "beyond chance"
    assert "renamed" in (doubt((y + 1) % K, [predicted], NAMES) or "")
    assert doubt(y, [predicted], NAMES) is None


def test_a_class_that_most_labels_name_must_be_seen_by_itself() -> None:
    y = np.tile(np.arange(K), 20)
    predicted = np.where(y == 3, 2, y)  # it takes those who walk for standing
    collapsed = np.where(np.random.default_rng(0).random(len(y)) < 0.7, 3, y)
    assert agreement(collapsed, predicted, K) > 1.645, "those that are right agree"
    assert "say walk" in (doubt(collapsed, [predicted], NAMES) or "")
    rows = np.sort(np.concatenate([np.flatnonzero(y == 3), np.flatnonzero(y != 3)[::8]]))
    assert doubt(y[rows], [y[rows]], NAMES) is None, "who walks a lot, and is seen to, is believed"


def test_one_witness_is_enough() -> None:
    y, predicted = windows(12, 0.6)
    stray = np.zeros_like(y)
    assert doubt(y, [stray, predicted], NAMES) is None
    assert "by chance" in (doubt(y, [stray], NAMES) or "")


def test_honest_labels_of_the_past_do_not_vouch_for_the_newest() -> None:
    y, predicted = windows(24, 0.9)
    turned = np.where(np.arange(len(y)) < len(y) // 2, y, (y + 1) % K)
    assert agreement(turned, predicted, K) > 1.645, "as a whole they agree"
    assert "newest" in (doubt(turned, [predicted], NAMES) or "")
    assert "contradict" in str(disputed(turned, predicted, np.full(len(y), 0.5)))
    assert doubt(y, [predicted], NAMES) is None


# ------------------------------------------------------------------ older labels


@pytest.mark.parametrize("hostile", [48, 72, 96])
def test_labels_from_before_somebody_was_put_right_are_left_out(hostile: int) -> None:
    stayed = lost = 0
    for seed in range(40):
        y, predicted = windows(30, 0.6, seed)
        said = np.where(np.arange(len(y)) < hostile, (y + 1) % K, y)
        left_out = discredited(said, [predicted], NAMES)
        assert doubt(said[left_out:], [predicted[left_out:]], NAMES) is None
        stayed += max(0, hostile - left_out)
        lost += max(0, left_out - hostile)
    assert stayed < 0.15 * 40 * hostile and lost < 0.15 * 40 * (len(y) - hostile)


@pytest.mark.parametrize("flips", [0, 0.1, 0.2])
def test_honest_labels_are_not_left_out_for_their_age(flips: float) -> None:
    cut = 0
    for seed in range(100):
        y, predicted = windows(12, 0.4, seed)
        cut += discredited(flipped(y, flips, seed), [predicted], NAMES) > 0
    assert cut <= 8


def test_one_or_two_activities_that_a_lost_model_takes_all_wrong_discredit_nobody() -> None:
    y, predicted = windows(12, 0.6)
    first = np.repeat([4, 5], 10)  # it says 0 and 1 there
    said = np.concatenate([first, y])
    seen = np.concatenate([first - 4, predicted])
    assert discredited(said, [seen], NAMES) == 0


def test_labels_that_nobody_can_believe_have_no_older_part() -> None:
    y, predicted = windows(12, 0.6)
    renamed = (y + 1) % K
    assert discredited(renamed, [predicted], NAMES) == 0
    assert doubt(renamed, [predicted], NAMES) is not None
    assert discredited(y[:0], [predicted[:0]], NAMES) == 0


# ------------------------------------------------------------------ where windows look ordinary


def test_where_windows_are_strange_the_model_is_no_judge() -> None:
    y, predicted = windows(12, 1.0)
    assert not np.any(disputed((y + 1) % K, predicted, np.full(len(y), 0.02)))
    none = disputed(y[:0], y[:0], np.empty(0))
    assert isinstance(none, np.ndarray) and not len(none)


def test_where_windows_look_ordinary_labels_may_not_contradict_most_of_them() -> None:
    y, predicted = windows(12, 0.95)
    p_values = np.linspace(0.05, 0.95, len(y))
    assert not np.any(disputed(flipped(y, 0.3), predicted, p_values))
    assert "contradict" in str(disputed((y + 1) % K, predicted, p_values))
    collapsed = np.where(np.random.default_rng(0).random(len(y)) < 0.9, 3, y)
    assert "contradict" in str(disputed(collapsed, predicted, p_values))


def test_two_classes_that_changed_their_names_are_disputed_and_the_others_not() -> None:
    y, predicted = windows(12, 0.95)
    swapped = np.where(y == 4, 5, np.where(y == 5, 4, y))
    found = disputed(swapped, predicted, np.full(len(y), 0.5))
    assert isinstance(found, np.ndarray)
    assert found.tolist() == np.isin(y, [4, 5]).tolist()
    few = disputed(swapped[:24], predicted[:24], np.full(24, 0.5))
    assert not np.any(few), "four labels of a class are no evidence"
