from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import pytest

from edgetuner.errors import DataError, UsageError
from edgetuner.recordings import WindowRule, load_recordings

RULE = WindowRule(
    length=4, hop=2, label="what", time="s", channels=("x", "y"), groups=("who",), hz=10.0
)


def write(path: Path, labels: str, *, times: list[float] | None = None, who: int = 7) -> Path:
    """One sample a letter of `labels`; `.` is none. x counts the samples, y is 100 more."""
    times = times or [i / 10 for i in range(len(labels))]
    with path.open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["s", "x", "y", "what", "who", "remark"])
        for i, (s, label) in enumerate(zip(times, labels, strict=True)):
            table.writerow([s, i, 100 + i, label.strip("."), who, "a, b"])
    return path


def test_windows_of_one_label(tmp_path: Path) -> None:
    windows = load_recordings([write(tmp_path / "a.csv", "rrrrrrr")], RULE)
    assert windows.x.shape == (2, 2, 4)
    np.testing.assert_array_equal(windows.x[:, 0], [[0, 1, 2, 3], [2, 3, 4, 5]])
    np.testing.assert_array_equal(windows.x[:, 1], windows.x[:, 0] + 100)
    assert windows.x.dtype == np.float32
    assert windows.classes == ("r",)
    assert windows.groups["who"].tolist() == [7, 7]
    assert windows.groups["t"].tolist() == [0, 1]


def test_a_window_needs_one_label_throughout(tmp_path: Path) -> None:
    windows = load_recordings([write(tmp_path / "a.csv", "wwwwwrrr....wwww")], RULE)
    # five of w hold one window, three of r none, unlabelled samples none
    assert [windows.classes[k] for k in windows.y] == ["w", "w"]
    assert windows.x[:, 0, 0].tolist() == [0, 12]


def test_a_gap_ends_a_window(tmp_path: Path) -> None:
    times = [0, 0.1, 0.2, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    windows = load_recordings([write(tmp_path / "a.csv", "r" * 9, times=times)], RULE)
    assert windows.x[:, 0, 0].tolist() == [3, 5]


def test_time_that_runs_backwards_ends_a_window(tmp_path: Path) -> None:
    times = [0, 0.1, 0.2, 0.3, 0.2, 0.3, 0.4, 0.5]
    windows = load_recordings([write(tmp_path / "a.csv", "r" * 8, times=times)], RULE)
    assert windows.x[:, 0, 0].tolist() == [0, 4]


def test_files_are_recordings(tmp_path: Path) -> None:
    paths = [
        write(tmp_path / "a.csv", "rrrr", who=1),
        write(tmp_path / "b.csv", "wwwwww", who=2),
    ]
    windows = load_recordings(paths, RULE)
    assert windows.classes == ("r", "w")
    assert windows.groups["recording"].tolist() == [0, 1, 1]
    assert windows.groups["who"].tolist() == [1, 2, 2]
    assert len(windows.recordings()) == 2


def test_parquet_gives_the_same(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    labels = ["w"] * 5 + ["r"] * 3 + [None] * 4 + ["w"] * 4
    columns = {
        "s": np.arange(16) / 10,
        "x": np.arange(16),
        "y": np.arange(16) + 100.0,
        "what": labels,
        "who": [7] * 16,
    }
    parquet.write_table(pa.table(columns), tmp_path / "a.parquet")
    got = load_recordings([tmp_path / "a.parquet"], RULE)
    want = load_recordings([write(tmp_path / "a.csv", "wwwwwrrr....wwww")], RULE)
    np.testing.assert_array_equal(got.x, want.x)
    np.testing.assert_array_equal(got.y, want.y)
    assert {k: v.tolist() for k, v in got.groups.items()} == {
        k: v.tolist() for k, v in want.groups.items()
    }


def test_parquet_without_pyarrow_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"edgetuner\[parquet\]"):
        load_recordings([tmp_path / "a.parquet"], RULE)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("s,x,what,who\n0,1,r,1\n", "column y: is missing"),
        ("s,x,y,what,who\n0,one,2,r,1\n", "x: is not a number"),
        ("s,x,y,what,who\n0,nan,2,r,1\n", "x: is not finite"),
        ("s,x,y,what,who\n0,1,2,r,1.5\n", "who: is not a whole number"),
        ("s,x,y,what,who\n0,1,2,r\n", "line 2 has 4 fields"),
        ("s,x,y,what,who\n0,1,2,r,1\n", "no stretch of one label"),
        ("", "is missing"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        load_recordings([tmp_path / "a.csv"], RULE)


def test_bad_paths_are_named(tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"not parquet")
    (tmp_path / "latin.csv").write_bytes(b"s,x\xff\n")
    for name, message in (
        ("none.csv", "does not exist"),
        ("a.txt", "is no recording"),
        ("bad.parquet", "cannot be read"),
        ("latin.csv", "cannot be read"),
    ):
        with pytest.raises(DataError, match=message):
            load_recordings([tmp_path / name], RULE)


def test_rules_that_make_no_sense() -> None:
    for changes in ({"hop": 0}, {"hz": float("nan")}, {"channels": ()}, {"groups": ("t",)}):
        with pytest.raises(UsageError):
            WindowRule(**{**vars(RULE), **changes})


@pytest.mark.parametrize(("length", "hop", "gap"), [(128, 64, 1), (128, 128, 0), (128, 50, 2)])
def test_gap_keeps_windows_apart(length: int, hop: int, gap: int) -> None:
    assert WindowRule(**{**vars(RULE), "length": length, "hop": hop}).gap == gap
    assert (gap + 1) * hop >= length > gap * hop
