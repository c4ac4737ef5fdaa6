from __future__ import annotations

import pytest

from edgetuner.drift.histogram import WINDOWS, Histogram

HOME = [0] * 50 + [1] * 50


def fed(classes: list[int]) -> Histogram:
    histogram = Histogram(HOME, 3)
    for predicted in classes:
        histogram.update(predicted)
    return histogram


def test_nothing_is_told_before_the_first_window() -> None:
    assert fed([]).stability_index is None


def test_the_same_shares_as_at_home_are_stable() -> None:
    assert fed([0, 1] * 500).stability_index == pytest.approx(0, abs=0.03)


def test_a_day_of_one_thing_is_far_from_home() -> None:
    assert (fed([2] * 500).stability_index or 0) > 1


def test_only_the_latest_windows_count() -> None:
    histogram = fed([2] * WINDOWS + [0, 1] * (WINDOWS // 2))
    assert histogram.counts == (WINDOWS // 2, WINDOWS // 2, 0)
