"""The living service, from outside: sensors on its sockets, operators, signals."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dataclasses import replace  # noqa: E402

from edgetuner.bundle import Bundle, write_bundle  # noqa: E402
from edgetuner.client import PlainPublisher  # noqa: E402
from edgetuner.config import parse_config  # noqa: E402
from edgetuner.errors import EdgetunerError, ProtocolError, RegistryError, UsageError  # noqa: E402
from edgetuner.registry import Registry  # noqa: E402
from edgetuner.service import Service  # noqa: E402
from tests import waves  # noqa: E402
from tests.live import PATIENCE_S, Heard, Live, Sensor, Wire  # noqa: E402

VERSIONS: list[Path] = []  # what the registry holds besides
NAN = np.where(np.arange(96).reshape(3, 32) == 50, np.nan, 1).astype(np.float32)


@pytest.fixture(scope="module")
def bad(wave_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A version whose head says the wrong class."""
    good = Bundle.load(wave_bundle)
    head = {name: np.roll(good.weights[name], 1, 0) for name in ("head.weight", "head.bias")}
    spoilt = replace(good, weights={**good.weights, **head})
    out = tmp_path_factory.mktemp("bad") / "bundle"
    VERSIONS.append(out)
    return write_bundle(out, spoilt, good.manifest.description, prefix="spoilt").version


@pytest.fixture(scope="module")
def other(wave_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A version for other classes."""
    good = Bundle.load(wave_bundle)
    description = good.manifest.description.model_copy(update={"classes": ("a", "b", "c")})
    out = tmp_path_factory.mktemp("other") / "bundle"
    VERSIONS.append(out)
    return write_bundle(out, good, description, prefix="other").version


@pytest.fixture(scope="module")
def live(wave_bundle: Path, bad: str, other: str) -> Iterator[Live]:
    service = Live(wave_bundle, {"ingest": {"max_streams": 256}})
    for path in VERSIONS:
        Registry(service.state_dir / "models").add(path)
    with service:
        yield service


@pytest.fixture
def heard(live: Live) -> Heard:
    assert live.heard is not None
    live.heard.forget()
    return live.heard


# ------------------------------------------------------------------ windows and labels


def test_every_window_is_acknowledged_and_predicted_once_in_order(live: Live, heard: Heard) -> None:
    with live.client("in-order") as client:
        sensors = [Sensor(client, "left"), Sensor(client, "right")]
        for _ in range(4):
            for sensor in sensors:
                sensor.publish(25)
        predictions = [next(client.predictions(PATIENCE_S)) for _ in range(200)]
        assert client.counts.acked == 200
    for sensor in sensors:
        mine = [p for p in predictions if p.stream == sensor.stream]
        assert [p.seq for p in mine] == list(range(100))
        assert [p.predicted for p in mine] == [waves.CLASSES[waves.label_of(p.seq)] for p in mine]
        assert not any(p.again for p in mine)
        heard.wait(f"prediction.in-order.{sensor.stream}", lambda data: data["seq"] == 99)
        told = heard.of(f"prediction.in-order.{sensor.stream}")
        assert [data["seq"] for data in told] == list(range(100))
        assert [data["model"] for data in told] == [p.model for p in mine]


def test_labels_answer_at_once_for_windows_like_theirs(live: Live, heard: Heard) -> None:
    with live.client("corrected") as client:

        def answers(count: int, first: int) -> list[tuple[str, str | None]]:
            strange = waves.window(0, 0, hz=1.8)  # faster than slow is at home
            for seq in range(first, first + count):
                client.publish("s", strange, t_ns=(seq + 1) * 10**9)
            told = [next(client.predictions(PATIENCE_S)) for _ in range(count)]
            return [(p.predicted, p.overruled) for p in told]

        alone, said = waves.CLASSES[:2]
        assert answers(4, 0) == [(alone, None)] * 4
        for seq in range(4):
            client.label("s", seq, said)
        client.flush()
        assert answers(2, 4) == [(said, alone)] * 2
    heard.wait("prediction.corrected.s", lambda data: data["seq"] == 5)
    told = heard.of("prediction.corrected.s")
    assert [data.get("overruled") for data in told] == [None] * 4 + [alone] * 2
    assert "overruled" not in told[0], "what is not so has no key"
    assert live.call("status")["state"]["overruled"] >= 2


def test_windows_left_out_by_a_client_count_as_lost(live: Live) -> None:
    with live.client("skipper") as client:
        client.publish("s", waves.window(0, 0), t_ns=0)
        client.publish("s", waves.window(5, 0), t_ns=5, seq=5)
        client.flush()
        assert client.counts.acked == 2
    stream = live.call("status")["ingest"]["streams"]["skipper/s"]
    assert (stream["accepted"], stream["lost"], stream["last_seq"]) == (2, 4, 5)


def test_the_plain_plane_counts_what_is_missing(live: Live, heard: Heard) -> None:
    with PlainPublisher(live.sockets["plain"], "plain") as publisher:
        assert publisher.wait(PATIENCE_S)
        for seq in (0, 1, 4, 9):
            publisher.publish("s", waves.window(seq, 0), t_ns=seq, hz=waves.HZ, seq=seq)
        heard.wait("prediction.plain.s", lambda data: data["seq"] == 9)
    stream = live.call("status")["ingest"]["streams"]["plain/s"]
    assert (stream["accepted"], stream["lost"]) == (4, 6)
    assert [data["seq"] for data in heard.of("prediction.plain.s")] == [0, 1, 4, 9]


def test_a_window_sent_again_is_held_once(live: Live) -> None:
    with Wire(live.sockets["ingest"], "twice") as wire:
        for _ in range(2):
            wire.window("s", 0)
        assert [wire.answer().outcome for _ in range(2)] == ["stored", "duplicate"]
        wire.window("s", 0, waves.window(99, 1))
        refusal = wire.answer()
    assert (refusal.error["code"], refusal.error["field"], refusal.final) == (
        "sequence",
        "seq",
        True,
    )


def test_a_gap_is_answered_with_the_number_to_go_on_from(live: Live) -> None:
    with Wire(live.sockets["ingest"], "gap") as wire:
        wire.window("s", 0)
        assert wire.answer().type == "ack"
        wire.window("s", 3)
        refusal = wire.answer()
        assert (refusal.error["code"], refusal.final, refusal.expected) == ("sequence", False, 1)
        assert refusal.error["value"] == "3"
        wire.window("s", 1)
        assert wire.answer().outcome == "stored"


def test_labels_come_late_and_early(live: Live) -> None:
    with live.client("labels") as client:
        sensor = Sensor(client)
        sensor.label(sensor.publish(8))
        client.label(sensor.stream, 10, "fast")
        sensor.publish(4)
        client.flush()
        assert client.counts.labels_acked == 9
    assert live.call("status")["ingest"]["streams"]["labels/wrist"]["labelled"] == 9


# ------------------------------------------------------------------ what is refused


def bad_window(stream: str, **over: Any) -> Callable[[Wire], None]:
    return lambda wire: wire.window(stream, 0, **over)


REFUSED: dict[str, tuple[str, str, Callable[[Wire], None]]] = {
    "shape": ("window", "shape", bad_window("shape", shape=[3, 31])),
    "length": ("window", "shape", bad_window("length", payload=bytes(100))),
    "crc": ("window", "crc32", bad_window("crc", crc32=7)),
    "nan": ("window", "payload", bad_window("nan", x=NAN)),
    "huge": ("window", "payload", bad_window("huge", x=np.full((3, 32), 3e38, np.float32))),
    "hz": ("window", "hz", bad_window("hz", hz=50.0)),
    "class": ("label", "label", bad_window("class", label="flying")),
    "dtype": ("protocol", "dtype", bad_window("dtype", dtype="float64")),
    "negative": ("protocol", "t_ns", bad_window("negative", t_ns=-1)),
    "name": ("protocol", "client_id", bad_window("name", client_id="no/slash")),
    "type": ("protocol", "header", lambda wire: wire.send({"type": "nonsense"})),
    "json": ("protocol", "header", lambda wire: wire.frames(b"EDT1", b"{")),
    "magic": ("protocol", "magic", lambda wire: wire.frames(b"GIF8", b"{}")),
    "frames": ("protocol", "frames", lambda wire: wire.frames(b"EDT1")),
    "version": ("protocol", "v", bad_window("version", v=2)),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_wrong_is_refused_by_name_and_the_next_window_taken(live: Live, what: str) -> None:
    code, field, send = REFUSED[what]
    before = live.call("status")["ingest"]["refusals"].get(f"{code}.{field}", 0)
    with Wire(live.sockets["ingest"]) as wire:
        send(wire)
        refusal = wire.answer()
        assert refusal.type == "refusal" and refusal.final
        assert (refusal.error["code"], refusal.error["field"]) == (code, field)
        assert refusal.error["value"] and refusal.error["remedy"] and refusal.error["message"]
        wire.window(what, 0 if refusal.seq is None else 1)
        assert wire.answer().outcome == "stored"
    assert live.call("status")["ingest"]["refusals"][f"{code}.{field}"] == before + 1


@pytest.mark.parametrize(
    ("field", "over"),
    [("label", {"label": "flying"}), ("stream", {"stream": "never-seen"}), ("seq", {"seq": 1})],
)
def test_a_label_that_cannot_be_joined_is_refused(
    live: Live, field: str, over: dict[str, Any]
) -> None:
    label = {"type": "label", "client_id": "raw", "stream": field, "seq": 0, "label": "slow"}
    with Wire(live.sockets["ingest"]) as wire:
        wire.window(f"{field}-l", 0)
        wire.window(f"{field}-l", 1, NAN)
        assert [wire.answer().type for _ in range(2)] == ["ack", "refusal"]
        wire.send(label | {"stream": f"{field}-l"} | over)
        refusal = wire.answer()
        assert refusal.of == "label" and refusal.final
        assert (refusal.error["code"], refusal.error["field"]) == ("label", field)
        assert refusal.error["remedy"]
        wire.send(label | {"stream": f"{field}-l"})
        assert wire.answer().outcome == "stored"


def test_an_absurd_rate_is_refused_and_a_reload_changes_the_limit(live: Live, heard: Heard) -> None:
    live.write_config(ingest={"max_windows_per_s": 0.5})
    live.hang_up()
    heard.wait("event.reloaded")
    with Wire(live.sockets["ingest"], "hasty") as wire:
        for seq in range(6):
            wire.window("s", seq)
        answers = [wire.answer() for _ in range(6)]
        assert sorted(answer.seq for answer in answers if answer.type == "ack") == [0, 1, 2, 3, 4]
        (refusal,) = [answer for answer in answers if answer.type == "refusal"]
        assert refusal.seq == 5
        assert not refusal.final, "the window may be sent later"
        assert (refusal.error["code"], refusal.error["field"]) == ("busy", "stream")
        heard.forget()
        live.write_config()
        live.hang_up()
        heard.wait("event.reloaded")
        wire.window("s", 5)
        assert wire.answer().outcome == "stored"


# ------------------------------------------------------------------ operators


def test_a_late_subscriber_gets_a_snapshot_at_once(live: Live) -> None:
    late = Heard(live.sockets["status"])
    snapshot = late.wait("status.snapshot").data
    late.close()
    assert snapshot["status.state"]["model"] == snapshot["status.model"]["champion"]
    assert {"status.ingest", "status.drift", "status.adaptation"} <= snapshot.keys()


def test_messages_are_numbered_and_the_heart_beats(live: Live, heard: Heard) -> None:
    first = heard.wait("status.state")
    heard.wait("status.state", lambda data: data["uptime_s"] > first.data["uptime_s"])
    seqs = [message.seq for message in heard.messages]
    assert seqs == list(range(seqs[0], seqs[0] + len(seqs)))
    assert {message.boot_id for message in heard.messages} == {first.boot_id}


@pytest.mark.parametrize(
    ("method", "params", "kind", "field"),
    [
        ("dance", {}, ProtocolError, "method"),
        ("models.show", {}, UsageError, "params.version"),
        ("pause", {"for": 3}, UsageError, "params.for"),
        ("models.show", {"version": "../../etc"}, RegistryError, "version"),
        ("models.rollback", {}, RegistryError, "previous"),
        ("resume", {"version": ["x"]}, UsageError, "params.version"),
    ],
)
def test_requests_that_make_no_sense_are_answered(
    live: Live, method: str, params: dict[str, Any], kind: type[EdgetunerError], field: str
) -> None:
    with pytest.raises(kind) as refused:
        live.call(method, **params)
    assert refused.value.field == field
    assert refused.value.remedy
    assert live.call("status")["state"]["model"]


def test_noise_on_the_control_socket_is_answered_with_an_error(live: Live) -> None:
    with Wire(live.sockets["control"]) as wire:
        for noise in ([b""], [b"EDT1", b"[]"], [b"EDT1", b"{}", b"x", b"y"]):
            wire.frames(*noise)
    assert live.call("status")["state"]["model"]


# ------------------------------------------------------------------ signals


def test_a_reload_keeps_the_old_configuration_where_the_new_one_is_wrong(
    live: Live, heard: Heard
) -> None:
    live.write_config(adapt={"min_labels": "many"})
    live.hang_up()
    refused = heard.wait("event.reload_refused").data["error"]
    assert (refused["code"], refused["field"]) == ("config", "adapt.min_labels")

    heard.forget()
    live.write_config(state_dir="/elsewhere", status={"predictions": False})
    live.hang_up()
    refused = heard.wait("event.reload_refused").data["error"]
    assert (refused["code"], refused["field"]) == ("config", "state_dir")

    heard.forget()
    with live.client("after-reload") as client:
        Sensor(client).publish(1)
    heard.wait("prediction.after-reload.wrist")  # the other change was not taken either
    live.write_config()


def test_sigterm_drains_and_leaves_one_prediction_for_each_window(wave_bundle: Path) -> None:
    with Live(wave_bundle) as live:
        with live.client() as client:
            Sensor(client).publish(400)  # flushed: all are acknowledged, and many still wait
            assert live.terminate() == 0
            assert client.counts.acked == 400
        assert live.errors.read_text() == ""
        assert not any(Path(a.removeprefix("ipc://")).exists() for a in live.sockets.values())
        assert live.rows("SELECT count(*), count(predicted), max(seq) FROM window") == [
            (400, 400, 399)
        ]
        assert live.rows("SELECT published FROM stream") == [(399,)]
        assert "stopping" in [event["event"] for event in live.events()]


# ------------------------------------------------------------------ versions


def test_a_debt_that_cannot_be_paid_holds_up_no_end(tmp_path: Path) -> None:
    """The windows of the run before wait for room on the disk, and systemd asks us to go."""

    class Indebted:
        async def recover(self) -> list[Any]:
            await asyncio.Event().wait()
            return []

    async def scene() -> None:
        service = Service(parse_config({"state_dir": str(tmp_path)}))
        service._predictor = Indebted()  # type: ignore[assignment]
        service._stop.set()
        assert await asyncio.wait_for(service._recovered(), PATIENCE_S) is None

    asyncio.run(scene())


def test_a_promoted_bad_version_is_taken_back(live: Live, bad: str) -> None:
    good = live.call("status")["state"]["model"]
    with live.client("promoted") as client:
        sensor = Sensor(client)

        def told() -> tuple[set[str], bool]:
            seqs = sensor.publish(12)
            mine = [next(client.predictions(PATIENCE_S)) for _ in seqs]
            assert [p.seq for p in mine] == list(seqs)
            right = [p.predicted == waves.CLASSES[waves.label_of(p.seq)] for p in mine]
            return {p.model for p in mine}, all(right)

        assert told() == ({good}, True)
        assert live.call("models.promote", version=bad, reason="a mistake") == {"champion": bad}
        assert told() == ({bad}, False)
        assert live.call("models.rollback", reason="it was") == {"live": good}
        assert told() == ({good}, True)

    rows = {row["version"]: row for row in live.call("models.list")["versions"]}
    assert (rows[good]["alias"], rows[bad]["alias"]) == ("champion", "previous")
    shown = live.call("models.show", version=bad)
    actions = [(entry["action"], entry["reason"]) for entry in shown["history"]]
    assert actions == [("promoted", "a mistake"), ("rolled back", "it was")]


def test_a_version_for_another_task_is_not_promoted(live: Live, other: str) -> None:
    with pytest.raises(RegistryError, match="another task"):
        live.call("models.promote", version=other)
    with live.client("other-task") as client:
        Sensor(client).publish(3)
    status = live.call("status")["model"]
    assert status["live"] == status["champion"] != other


# ------------------------------------------------------------------ systemd


def test_systemd_is_told_of_the_life_of_the_service(wave_bundle: Path, ipc_dir: Path) -> None:
    address = ipc_dir / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.settimeout(PATIENCE_S)
        notify.bind(os.fspath(address))
        told: list[str] = []

        def wait(word: str) -> None:
            while not told or word not in told[-1].splitlines():
                told.append(notify.recv(4096).decode())

        variables = {"NOTIFY_SOCKET": os.fspath(address), "WATCHDOG_USEC": "500000"}
        live = Live(wave_bundle, environment=variables)
        process = live.launch()
        try:
            wait("READY=1")
            assert live.call("status")["state"]["model"] in told[-1]
            wait("WATCHDOG=1")
            told.clear()
            wait("WATCHDOG=1")
            live.hang_up()
            wait("READY=1")
            assert any(text.startswith("RELOADING=1\nMONOTONIC_USEC=") for text in told)
            assert live.terminate() == 0
            wait("STOPPING=1")
        finally:
            process.kill()
            process.wait()
