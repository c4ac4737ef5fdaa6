"""A whole adaptation in the living service: drift, training, gate, swap, probation, and back."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from edgetuner.bundle import Bundle  # noqa: E402
from edgetuner.errors import BusyError  # noqa: E402
from tests import waves  # noqa: E402
from tests.live import PATIENCE_S, Heard, Live, Sensor  # noqa: E402


def child_of(live: Live) -> int:
    """Process id of the training that is under way."""
    assert live.process is not None
    children = Path(f"/proc/{live.process.pid}/task/{live.process.pid}/children").read_text()
    (pid,) = [int(word) for word in children.split()]
    return pid


def heard_by(live: Live) -> Heard:
    assert live.heard is not None
    return live.heard


def reconfigured(live: Live, **over: object) -> None:
    heard_by(live).forget()
    live.write_config(**over)
    live.hang_up()
    heard_by(live).wait("event.reloaded")


# ------------------------------------------------------------------ from drift to a new champion


def test_drift_leads_to_a_better_model_and_a_worse_one_is_taken_back(wave_bundle: Path) -> None:
    with Live(wave_bundle) as live, live.client() as client:
        heard, sensor = heard_by(live), Sensor(client)
        base = live.call("status")["state"]["model"]
        sensor.publish(40)
        sensor.turned = True
        late = sensor.publish(45)
        drift = heard.wait("event.drift").data
        assert drift["key"] == "watch-7/wrist"
        assert abs(drift["onset_seq"] - 40) <= 5
        heard.wait("event.deferred", lambda data: "labelled windows" in data["reason"])
        sensor.label(late)
        heard.wait("event.adaptation_started")

        # Predictions go out while the child trains: they lie between the two events.
        during = sensor.publish(30)
        told = [next(client.predictions(PATIENCE_S)) for _ in range(sensor.seq)]
        assert {p.model for p in told} == {base}
        gate = heard.wait("event.gate")
        last = heard.wait("prediction.watch-7.wrist", lambda data: data["seq"] == during[-1])
        assert heard.wait("event.adaptation_started").seq < last.seq < gate.seq

        swap = heard.wait("event.swap").data
        new = swap["version"]
        assert swap["core_norm"] > 0 and swap["previous"] == base and swap["gate"]["passed"]
        assert heard.wait("status.model", lambda data: data["live"] == new).data["champion"] == base
        proof = sensor.publish(12)
        sensor.label(proof)
        heard.wait("event.promoted", lambda data: data["version"] == new)
        after = [next(client.predictions(PATIENCE_S)) for _ in proof]
        assert {p.model for p in after} == {new}
        right = [p.predicted == waves.CLASSES[waves.label_of(p.seq)] for p in after]
        assert sum(right) >= 10, "the one beside it is wrong, and counts for less and less"
        assert [p.seq for p in told + after] == list(range(sensor.seq))
        model = live.call("status")["model"]
        assert (model["champion"], model["previous"], model["candidate"]) == (new, base, None)
        assert (model["live"], model["live_beside"], model["beside"]) == (new, [base], base)
        assert 0.5 < model["live_share"] < 1, "labels have spoken for the new one"
        check_same_form(wave_bundle, live.state_dir / "models" / "versions" / new, base)

        # The wearer calls everything by another name for a while, and a second adaptation believes
        # it, since an operator says so; then the right labels speak against it.
        reconfigured(live, probation={"labels": 60})
        live.call("pause")  # until all the labels are there
        sensor.label(sensor.publish(160), wrong=True)
        live.call("resume")
        with contextlib.suppress(BusyError):  # it may have found a drift, and begun by itself
            live.call("adapt", reason="as the wearer says", trust_labels=True)
        second = heard.wait("event.swap").data["version"]
        sensor.label(sensor.publish(48))
        back = heard.wait("event.rollback").data
        assert (back["version"], back["taken_back"]) == (new, second)
        assert live.call("status")["model"]["champion"] == new
        sensor.publish(1)
        heard.wait(
            "prediction.watch-7.wrist",
            lambda data: data["seq"] == sensor.seq - 1 and data["model"] == new,
        )

        live.call("pause")
        assert live.terminate() == 0
        predicted = live.rows("SELECT seq, version FROM window WHERE predicted NOT NULL ORDER BY 1")
        assert [seq for seq, _ in predicted] == list(range(sensor.seq))
        assert {version for _, version in predicted} == {base, new, second}
        check_restarts(live, new, base)


def check_restarts(live: Live, champion: str, beside: str) -> None:
    """Both answer after a restart; where one is damaged, the champion alone."""
    live.start()
    model = live.call("status")["model"]
    assert (model["live"], model["live_beside"]) == (champion, [beside])
    assert live.terminate() == 0
    weights = live.state_dir / "models" / "versions" / beside / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    live.start()
    model = live.call("status")["model"]
    assert model["live"] == champion and "live_beside" not in model
    assert live.terminate() == 0


def check_same_form(base: Path, candidate: Path, parent: str) -> None:
    """The version on disk has the base's keys, shapes and dtypes, and other values."""
    old, new = Bundle.load(base), Bundle.load(candidate)
    assert new.weights.keys() == old.weights.keys()
    for name, weight in old.weights.items():
        assert (new.weights[name].shape, new.weights[name].dtype) == (weight.shape, weight.dtype)
    convolutions = [name for name, weight in old.weights.items() if weight.ndim == 3]
    assert convolutions
    assert all((new.weights[name] != old.weights[name]).any() for name in convolutions)
    assert new.manifest.parent == parent
    assert new.manifest.adaptation is not None
    assert new.manifest.adaptation["core_norm"] > 0


def test_a_restart_on_probation_comes_up_on_the_last_proven_version(wave_bundle: Path) -> None:
    with Live(wave_bundle) as live, live.client(resend_after_s=0.5) as client:
        heard, sensor = heard_by(live), Sensor(client, turned=True)
        base = live.call("status")["state"]["model"]
        sensor.label(sensor.publish(45))
        new = heard.wait("event.swap").data["version"]
        sensor.publish(5)
        live.kill()
        live.start()
        status = live.call("status")
        assert status["model"]["live"] == status["model"]["champion"] == base
        assert status["model"]["candidate"] is None
        history = live.call("models.show", version=new)["history"]
        assert [entry["action"] for entry in history] == ["swapped in", "interrupted"]
        heard.forget()
        heard.wait("status.state")  # the subscription stands again
        sensor.publish(5)
        heard.wait(
            "prediction.watch-7.wrist",
            lambda data: data["seq"] == sensor.seq - 1 and data["model"] == base,
        )


# ------------------------------------------------------------------ what can go wrong


@pytest.fixture(scope="module")
def live(wave_bundle: Path) -> Iterator[Live]:
    """A service with enough labels for an adaptation, which begins when it is asked for."""
    with Live(wave_bundle, {"drift": {"enabled": False}}) as service:
        with service.client() as client:
            sensor = Sensor(client, turned=True)
            sensor.label(sensor.publish(45))
            seen = heard_by(service)
            seen.wait("prediction.watch-7.wrist", lambda data: data["seq"] == 44)
        yield service


@pytest.fixture
def heard(live: Live) -> Iterator[Heard]:
    """After each test predictions go on, and the champion is what it was."""
    heard, base = heard_by(live), live.call("status")["model"]
    heard.forget()
    yield heard
    with live.client() as client:
        sensor = Sensor(client, turned=True)
        sensor.seq = live.call("status")["ingest"]["streams"]["watch-7/wrist"]["last_seq"] + 1
        (seq,) = sensor.publish(1)
        heard.wait("prediction.watch-7.wrist", lambda data: data["seq"] == seq)
    assert live.call("status")["model"] == base


FAILURES = {
    "deadline": ({"adapt": {"deadline_s": 0.2}}, "adapt.deadline_s"),
    "memory": ({"adapt": {"memory_budget_mb": 64}}, "adapt.memory_budget_mb"),
    "layers": ({"adapt": {"rungs": ["cores"], "layers": ["nosuch.*"]}}, "fits no convolution"),
}


@pytest.mark.parametrize("what", FAILURES)
def test_a_failed_training_leaves_the_champion_and_says_why(
    live: Live, heard: Heard, what: str
) -> None:
    over, reason = FAILURES[what]
    reconfigured(live, **over)
    live.call("adapt", reason=what)
    assert heard.wait("event.adaptation_started").data["why"] == what
    error = heard.wait("event.adaptation_failed").data["error"]
    assert reason in error["message"] and error["remedy"]
    reconfigured(live)


def test_a_killed_child_is_told_of(live: Live, heard: Heard) -> None:
    live.call("adapt")
    heard.wait("event.adaptation_started")
    heard.wait("status.adaptation", lambda data: "progress" in data)
    with pytest.raises(BusyError):
        live.call("adapt")
    os.kill(child_of(live), signal.SIGKILL)
    error = heard.wait("event.adaptation_failed").data["error"]
    assert "signal 9" in error["message"]


def test_pause_ends_the_training_and_resume_allows_the_next(live: Live, heard: Heard) -> None:
    live.call("adapt")
    heard.wait("event.adaptation_started")
    heard.wait("status.adaptation", lambda data: "progress" in data)
    pid = child_of(live)
    assert live.call("pause")["state"] == "paused"
    error = heard.wait("event.adaptation_failed").data["error"]
    assert "operator" in error["message"]
    assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(BusyError):
        live.call("adapt")
    assert live.call("resume")["state"] == "watching"


def test_the_gate_turns_a_candidate_away_that_proves_nothing(live: Live, heard: Heard) -> None:
    """The last of the failures: it shows that after all of them a training still succeeds."""
    reconfigured(live, gate={"min_gain": 2.0})
    live.call("adapt")
    verdict = heard.wait("event.refused").data
    assert not verdict["passed"] and "macro-F1" in verdict["reason"]
    assert verdict["candidate_f1"] > verdict["champion_f1"]
    counts = live.call("status")["adaptation"]
    assert counts["refused"] == 1 and counts["swaps"] == 0
    reconfigured(live)


def test_sigterm_ends_a_training_at_once(live: Live) -> None:
    heard_by(live).forget()
    live.call("adapt")
    heard_by(live).wait("status.adaptation", lambda data: "progress" in data)
    pid = child_of(live)
    assert live.terminate() == 0
    assert not Path(f"/proc/{pid}").exists()


def test_the_child_dies_with_the_service(live: Live) -> None:
    live.start()
    heard_by(live).forget()
    live.call("adapt")
    heard_by(live).wait("status.adaptation", lambda data: "progress" in data)
    pid = child_of(live)
    handle = os.pidfd_open(pid)
    live.kill()
    try:
        import select

        assert select.select([handle], [], [], PATIENCE_S)[0], "the child outlives the service"
    finally:
        os.close(handle)


# As if the two had grown apart: the trainer calls what takes fewer arguments.
FAULTY = """
import sys
from edgetuner.adapt import trainer
from edgetuner.cli import main

trainer.train = lambda job: None
sys.exit(main(sys.argv[1:]))
"""


def test_a_fault_of_our_own_fails_the_adaptation_and_says_where(wave_bundle: Path) -> None:
    with Live(wave_bundle, program=("-c", FAULTY)) as live, live.client() as client:
        sensor = Sensor(client)
        sensor.label(sensor.publish(45))
        with contextlib.closing(heard_by(live)) as heard:
            live.call("adapt")
            error = heard.wait("event.adaptation_failed").data["error"]
            sensor.publish(5)
            heard.wait("status.state", lambda data: data["predictions"] == 50)
        assert error["code"] == "internal" and "TypeError" in error["value"]
        assert "trainer.py:" in error["field"]
