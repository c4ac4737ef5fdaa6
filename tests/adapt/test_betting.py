from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetuner.adapt.betting import least_share, wealth

counts = st.integers(0, 60)
shares = st.floats(0.02, 0.98)


@given(counts, counts, shares)
def test_at_fair_odds_nothing_is_won_in_the_mean(hits: int, misses: int, share: float) -> None:
    """It is a martingale, whatever came before: that is what makes it safe to look at any time."""
    after = share * wealth(hits + 1, misses, share) + (1 - share) * wealth(hits, misses + 1, share)
    assert after == pytest.approx(wealth(hits, misses, share), rel=1e-6)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.7])
def test_wealth_is_the_mean_over_the_stakes(share: float) -> None:
    q = share + (1 - share) * (np.arange(100_000) + 0.5) / 100_000
    for hits, misses in product(range(8), repeat=2):
        expected = np.mean((q / share) ** hits * ((1 - q) / (1 - share)) ** misses)
        assert wealth(hits, misses, share) == pytest.approx(expected, rel=1e-6)


def test_what_it_takes_at_even_odds() -> None:
    assert wealth(0, 0) == pytest.approx(1)
    assert wealth(5, 0) == pytest.approx(10.5), "2^6 - 1 over 6"
    assert wealth(4, 0) < 10 < wealth(8, 1)


@given(counts, counts, shares, shares)
def test_it_falls_as_more_is_taken_for_fair(hits: int, misses: int, a: float, b: float) -> None:
    low, high = sorted((a, b))
    assert wealth(hits, misses, low) >= wealth(hits, misses, high) * (1 - 1e-9)


@given(counts, counts, st.floats(0.01, 0.5))
def test_the_least_share_is_where_a_gambler_has_made_that_much(
    hits: int, misses: int, alpha: float
) -> None:
    low = least_share(hits, misses, alpha)
    assert 0 <= low <= (hits / (hits + misses) if hits else 0) + 1e-6
    if low > 1e-6:  # it is known to a billionth
        assert (
            wealth(hits, misses, low - 2e-9) * alpha > 1 > wealth(hits, misses, low + 2e-9) * alpha
        )
    if abs(wealth(hits, misses) * alpha - 1) > 1e-3:
        assert (low > 0.5) == (wealth(hits, misses) * alpha > 1)


@pytest.mark.parametrize("q", [0.5, 0.4])
def test_who_is_no_better_hardly_ever_seems_so_though_he_is_looked_at_always(q: float) -> None:
    """4,000 of them without an end, on 200 windows that tell the two apart."""
    hits = np.cumsum(np.random.default_rng(3).random((4000, 200)) < q, axis=1)
    reached = np.array(
        [[wealth(k, n - k) for k in range(n + 1)] + [0.0] * (200 - n) for n in range(1, 201)]
    ) >= 20  # fmt: skip
    wrong = reached[np.arange(200), hits].any(axis=1).mean()
    assert wrong <= 0.05
    if q == 0.5:
        assert wrong > 0.02, "and the bound is not idle"


def test_the_least_share_holds_at_every_label_at_once() -> None:
    hits = np.cumsum(np.random.default_rng(5).random((400, 60)) < 0.7, axis=1)
    lows = {(k, n): least_share(k, n - k, 0.1) for n in range(1, 61) for k in range(n + 1)}
    missed = [any(lows[int(k), n + 1] > 0.7 for n, k in enumerate(run)) for run in hits]
    assert np.mean(missed) <= 0.1


def test_thousands_of_windows_are_no_trouble() -> None:
    assert wealth(4000, 0) > 1e300 and wealth(0, 4000) == pytest.approx(1 / 4001)
    assert 0.72 < least_share(3000, 1000, 0.1) < 0.75
