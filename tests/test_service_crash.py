"""SIGKILL at any moment: what was acknowledged is there, once, and so is its prediction."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from edgetuner.client import Client  # noqa: E402
from tests import waves  # noqa: E402
from tests.live import PATIENCE_S, Live, Sensor, Wire  # noqa: E402

LIVES = 2


def test_nothing_acknowledged_is_lost_and_nothing_is_predicted_twice(wave_bundle: Path) -> None:
    chance = random.Random(1)
    live = Live(wave_bundle)
    with live, live.client(resend_after_s=0.5) as client:
        sensors = [Sensor(client, "left"), Sensor(client, "right")]
        for _ in range(LIVES):
            publish_until(client, sensors, client.counts.acked + chance.randint(20, 300))
            live.kill()
            for sensor in sensors:  # nobody is there: they wait for the next life
                sensor.label(sensor.publish(10, hold=True)[::5], hold=True)
            acked = client.counts.acked
            live.start()
            client.flush(PATIENCE_S)
            assert client.counts.acked >= acked + 20
        assert client.counts.resent > 0 and client.counts.greetings > LIVES
        assert client.refusals == []
        assert live.terminate() == 0

        last = sum(sensor.seq for sensor in sensors)
        assert client.counts.acked == last
        windows = live.rows(
            "SELECT stream.stream, seq, label, version FROM window "
            "JOIN stream ON stream.id = window.stream WHERE predicted IS NOT NULL ORDER BY seq"
        )
        for sensor in sensors:
            mine = [row for row in windows if row[0] == sensor.stream]
            assert [row[1] for row in mine] == list(range(sensor.seq))
            labels = {row[1]: row[2] for row in mine}
            assert all(labels[s] == waves.label_of(s) for s in sensor.labelled)
        assert len(windows) == last


def publish_until(client: Client, sensors: list[Sensor], acked: int) -> None:
    while client.counts.acked < acked:
        for sensor in sensors:
            for seq in sensor.publish(1, hold=True):
                if seq % 5 == 0:
                    sensor.label([seq], hold=True)


def test_predictions_that_may_have_been_published_say_so(wave_bundle: Path) -> None:
    with Live(wave_bundle) as live, Wire(live.sockets["ingest"], "w") as wire:
        wire.hello(predictions=True)
        for seq in range(20):
            wire.window("s", seq)
        answers = [wire.answer() for _ in range(40)]
        first = [answer for answer in answers if answer.type == "prediction"]
        assert [p.seq for p in first] == list(range(20)) and not any(p.again for p in first)

        live.kill()  # the note that they were published had not reached the disk
        live.start()
        with Wire(live.sockets["ingest"], "w") as returned:
            returned.hello(predictions=True)
            returned.window("s", 20)
            answers = []
            while not (answers and answers[-1].type == "prediction" and answers[-1].seq == 20):
                answers.append(returned.answer())
        told = [answer for answer in answers if answer.type == "prediction"]
        again = [p for p in told if p.again]
        assert again and [p.seq for p in again] == list(range(again[0].seq, 20))
        assert [p.seq for p in told if not p.again] == [20]
        said = {p.seq: p.predicted for p in first}
        assert all(p.predicted == said[p.seq] for p in again)


def test_windows_that_wait_for_a_prediction_get_it_in_the_next_life(wave_bundle: Path) -> None:
    """The prediction is late, not repeated, and reaches a client that has come back."""
    live = Live(wave_bundle, {"inference": {"max_batch": 1}})
    with live, live.client(resend_after_s=0.5) as client:
        sensor = Sensor(client)
        sensor.publish(300)  # acknowledged sooner than predicted, one by one
        live.kill()
        waiting = live.rows("SELECT count(*) FROM window WHERE predicted IS NULL")[0][0]
        assert waiting > 0, "the kill came too late to show anything"
        live.start()
        predicted = [next(client.predictions(PATIENCE_S)) for _ in range(300)]
        assert [p.seq for p in predicted] == list(range(300))
        assert not any(p.again for p in predicted[-waiting:])
