from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgetuner.drift.life import Life, bouts_of
from tests.drift.synthetic import reference


def test_bouts_last_two_seconds_to_twenty_minutes() -> None:
    assert bouts_of(5.0) == (1, 240)
    assert bouts_of(0.5) == (4, 2400)


def test_a_bout_is_a_stretch_of_one_recording_and_a_stream_is_of_one_person() -> None:
    home = reference(np.random.default_rng(0))
    home = replace(home, held_wearer=home.held_recording % 3)
    windows, since = Life(home).play(np.random.default_rng(1), (20, 500), (2, 40))
    for row, place in zip(windows, since, strict=True):
        assert len(np.unique(home.held_wearer[row])) == 1
        within = place[1:] > 0
        recording = home.held_recording[row]
        assert (recording[1:][within] == recording[:-1][within]).all()
        steps = np.diff(row)[within]
        assert ((steps == 1) | (steps == -23)).all()  # on, or round to its beginning
    assert (windows[:, 0] != windows[0, 0]).any()


def test_bouts_are_as_long_as_asked() -> None:
    home = reference(np.random.default_rng(0))
    _, since = Life(home).play(np.random.default_rng(1), (50, 2000), (5, 9))
    starts = [np.flatnonzero(row == 0) for row in since]
    lengths = np.concatenate([np.diff(row) for row in starts])
    assert set(lengths.tolist()) == {5, 6, 7, 8, 9}
