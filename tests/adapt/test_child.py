"""The service's side of the training process, with real processes in its place."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from edgetuner.adapt import child
from edgetuner.adapt import job as jobs
from edgetuner.adapt.job import Ask, Job
from edgetuner.config import AdaptConfig
from edgetuner.errors import AdaptationError, BudgetError
from tests.awaiting import before_its_end
from tests.live import ROOT

SETTINGS = AdaptConfig(deadline_s=30, nice=7, threads=3)
FOR_EVER = "read -r line"  # until standard input closes


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a shell script run in place of the interpreter; gives the job it gets as $3."""

    def make(script: str, settings: AdaptConfig = SETTINGS) -> Job:
        program = tmp_path / "program"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(child.sys, "executable", os.fspath(program))
        path = tmp_path / "job"
        path.mkdir(exist_ok=True)
        ask = Ask(job="j", created="", why="", settings=settings)
        return Job(path, ask)

    return make


def train(job: Job, *allowed: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    told: list[dict[str, Any]] = []
    return asyncio.run(child.train(job, told.append, allowed)), told


RESULT = """echo '{"version": "a1"}' > $3/result.json"""


def test_its_progress_is_told_and_its_result_returned(stand_in: Any) -> None:
    job = stand_in(f"""echo '{{"rung": "head"}}'\n{RESULT}""")
    result, told = train(job)
    assert result == {"version": "a1"}
    assert told == [{"job": "j", "rung": "head"}]


def test_noise_on_its_output_is_passed_over(stand_in: Any) -> None:
    noise = "echo; echo hello; echo 17; head -c 300000 /dev/zero; echo; printf 'no end'"
    result, told = train(stand_in(f"""{noise}; echo; echo '{{"rung": "cores"}}'\n{RESULT}"""))
    assert result == {"version": "a1"} and told == [{"job": "j", "rung": "cores"}]


def test_the_most_memory_that_was_seen_is_told(
    stand_in: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than at its end, which is all that the process itself knows."""
    monkeypatch.setattr(child, "held_bytes", lambda _: 4096)
    at_end = """echo '{"version": "a1", "peak_held_bytes": 1}' > $3/result.json"""
    go_on = tmp_path / "go_on"
    os.mkfifo(go_on)
    job = stand_in(f"""echo '{{"rung": "head"}}'; read word < {go_on}; {at_end}""")

    def heard(_: dict[str, Any]) -> None:  # after the first look at its memory
        go_on.write_text("now\n")

    assert asyncio.run(child.train(job, heard))["peak_held_bytes"] == 4096


def test_it_is_nice_and_knows_its_threads_and_its_path_and_not_systemd(
    stand_in: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    monkeypatch.setenv("PYTHONPATH", "/mine")
    # It reads its own niceness until that has been set: the service sets it after the start.
    script = (
        "until [ $(nice) = 7 ]; do :; done\n"
        """echo "{\\"threads\\": \\"$OMP_NUM_THREADS\\", \\"notify\\": \\"$NOTIFY_SOCKET\\","\\\n"""
        """"\\"safe\\": \\"$PYTHONSAFEPATH\\", \\"path\\": \\"$PYTHONPATH\\"}"\n"""
        f"{RESULT}"
    )
    _, told = train(stand_in(script))
    assert told == [{"job": "j", "threads": "3", "notify": "", "safe": "1", "path": "/mine"}]


def test_it_is_told_which_factories_the_operator_allows(stand_in: Any) -> None:
    script = f"""for word; do echo "{{\\"word\\": \\"$word\\"}}"; done\n{RESULT}"""
    for allowed in ((), ("mine.nets:make", "other:make")):
        job = stand_in(script)
        _, told = train(job, *allowed)
        assert [line["word"] for line in told] == [
            *("-m", "edgetuner.adapt.worker", os.fspath(job.path)),
            *(f"--allow-factory={name}" for name in allowed),
        ]


@pytest.mark.parametrize("told", [True, False])  # Python 3.10 does not listen
def test_nothing_is_imported_from_the_folder_that_the_service_stands_in(
    told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, job, trace = tmp_path / "state", tmp_path / "job", tmp_path / "imported"
    state.mkdir()
    job.mkdir()
    for name in ("edgetuner", "json", "numpy"):
        (state / f"{name}.py").write_text(f"open({os.fspath(trace)!r}, 'w').close()\n")
    monkeypatch.chdir(state)
    monkeypatch.setenv("PYTHONPATH", os.path.relpath(ROOT, state))
    environment = child._environment(1)
    if not told:
        environment.pop("PYTHONSAFEPATH")
    monkeypatch.setattr(child, "_environment", lambda _: environment)
    with pytest.raises(AdaptationError):  # there is no base
        train(Job(job, Ask(job="j", created="", why="", settings=SETTINGS)))
    assert not trace.exists()
    assert "No module named 'edgetuner" not in (job / jobs.LOG).read_text()


@pytest.mark.parametrize(
    ("script", "ending"), [("exit 3", "exit code 3"), ("kill -9 $$", "signal 9"), ("", "code 0")]
)
def test_an_end_without_a_result_is_an_error(stand_in: Any, script: str, ending: str) -> None:
    with pytest.raises(AdaptationError, match=ending) as failed:
        train(stand_in(script))
    assert jobs.LOG in str(failed.value.remedy)


def test_what_it_says_on_standard_error_is_kept(stand_in: Any) -> None:
    job = stand_in("echo trouble >&2; exit 1")
    with pytest.raises(AdaptationError):
        train(job)
    assert (job.path / jobs.LOG).read_text() == "trouble\n"


def test_its_own_error_is_passed_on(stand_in: Any) -> None:
    error = json.dumps({"error": {"code": "model", "message": "no such layer"}})
    with pytest.raises(AdaptationError, match="no such layer"):
        train(stand_in(f"echo '{error}' > $3/result.json; exit 70"))


def test_it_is_killed_at_its_deadline(stand_in: Any) -> None:
    job = stand_in(f"echo $$ > $3/pid; {FOR_EVER}", SETTINGS.model_copy(update={"deadline_s": 0.3}))
    with pytest.raises(BudgetError) as failed:
        train(job)
    assert failed.value.field == "adapt.deadline_s"


def test_it_is_killed_at_its_memory_budget(stand_in: Any) -> None:
    hungry = "x=$(head -c 90000000 /dev/zero | tr '\\0' a); " + FOR_EVER
    job = stand_in(hungry, SETTINGS.model_copy(update={"memory_budget_mb": 64}))
    with pytest.raises(BudgetError) as failed:
        train(job)
    assert failed.value.field == "adapt.memory_budget_mb" and "64 MB" in str(failed.value)


def test_a_program_that_cannot_be_started_is_an_error(
    stand_in: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = stand_in("")
    monkeypatch.setattr(child.sys, "executable", "/nowhere/python")
    with pytest.raises(AdaptationError, match="cannot be started"):
        train(job)


def test_cancelling_kills_it(stand_in: Any) -> None:
    job = stand_in(f"""echo "{{\\"pid\\": $$}}"; {FOR_EVER}""")

    async def scene() -> int:
        told: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        task = asyncio.create_task(child.train(job, told.put_nowait))
        pid = (await before_its_end(task, told.get()))["pid"]
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return int(pid)

    assert not Path(f"/proc/{asyncio.run(scene())}").exists()
