from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from edgetuner.adapt.material import Material  # noqa: E402

CLASSES = 4


def material(
    own: list[int], source: list[int], guessed: list[int] | None = None, classes: int = CLASSES
) -> Material:
    """Windows of these classes; the value of a window is its class."""

    def x(labels: list[int]) -> torch.Tensor:
        return torch.tensor(labels).float().reshape(-1, 1, 1).expand(-1, 2, 3).clone()

    return Material(
        x=x(own),
        y=torch.tensor(own, dtype=torch.int64),
        unlabelled=torch.empty(0, 2, 3),
        held_x=torch.empty(0, 2, 3),
        held_y=torch.empty(0, dtype=torch.int64),
        source_x=x(source),
        source_y=torch.tensor(source, dtype=torch.int64),
        classes=classes,
        head="head",
        guessed_x=x(guessed or []),
        guessed_y=torch.tensor(guessed or [], dtype=torch.int64),
    )


labels = st.lists(st.integers(0, CLASSES - 1), max_size=12)
shares = st.floats(0.01, 0.99)
evennesses = st.floats(0, 1)


@st.composite
def materials(draw: st.DrawFn) -> Material:
    """Some windows of some classes, and exemplars of every class."""
    source = list(range(CLASSES)) + draw(labels)
    return material(draw(labels.filter(len)), source, draw(labels))


@given(materials(), shares, evennesses)
def test_weights_are_positive_one_in_all_and_one_for_each_row(
    made: Material, share: float, evenness: float
) -> None:
    weights = made.weights(share, evenness)
    x, y = made.all_rows()
    assert weights.dtype == torch.float64
    assert weights.shape == (len(x),) == (len(y),) == made.own.shape
    assert made.given.shape == made.present.shape == weights.shape
    assert bool((weights > 0).all())
    assert float(weights.sum()) == pytest.approx(1)


@given(labels, labels, labels, shares, evennesses)
def test_exemplars_have_their_share_where_every_class_has_a_window(
    own: list[int], source: list[int], guessed: list[int], share: float, evenness: float
) -> None:
    made = material(list(range(CLASSES)) + own, [0, *source], guessed)
    weights = made.weights(share, evenness)
    exemplars = made.given & ~made.own
    assert float(weights[exemplars].sum()) == pytest.approx(share)
    of_class = {
        k: float(weights[exemplars & (made.all_rows()[1] == k)].sum()) for k in {0, *source}
    }
    each = pytest.approx(share / len(of_class))
    assert all(value == each for value in of_class.values()), "each class of it as much"


@given(materials(), shares)
def test_at_evenness_one_each_class_counts_as_much_as_any_other(
    made: Material, share: float
) -> None:
    weights = made.weights(share, evenness=1)
    y = made.all_rows()[1]
    of_class = torch.zeros(CLASSES).double().index_add_(0, y, weights)
    torch.testing.assert_close(of_class, torch.full((CLASSES,), 1 / CLASSES).double())


@given(materials(), shares, evennesses)
def test_rows_of_one_kind_and_class_count_alike_and_a_guess_a_quarter_of_a_label(
    made: Material, share: float, evenness: float
) -> None:
    weights, y = made.weights(share, evenness), made.all_rows()[1]
    for k in range(CLASSES):
        kinds = (made.own, made.given & ~made.own, ~made.given)
        own, source, guessed = (weights[kind & (y == k)] for kind in kinds)
        for rows in (own, source, guessed):
            assert not len(rows) or bool((rows - rows[0]).abs().max() < 1e-12)
        if len(own) and len(guessed):
            assert float(guessed[0] / own[0]) == pytest.approx(0.25)


@given(labels.filter(len), shares)
def test_at_evenness_zero_each_labelled_window_counts_as_much_as_any_other(
    own: list[int], share: float
) -> None:
    made = material(own, list(range(CLASSES)))
    weights = made.weights(share, evenness=0)[made.own]
    torch.testing.assert_close(weights, weights[:1].expand(len(own)))


@given(shares, st.integers(1, 5))
def test_exemplars_of_a_class_without_a_window_stand_in_for_it(share: float, count: int) -> None:
    made = material([0, 0, 1, 1], [*range(CLASSES), *[2] * (count - 1)])
    weights, y = made.weights(share, evenness=0), made.all_rows()[1]
    exemplars = ~made.own
    present = [float(w) for w in weights[exemplars & (y == 2)] - share / CLASSES / count]
    assert present == pytest.approx([float(weights[0])] * count, rel=1e-6), "as if it had a label"
    # class 0 has windows of its own: its exemplar has but its part of the share
    assert float(weights[exemplars & (y == 0)]) == pytest.approx(share / CLASSES)


def test_present_are_the_windows_the_guesses_and_what_stands_in() -> None:
    made = material([0, 1], [0, 1, 2, 3], [1, 0, 2])
    assert made.present.tolist() == [True] * 2 + [False, False, True, True] + [True] * 3
    assert made.own.tolist() == [True] * 2 + [False] * 7
    assert made.given.tolist() == [True] * 6 + [False] * 3
    x, y = made.all_rows()
    assert y.tolist() == [0, 1, 0, 1, 2, 3, 1, 0, 2]
    assert x[:, 0, 0].tolist() == y.tolist(), "each window beside its own class"


@given(materials(), shares)
def test_a_guess_does_not_take_the_place_of_a_class_without_a_label(
    made: Material, share: float
) -> None:
    known = set(made.y.tolist())
    exemplars = made.given & ~made.own
    y = made.all_rows()[1]
    assert made.present[exemplars].tolist() == [int(k) not in known for k in y[exemplars]]


def test_a_copy_on_a_device_is_whole() -> None:
    made = material([0, 1], [0, 1, 2, 3], [1])
    copy = made.to("cpu")
    assert copy.classes == CLASSES and copy.head == "head"
    assert torch.equal(copy.guessed_x, made.guessed_x) and torch.equal(copy.y, made.y)
