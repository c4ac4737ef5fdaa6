"""Streams of bouts keep the order of time within a bout, and change the activity between them."""

import numpy as np
import pytest

from benchmarks.bouts import Bouts, ends, played, played_once
from edgetuner.data import WindowSet

HOP_S = 5.0
PER_RECORDING = 12


@pytest.fixture
def windows():
    """Three activities of two people, twelve windows each."""
    y, subject, t = np.meshgrid(range(3), (1, 2), range(PER_RECORDING), indexing="ij")
    return WindowSet(
        x=np.random.default_rng(0).normal(size=(y.size, 3, 8)).astype(np.float32),
        y=y.ravel(),
        classes=("walk", "sit", "lie"),
        channels=("x", "y", "z"),
        hz=8 / HOP_S,
        groups={"subject": subject.ravel(), "t": t.ravel()},
    )


def test_lengths_of_bouts_are_log_uniform_between_their_bounds():
    bouts, draw = Bouts(10, 1000), np.random.default_rng(0)
    lengths = np.array([bouts.windows(draw, 1.0) for _ in range(4000)])
    assert lengths.min() >= 10 and lengths.max() <= 1000
    assert np.median(lengths) == pytest.approx(100, rel=0.1)
    assert lengths.mean() == pytest.approx(990 / np.log(100), rel=0.1)
    assert Bouts(2, 2.001).windows(draw, 5.0) == 1, "no bout is without a window"


def test_neighbours_in_a_bout_are_neighbours_in_time_and_of_one_recording(windows):
    rows = played(windows, 2000, Bouts(), HOP_S, np.random.default_rng(0))
    assert len(rows) == 2000
    y, t, subject = windows.y[rows], windows.groups["t"][rows], windows.groups["subject"][rows]
    edges = list(ends(y))
    assert max(last - first for first, last in edges) > PER_RECORDING, "or nothing was played back"
    for first, last in edges:
        assert set(np.abs(np.diff(t[first:last]))) <= {1}
        assert len(set(subject[first:last])) == 1


def test_another_draw_plays_another_stream(windows):
    streams = [played(windows, 300, Bouts(), HOP_S, np.random.default_rng(s)) for s in (0, 0, 1)]
    assert np.array_equal(streams[0], streams[1])
    assert not np.array_equal(streams[0], streams[2])


def test_played_once_no_window_comes_twice_and_none_is_left_out(windows):
    rows = played_once(windows, 10_000, Bouts(), HOP_S, np.random.default_rng(0))
    assert sorted(rows.tolist()) == list(range(len(windows)))
    for first, last in ends(windows.y[rows]):
        within = [
            r for r in rows[first:last] if windows.groups["subject"][r] == 1
        ]  # two recordings may meet at the end, when one activity is left
        assert np.all(np.diff(windows.groups["t"][within]) == 1)


def test_a_recording_of_one_window_is_played_as_long_as_the_bout_lasts(windows):
    alone = windows.take(windows.groups["t"] == 0)
    rows = played(alone, 500, Bouts(100, 200), HOP_S, np.random.default_rng(0))
    lengths = [last - first for first, last in ends(alone.y[rows])]
    assert min(lengths[:-1]) >= 20
    assert all(len(set(rows[first:last])) == 1 for first, last in ends(alone.y[rows]))
