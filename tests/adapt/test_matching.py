from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetuner.adapt.matching import best_matching


@given(st.integers(0, 10_000), st.integers(1, 6), st.booleans())
def test_no_other_matching_gains_more(seed: int, size: int, ties: bool) -> None:
    gain = np.random.default_rng(seed).normal(size=(size, size))
    if ties:
        gain = np.round(gain)
    found = best_matching(gain)
    assert sorted(found) == list(range(size))
    rows = np.arange(size)
    best = max(gain[rows, list(columns)].sum() for columns in permutations(range(size)))
    assert gain[rows, found].sum() == pytest.approx(best)
