from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetuner.adapt import job as jobs
from edgetuner.adapt.job import HOLDOUT, NEITHER, TRAIN, Ask, Job, Windows, split
from edgetuner.config import AdaptConfig
from edgetuner.errors import AdaptationError, StoreError


def windows(count: int = 6) -> Windows:
    return Windows(
        x=np.arange(count * 6, dtype=np.float32).reshape(count, 2, 3),
        y=np.array([0, 1, -1, 0, 1, -1][:count]),
        stream=np.zeros(count, np.int64),
        t_ns=np.arange(count) * 10**9,
        split=np.array([TRAIN, TRAIN, TRAIN, HOLDOUT, HOLDOUT, NEITHER][:count]),
        served=np.array([0, 0, -1, 0, 2, -1][:count]),
    )


def ask(name: str = "20260101T000000-0001") -> Ask:
    return Ask(job=name, created="2026-01-01T00:00:00+00:00", why="", settings=AdaptConfig())


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "manifest.json").write_text("{}")
    return folder


def test_both_sides_read_the_same_job(tmp_path: Path, base: Path) -> None:
    made = Job.create(tmp_path / "jobs", ask(), base, windows())
    read = Job.open(made.path)
    assert read.ask == made.ask
    assert (read.path / jobs.BASE / "manifest.json").exists()
    for name, array in vars(windows()).items():
        got = getattr(read.windows(), name)
        assert got.dtype == array.dtype and np.array_equal(got, array)


def test_what_was_served_is_known_of_windows_held_out_unless_the_job_is_old() -> None:
    assert windows().held_served().tolist() == [0, 2]
    assert len(replace(windows(), served=None).held_served()) == 0


def test_a_job_without_what_was_served_is_read(tmp_path: Path, base: Path) -> None:
    made = Job.create(tmp_path / "jobs", ask(), base, replace(windows(), served=None))
    assert Job.open(made.path).windows().served is None


def test_a_job_of_an_older_version_is_read_without_its_list_of_factories(
    tmp_path: Path, base: Path
) -> None:
    job = Job.create(tmp_path / "jobs", ask(), base, windows())
    asked = json.loads((job.path / jobs.JOB).read_text())
    assert "allow_factories" not in asked
    (job.path / jobs.JOB).write_text(json.dumps({**asked, "allow_factories": ["planted:build"]}))
    read = Job.open(job.path)
    assert read.ask == job.ask and "planted" not in repr(read.ask)
    (job.path / jobs.JOB).write_text(json.dumps({**asked, "allow_everything": True}))
    with pytest.raises(AdaptationError, match="allow_everything"):
        Job.open(job.path)


def test_labelled_and_unlabelled_windows_are_told_apart() -> None:
    x, y = windows().labelled(HOLDOUT)
    assert y.tolist() == [0, 1] and np.array_equal(x, windows().x[3:5])
    assert np.array_equal(windows().unheld(), windows().x[:3])


def test_a_result_is_there_whole_or_not_at_all(tmp_path: Path, base: Path) -> None:
    job = Job.create(tmp_path / "jobs", ask(), base, windows())
    assert job.result() is None
    (job.path / jobs.RESULT).write_text('{"version": "a')
    assert job.result() is None
    job.write_result({"version": "a1"})
    assert job.result() == {"version": "a1"}


def test_a_damaged_job_is_refused(tmp_path: Path, base: Path) -> None:
    job = Job.create(tmp_path / "jobs", ask(), base, windows())
    (job.path / jobs.WINDOWS).write_bytes(b"\x01" * 50)
    with pytest.raises(AdaptationError, match=r"windows\.safetensors"):
        job.windows()
    for text in ("", "{}", "[]", '{"job": 1}'):
        (job.path / jobs.JOB).write_text(text)
        with pytest.raises(AdaptationError, match="not a job directory"):
            Job.open(job.path)
    with pytest.raises(AdaptationError):
        Job.open(tmp_path / "nowhere")


def test_a_job_that_cannot_be_written_leaves_nothing(tmp_path: Path, base: Path) -> None:
    with pytest.raises(StoreError) as refused:
        Job.create(tmp_path / "jobs", ask(), tmp_path / "no-base", windows())
    assert refused.value.remedy
    assert list((tmp_path / "jobs").iterdir()) == []


def test_the_oldest_jobs_go(tmp_path: Path, base: Path) -> None:
    folder = tmp_path / "jobs"
    jobs.prune(folder, 2)  # not there yet
    for number in range(4):
        Job.create(folder, ask(f"20260101T000000-{number:04d}"), base, windows())
    jobs.prune(folder, 2)
    assert sorted(p.name[-1] for p in folder.iterdir()) == ["2", "3"]


@given(st.data())
def test_a_split_shares_no_sample_between_training_and_gate(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 40))
    column = st.lists(st.integers(-1, 2), min_size=n, max_size=n)
    y = np.array(data.draw(column))
    stream = np.array(data.draw(column))
    t_ns = np.cumsum(data.draw(st.lists(st.integers(0, 15), min_size=n, max_size=n)))
    parts = split(y, stream, t_ns, share=0.3, window_ns=10)

    held, trained = parts == HOLDOUT, parts == TRAIN
    assert (y[held] >= 0).all(), "only what is labelled can be judged by"
    same = stream[:, None] == stream[None, :]
    near = np.abs(t_ns[:, None] - t_ns[None, :]) < 10
    assert not (same & near & held[:, None] & trained[None, :]).any()
    alone = ~(same & near & held[:, None]).any(0)
    assert (trained | held)[alone].all(), "nothing is left out without need"
    for label in range(3):
        mine = y == label
        expected = min(mine.sum() - 1, np.ceil(0.3 * mine.sum())) if mine.any() else 0
        assert (mine & held).sum() == expected
        if (mine & held).any():
            assert t_ns[mine & held].min() >= t_ns[mine & ~held].max(), "the last in time"


def test_a_clock_that_jumps_makes_no_window_older_or_newer() -> None:
    y = np.arange(40) % 2
    t_ns = np.arange(40) * 10**9
    t_ns[20:] -= 3600 * 10**9  # set right, an hour back
    t_ns[30] += 10**18  # and once far ahead
    parts = split(y, np.zeros(40, np.int64), t_ns, share=0.3, window_ns=10**9)
    assert np.flatnonzero(parts == HOLDOUT).tolist() == list(range(28, 40)), "the last to arrive"
    assert (parts[:28] == TRAIN).all()
