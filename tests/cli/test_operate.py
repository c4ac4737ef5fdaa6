"""The operators' commands against a real service."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgetuner.bundle import Bundle, write_bundle
from edgetuner.cli.operate import _as_text
from edgetuner.protocol import StatusMessage
from edgetuner.registry import Registry
from tests import waves
from tests.cli.child import PATIENCE_S, ROOT, answer, complaint, edgetuner, imported
from tests.live import Live, Sensor


@pytest.fixture(scope="module")
def live(wave_bundle: Path) -> Iterator[Live]:
    """A service that has seen a few windows, and was sent one of a wrong shape."""
    with Live(wave_bundle, {"drift": {"enabled": False}}) as service:
        with service.client() as client:
            sensor = Sensor(client)
            sensor.label(sensor.publish(12))
        yield service


@pytest.fixture(scope="module")
def second(live: Live, wave_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The id of another version in the service's registry."""
    first = Bundle.load(wave_bundle)
    other = first.manifest.description.model_copy(
        update={"metrics": {"held_out_macro_f1": 0.5}, "parent": first.version}
    )
    bundle = write_bundle(tmp_path_factory.mktemp("second") / "b", first, other, prefix="second")
    return Registry(live.state_dir / "models").add(bundle.path)


def at(live: Live) -> tuple[str, ...]:
    return "-c", str(live.config_path)


# ------------------------------------------------------------------ status


def test_status_tells_all_in_json(live: Live) -> None:
    status = answer("status", *at(live))
    assert set(status) == {"state", "ingest", "model", "drift", "adaptation", "board"}
    assert status["state"]["predictions"] == 12
    stream = status["ingest"]["streams"]["watch-7/wrist"]
    assert (stream["accepted"], stream["labelled"]) == (12, 12)


def test_status_is_one_screen_for_a_person(live: Live) -> None:
    done = edgetuner("status", *at(live))
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert len(lines) < 24
    assert lines[0].split() == ["state", "watching"]
    assert "12 windows, 12 labels, 0 lost" in done.stdout
    row = next(line for line in lines if line.startswith("watch-7/wrist"))
    assert "%" in row and row.endswith("no drift")
    assert "\033" not in done.stdout


def test_an_address_is_enough(live: Live) -> None:
    address = live.sockets["control"]
    status = answer("status", "--address", address, environment={"EDGETUNER_CONFIG": "/absent"})
    assert status["state"]["predictions"] == 12


def test_the_environment_names_the_configuration(live: Live) -> None:
    environment = {"EDGETUNER_CONFIG": str(live.config_path)}
    assert answer("status", environment=environment)["state"]["predictions"] == 12


# ------------------------------------------------------------------ what is imported


@pytest.mark.parametrize(
    "command", ["status", "pause", "resume", "models list", "models show champion"]
)
def test_a_quick_answer_does_without_heavy_modules(live: Live, command: str) -> None:
    modules = imported(*command.split(), *at(live))
    assert "zmq" in modules
    assert not modules & {"torch", "numpy", "pydantic", "asyncio", "sqlite3"}


def test_tail_does_without_torch_or_numpy(live: Live) -> None:
    assert not imported("tail", "-n", "1", *at(live)) & {"torch", "numpy", "asyncio"}


@pytest.mark.parametrize("command", ["bundle show", "bundle verify"])
def test_a_bundle_is_read_without_torch(wave_bundle: Path, command: str) -> None:
    modules = imported(*command.split(), wave_bundle)
    assert "torch" not in modules and "zmq" not in modules


def test_a_configuration_is_checked_without_torch_or_sockets() -> None:
    modules = imported("validate-config", ROOT / "configs/default.yaml")
    assert not modules & {"torch", "zmq", "numpy"}


# ------------------------------------------------------------------ tail


def test_tail_shows_the_state_at_once(live: Live) -> None:
    done = edgetuner("tail", *at(live), "-n", 5)
    assert done.returncode == 0
    topics = {line.split()[1] for line in done.stdout.splitlines()}
    assert len(done.stdout.splitlines()) == 5
    assert "status.state" in topics
    assert all(topic.startswith("status.") for topic in topics)


def test_tail_in_json_is_one_message_a_line(live: Live) -> None:
    done = edgetuner("tail", *at(live), "--json", "-n", 12)
    messages = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(messages) == 12
    # a heartbeat may come between the subscription and its answer
    snapshot = next(one for one in messages if one["topic"] == "status.snapshot")
    assert snapshot["data"]["status.state"]["predictions"] == 12


def test_tail_follows_what_happens(live: Live) -> None:
    with _tail(live, "event.") as tail, live.client("watch-8"):
        _until_subscribed(live)
        answer("pause", *at(live))
        live.hang_up()
        assert tail.stdout is not None
        line = tail.stdout.readline()
        assert line.split()[1].startswith("event.reload")
        answer("resume", *at(live))
        tail.kill()


def test_tail_counts_labels_only_now_and_then() -> None:
    def waits(t: float, labels: int, why: str = "labelled windows") -> StatusMessage:
        data = {"state": "drifted", "deferred": f"{labels} {why}"}
        return StatusMessage(topic="status.adaptation", seq=0, t=t, boot_id="b", data=data)

    messages = [
        *(waits(0.0, 1), waits(1.0, 2), waits(2.0, 3), waits(11.0, 3)),
        *(waits(12.0, 4), waits(12.5, 4, "classes")),
    ]
    lines = [line.partition("waits: ")[2].split(";")[0] for line in _as_text(messages)]
    assert lines == ["1 labelled windows", "3 labelled windows", "4 classes"]


def test_tail_of_predictions(live: Live) -> None:
    with _tail(live, "prediction.watch-9.", "-n", "2", "--json") as tail:
        _until_subscribed(live)
        with live.client("watch-9") as client:
            Sensor(client).publish(2)
        said, complained = tail.communicate(timeout=PATIENCE_S)
    assert tail.returncode == 0, complained
    data = [json.loads(line)["data"] for line in said.splitlines()]
    assert [one["seq"] for one in data] == [0, 1]
    assert {one["predicted"] for one in data} <= set(waves.CLASSES)


def test_tail_ends_quietly_when_its_reader_goes(live: Live) -> None:
    """`edgetuner tail | head -1`, with the exit code of the first of the two."""
    with _tail(live, "--json") as tail:
        assert tail.stdout is not None and tail.stderr is not None
        assert tail.stdout.readline()
        tail.stdout.close()
        assert tail.wait(PATIENCE_S) == 0
        assert tail.stderr.read() == ""


def _tail(live: Live, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "edgetuner", "tail", *at(live), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def _until_subscribed(live: Live) -> None:
    """Whoever subscribes is answered with a snapshot, which all can hear."""
    assert live.heard is not None
    live.heard.forget()
    live.heard.wait("status.snapshot")


# ------------------------------------------------------------------ pause, adapt, models


def test_pause_and_resume(live: Live) -> None:
    assert answer("pause", *at(live))["state"] == "paused"
    assert complaint(75, "adapt", *at(live)).count("adapt: cannot begin")
    assert edgetuner("pause", *at(live)).stdout.startswith("paused; 0 begun")
    assert answer("resume", *at(live))["state"] == "watching"
    assert edgetuner("resume", *at(live)).stdout.startswith("watching; 0 begun")


def test_models_show(live: Live, wave_bundle: Path) -> None:
    shown = answer("models", "show", "champion", *at(live))
    assert shown["version"] == Bundle.load(wave_bundle).version
    assert shown["history"][0]["action"] == "installed"
    text = edgetuner("models", "show", "champion", *at(live)).stdout
    assert "3 channels: acc_x, acc_y, acc_z; windows of 32 samples at 32 Hz (1 s)" in text
    assert "installed: the configured bundle" in text
    assert "no such version" in complaint(65, "models", "show", "a-000000000000", *at(live))


def test_models_promote_and_roll_back(live: Live, second: str, wave_bundle: Path) -> None:
    first = Bundle.load(wave_bundle).version
    assert {row["version"] for row in _versions(live)} == {first, second}
    assert answer("models", "promote", second, "--reason", "a test", *at(live)) == {
        "champion": second
    }
    aliases = {row["version"]: row["alias"] for row in _versions(live)}
    assert aliases == {second: "champion", first: "previous"}
    shown = answer("models", "show", second, *at(live))
    assert shown["history"][-1]["reason"] == "a test"
    text = edgetuner("models", "list", *at(live)).stdout
    assert f"{second}" in text and "0.500" in text
    assert edgetuner("models", "rollback", *at(live)).stdout == f"{first} is live again\n"
    assert answer("status", *at(live))["state"]["model"] == first
    assert answer("models", "rollback", *at(live)) == {"live": second}
    edgetuner("models", "promote", first, *at(live))


def _versions(live: Live) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = answer("models", "list", *at(live))["versions"]
    return rows


def test_adapt_is_asked_for_and_waits_for_labels(live: Live) -> None:
    assert live.heard is not None
    assert answer("adapt", "--reason", "a test", *at(live)) == {"requested": True}
    live.heard.wait("event.deferred", lambda data: "labelled windows" in data["reason"])
    status = edgetuner("status", *at(live)).stdout
    assert "waits: " in status


# ------------------------------------------------------------------ colours


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_colours_are_for_terminals_that_want_them(
    live: Live, no_color: str, coloured: bool
) -> None:
    shown = _on_a_terminal(["status", *at(live)], {"NO_COLOR": no_color})
    assert "watch-7/wrist" in shown
    assert ("\033[" in shown) is coloured


def _on_a_terminal(arguments: list[str], environment: dict[str, str]) -> str:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "edgetuner", *arguments],
        stdout=theirs,
        cwd=ROOT,
        env={**os.environ, **environment},
    )
    os.close(theirs)
    shown = b""
    while select.select([ours], [], [], PATIENCE_S)[0]:
        try:
            shown += os.read(ours, 65536)
        except OSError:  # EIO: the other end is closed
            break
    os.close(ours)
    assert process.wait(PATIENCE_S) == 0
    return shown.decode()
