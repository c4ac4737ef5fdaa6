import numpy as np
import pytest

from edgetuner.metrics import macro_f1


def test_f1_of_a_hand_counted_confusion() -> None:
    y = np.array([0, 0, 0, 1, 1, 2])
    predicted = np.array([0, 0, 1, 1, 1, 0])
    # class 0: 2 hits of 3 and 3; class 1: 2 of 2 and 3; class 2: 0 of 1 and 0
    assert macro_f1(y, predicted) == pytest.approx((4 / 6 + 4 / 5 + 0) / 3)


def test_a_class_that_never_occurs_does_not_count() -> None:
    assert macro_f1(np.array([0, 0]), np.array([0, 3])) == pytest.approx(2 / 3)


def test_no_windows_have_no_f1() -> None:
    with pytest.raises(ValueError, match="no windows"):
        macro_f1(np.array([], np.int64), np.array([], np.int64))
