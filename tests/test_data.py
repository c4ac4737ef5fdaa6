from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetuner.data import WindowSet, load, parse_selectors
from edgetuner.errors import DataError, UsageError

SHARED = Path(__file__).parents[2] / "shared" / "data"


def window_set(counts: dict[tuple[int, int], int], channels: int = 6) -> WindowSet:
    """`counts[subject, class]` windows each, in a shuffled order of rows."""
    rng = np.random.default_rng(0)
    rows = np.array([(s, k, t) for (s, k), n in counts.items() for t in range(n)])
    rows = rng.permutation(rows)
    return WindowSet(
        x=rng.normal(size=(len(rows), channels, 8)).astype(np.float32),
        y=rows[:, 1].copy(),
        classes=("rest", "walk", "run"),
        channels=tuple(f"c{c}" for c in range(channels)),
        hz=50.0,
        groups={"subject": rows[:, 0].copy(), "t": rows[:, 2].copy()},
    )


@pytest.fixture
def windows() -> WindowSet:
    return window_set({(s, k): 10 for s in (1, 2, 3) for k in range(3)})


@pytest.fixture
def archive(windows: WindowSet) -> dict[str, Any]:
    return {
        "X": windows.x.astype(np.float16),
        "y": windows.y,
        "classes": np.array(windows.classes),
        "channels": np.array(windows.channels),
        "hz": np.float64(50),
        "subject": windows.groups["subject"],
        "t": windows.groups["t"],
    }


def test_select_keeps_the_rows_asked_for(windows: WindowSet) -> None:
    chosen = windows.select(subject=[1, 3])
    assert len(chosen) == 60
    assert set(chosen.groups["subject"]) == {1, 3}
    rows = np.isin(windows.groups["subject"], [1, 3])
    np.testing.assert_array_equal(chosen.x, windows.x[rows])
    np.testing.assert_array_equal(chosen.groups["t"], windows.groups["t"][rows])


@pytest.mark.parametrize(
    ("selectors", "field"),
    [({"wrist": 1}, "wrist"), ({"subject": 9}, "subject"), ({"subject": "anna"}, "subject")],
)
def test_select_refuses_what_is_not_there(
    windows: WindowSet, selectors: dict[str, Any], field: str
) -> None:
    with pytest.raises(DataError) as caught:
        windows.select(**selectors)
    assert caught.value.field == field


def test_position_by_name(windows: WindowSet) -> None:
    position = windows.groups["subject"] % 2
    worn = replace(
        windows, groups={**windows.groups, "position": position}, positions=("left", "right")
    )
    np.testing.assert_array_equal(worn.select(position="right").x, worn.select(position=1).x)
    with pytest.raises(DataError, match=r"left.*right"):
        worn.select(position="ankle")


def test_position_selects_channels_where_positions_are_channels(windows: WindowSet) -> None:
    worn = replace(
        windows,
        channels=("torso_x", "torso_y", "torso_z", "arm_x", "arm_y", "arm_z"),
        positions=("torso", "arm"),
        channel_position=(0, 0, 0, 1, 1, 1),
    )
    arm = worn.select(position=1, subject=2)
    assert arm.channels == ("x", "y", "z")
    np.testing.assert_array_equal(arm.x, worn.x[worn.groups["subject"] == 2][:, 3:])
    assert set(arm.groups["position"]) == {1}
    assert worn.select(position="arm").channels == ("x", "y", "z")
    with pytest.raises(DataError, match="no channel at this position"):
        worn.channels_of(2)
    with pytest.raises(DataError, match="single position"):
        worn.select(position=[0, 1])


def test_recordings_are_in_time_order(windows: WindowSet) -> None:
    recordings = windows.recordings()
    assert len(recordings) == 9
    for rows in recordings:
        assert len(set(windows.y[rows])) == len(set(windows.groups["subject"][rows])) == 1
        np.testing.assert_array_equal(windows.groups["t"][rows], np.arange(10))


@given(
    st.dictionaries(
        st.tuples(st.integers(1, 3), st.integers(0, 2)), st.integers(1, 30), min_size=1
    ),
    st.floats(0.05, 0.95),
    st.integers(0, 4),
)
def test_split_by_time_leaves_a_gap(
    counts: dict[tuple[int, int], int], fraction: float, gap: int
) -> None:
    windows = window_set(counts, channels=1)
    try:
        earlier, later = windows.split_by_time(fraction, gap)
    except DataError as error:
        assert error.field == "fraction"
        return
    for (subject, k), n in counts.items():
        before, after = (
            side.groups["t"][(side.groups["subject"] == subject) & (side.y == k)]
            for side in (earlier, later)
        )
        assert len(after) == int(n * fraction)
        if len(before) and len(after):
            assert after.min() - before.max() == gap + 1
        if not len(after):
            assert len(before) == n


@pytest.mark.parametrize(("fraction", "gap"), [(0, 1), (1, 1), (0.2, -1)])
def test_split_by_time_refuses_nonsense(windows: WindowSet, fraction: float, gap: int) -> None:
    with pytest.raises(UsageError):
        windows.split_by_time(fraction, gap)


def test_split_needs_time(windows: WindowSet) -> None:
    with pytest.raises(DataError, match="t: is missing"):
        replace(windows, groups={}).split_by_time(0.2)


def test_normalisation_whitens(windows: WindowSet) -> None:
    shifted = replace(windows, x=windows.x * 3 + np.arange(6, dtype=np.float32)[:, None])
    mean, std = shifted.normalisation()
    assert mean.dtype == std.dtype == np.float32
    scaled = (shifted.x - mean[:, None]) / std[:, None]
    np.testing.assert_allclose(scaled.mean((0, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(scaled.std((0, 2)), 1, atol=1e-5)


def test_a_constant_channel_cannot_be_normalised(windows: WindowSet) -> None:
    x = windows.x.copy()
    x[:, 2] = 9.81
    with pytest.raises(DataError, match="channel c2: is constant"):
        replace(windows, x=x).normalisation()


def test_load_reads_half_precision(tmp_path: Path, archive: dict[str, Any]) -> None:
    np.savez(tmp_path / "w.npz", **archive)
    loaded = load(tmp_path / "w.npz")
    assert loaded.x.dtype == np.float32
    np.testing.assert_array_equal(loaded.x, archive["X"].astype(np.float32))
    assert loaded.classes == ("rest", "walk", "run")
    assert set(loaded.groups) == {"subject", "t"}
    assert loaded.hz == 50


def _without(key: str) -> Any:
    return lambda archive: archive.pop(key)


def _with(key: str, value: Any) -> Any:
    return lambda archive: archive.update({key: value})


def _nan(archive: dict[str, Any]) -> None:
    archive["X"][7, 1, 3] = np.nan


@pytest.mark.parametrize(
    ("spoil", "key"),
    [
        *[(_without(key), key) for key in ("X", "y", "classes", "channels", "hz")],
        (_with("X", np.zeros((90, 6), np.float16)), "X"),
        (_with("X", np.zeros((90, 6, 8), np.int64)), "X"),
        (_nan, "X"),
        (_with("y", np.zeros(3, np.int64)), "y"),
        (_with("y", np.full(90, 3)), "y"),
        (_with("y", np.full(90, -1)), "y"),
        (_with("y", np.zeros(90)), "y"),
        (_with("subject", np.zeros((90, 2), np.int64)), "subject"),
        (_with("classes", np.array([0, 1, 2])), "classes"),
        (_with("classes", np.array(["a", "a", "b"])), "classes"),
        (_with("channels", np.array(["x", "y"])), "channels"),
        (_with("channel_position", np.array([0, 1])), "channel_position"),
        (_with("hz", np.float64(0)), "hz"),
        (_with("hz", np.float64("nan")), "hz"),
        (_with("hz", np.array([1.0, 2.0])), "hz"),
    ],
)
def test_load_names_the_key_that_is_wrong(
    tmp_path: Path, archive: dict[str, Any], spoil: Any, key: str
) -> None:
    spoil(archive)
    np.savez(tmp_path / "w.npz", **archive)
    with pytest.raises(DataError) as caught:
        load(tmp_path / "w.npz")
    assert caught.value.field == f"{tmp_path / 'w.npz'}: {key}"


class _Bomb:
    def __reduce__(self) -> Any:
        return (pytest.fail, ("the archive was unpickled",))


def test_load_never_unpickles(tmp_path: Path, archive: dict[str, Any]) -> None:
    archive["note"] = np.array(_Bomb(), dtype=object)
    np.savez(tmp_path / "w.npz", **archive)
    with pytest.raises(DataError, match="plain arrays"):
        load(tmp_path / "w.npz")
    (tmp_path / "p.npz").write_bytes(pickle.dumps(_Bomb()))
    with pytest.raises(DataError, match="plain arrays"):
        load(tmp_path / "p.npz")


def test_load_refuses_other_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        load(tmp_path / "none.npz")
    np.save(tmp_path / "a.npy", np.zeros(3))
    (tmp_path / "short.npz").write_bytes(b"PK\x03\x04")
    for name in ("a.npy", "short.npz"):
        with pytest.raises(DataError, match="npz"):
            load(tmp_path / name)


def test_parse_selectors() -> None:
    assert parse_selectors("position=1,subject=1,2") == {"position": [1], "subject": [1, 2]}
    assert parse_selectors("position=left_wrist") == {"position": ["left_wrist"]}
    assert parse_selectors("") == {}


@pytest.mark.parametrize("text", ["1,2", "subject=", "=3"])
def test_parse_selectors_refuses(text: str) -> None:
    with pytest.raises(UsageError, match="position=1"):
        parse_selectors(text)


@pytest.mark.skipif(not (SHARED / "dsads.npz").exists(), reason="data set is not here")
def test_dsads_right_arm() -> None:
    arm = load(SHARED / "dsads.npz").select(position="right_arm", subject=[1, 2])
    assert arm.x.shape == (2280, 6, 125)
    assert arm.channels == ("acc_x", "acc_y", "acc_z", "gyr_x", "gyr_y", "gyr_z")
