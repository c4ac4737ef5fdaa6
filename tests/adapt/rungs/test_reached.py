from __future__ import annotations

import math
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from hypothesis import assume, given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from edgetuner.adapt.rungs.reached import LeftOut  # noqa: E402

errors = st.lists(st.tuples(st.floats(0, 4), st.floats(0, 4)), min_size=5, max_size=40)


def left_out(squares: list[float]) -> LeftOut:
    count = len(squares)
    return LeftOut(
        torch.tensor(squares).double(),
        torch.zeros(count, dtype=torch.int64),
        torch.ones(count).double(),
    )


def test_a_lead_is_the_mean_gain_in_standard_errors() -> None:
    ours, theirs = left_out([0.0] * 5), left_out([1.0, 2.0, 3.0, 4.0, 10.0])
    # of 1, 2, 3, 4, 10: mean 4, variance 50/4, so 4 / sqrt(50/4 / 5)
    assert ours.lead(theirs) == pytest.approx(4 / math.sqrt(50 / 20))


def test_a_window_leads_as_much_as_it_counts() -> None:
    ours, theirs = left_out([0.0, 0.1] * 3), left_out([1.0, 0.0] * 3)
    assert ours.lead(theirs) > 0
    counts = torch.tensor([0.01, 1.0] * 3).double()
    light = [replace(one, counts=counts) for one in (ours, theirs)]
    assert light[0].lead(light[1]) < 0, "what the three big gains count is next to nothing"


def test_four_windows_are_too_few_to_tell() -> None:
    assert left_out([0.0] * 4).lead(left_out([1.0] * 4)) == 0


@given(errors)
def test_a_lead_is_turned_round_with_the_two(pairs: list[tuple[float, float]]) -> None:
    ours, theirs = (left_out([pair[side] for pair in pairs]) for side in (0, 1))
    assert ours.lead(theirs) == pytest.approx(-theirs.lead(ours))
    gain = sum(b - a for a, b in pairs)
    assume(abs(gain) > 1e-9)
    assert (ours.lead(theirs) > 0) == (gain > 0)


@given(errors)
def test_the_same_windows_four_times_over_are_twice_the_evidence(
    pairs: list[tuple[float, float]],
) -> None:
    gains = torch.tensor([b - a for a, b in pairs]).double()
    assume(float(gains.std()) > 1e-3)
    ours, theirs = (left_out([pair[side] for pair in pairs]) for side in (0, 1))
    many = [left_out([pair[side] for pair in pairs] * 4) for side in (0, 1)]
    n = len(pairs)
    expected = 2 * ours.lead(theirs) * math.sqrt((4 * n - 1) / (4 * n - 4))
    assert many[0].lead(many[1]) == pytest.approx(expected)


@pytest.mark.parametrize("count", [5, 9])
def test_a_gain_without_spread_is_certain_and_none_is_none(count: int) -> None:
    low, high = left_out([0.25] * count), left_out([0.5] * count)
    assert low.lead(high) == math.inf
    assert high.lead(low) == -math.inf
    assert low.lead(low) == 0.0
