from __future__ import annotations

import numpy as np
import pytest

from benchmarks.faults import FAULTS, NAMES, WORN, touched


@pytest.mark.parametrize("name", FAULTS | WORN)
def test_a_fault_changes_a_copy_and_keeps_the_shape(name: str) -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((12, 6, 50)).astype(np.float32)
    before = x.copy()
    broken = (FAULTS | WORN)[name](x, rng)
    np.testing.assert_array_equal(x, before)
    assert broken.shape == x.shape and broken.dtype == x.dtype
    assert touched(x, broken).any()
    assert np.isfinite(broken).all()


def test_every_fault_has_a_name() -> None:
    assert NAMES.keys() == FAULTS.keys()
