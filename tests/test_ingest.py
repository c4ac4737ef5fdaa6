"""Ingest on a real socket, a real store and a real model, without the rest of the service."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgetuner.config import Config, IngestConfig  # noqa: E402
from edgetuner.drift.monitor import Finding  # noqa: E402
from edgetuner.errors import StoreError  # noqa: E402
from edgetuner.inference import ModelVersion  # noqa: E402
from edgetuner.ingest import Ingest  # noqa: E402
from edgetuner.pipeline import Pipeline, Predicted, watch_with  # noqa: E402
from edgetuner.serving import Serving  # noqa: E402
from edgetuner.store import Store, Window  # noqa: E402
from edgetuner.transport import ROUTER, Sockets, send_now  # noqa: E402
from tests import waves  # noqa: E402
from tests.live import Wire  # noqa: E402


class Room:
    """An ingest that serves, and what it hands on."""

    def __init__(self, address: str, pipeline: Pipeline, settings: IngestConfig) -> None:
        self.address = address
        self.pipeline = pipeline
        self.windows: list[Window] = []
        self.labels = 0
        self._sockets = Sockets()
        self._settings = settings

    async def start(self) -> None:
        await self._sockets.start()
        router = self._sockets.bind(ROUTER, self.address, field="sockets.ingest", for_sensors=True)
        settings = self._settings
        self.ingest = Ingest(
            self._sockets, router, self.pipeline, lambda: settings, "boot", self._put, self._count
        )
        self._task = asyncio.create_task(self.ingest.serve(router))

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._sockets.close()

    async def _put(self, windows: Sequence[Window]) -> None:
        self.windows += windows

    def _count(self, findings: Sequence[Finding]) -> None:
        assert not findings
        self.labels += 1

    async def say(self, *work: Callable[[Wire], Any], name: str = "raw") -> list[Any]:
        """What a sensor gets that does these things and then says hello."""

        def talk() -> list[Any]:
            answers: list[Any] = []
            with Wire(self.address, name) as wire:
                for step in work:
                    step(wire)
                wire.send({"type": "hello", "client_id": name, "predictions": True})
                while not answers or answers[-1].type != "welcome":
                    answers.append(wire.answer())
            return answers

        return await asyncio.to_thread(talk)


Scene = Callable[[Room], Coroutine[Any, Any, None]]


@pytest.fixture
def play(wave_bundle: Path, ipc_dir: Path) -> Callable[..., None]:
    version = ModelVersion.load(wave_bundle)

    async def run(scene: Scene, settings: dict[str, Any]) -> None:
        config = Config.model_validate({"ingest": settings})
        store = Store.open(
            None,
            shape=(3, 32),
            classes=waves.CLASSES,
            durability="memory",
            max_streams=config.ingest.max_streams,
        )
        pipeline = Pipeline(store, Serving(version), watch_with(config, version))
        room = Room(f"ipc://{ipc_dir / 'ingest'}", pipeline, config.ingest)
        await room.start()
        try:
            await scene(room)
        finally:
            await room.close()
            await pipeline.close()

    return lambda scene, **settings: asyncio.run(run(scene, settings))


def windows(stream: str, *seqs: int, **over: Any) -> Callable[[Wire], None]:
    return lambda wire: [wire.window(stream, seq, **over) for seq in seqs] and None


def test_the_welcome_says_what_the_model_takes_and_where_streams_stand(
    play: Callable[..., None],
) -> None:
    async def scene(room: Room) -> None:
        *_, welcome = await room.say(windows("a", 0, 1, 2), windows("b", 7))
        assert (welcome.channels, welcome.length) == (list(waves.CHANNELS), waves.LENGTH)
        assert (welcome.hz, welcome.classes) == (waves.HZ, list(waves.CLASSES))
        assert welcome.model == room.pipeline.version.id and welcome.boot_id == "boot"
        assert welcome.streams == {"a": 2, "b": 7}
        (other,) = await room.say(name="other")
        assert other.streams == {}

    play(scene)


def test_what_is_stored_is_handed_on_in_order_and_once(play: Callable[..., None]) -> None:
    async def scene(room: Room) -> None:
        await room.say(windows("a", 0, 1, 1, 2), windows("a", 3, x=np.full((3, 32), np.nan)))
        assert [(w.stream, w.seq) for w in room.windows] == [("a", 0), ("a", 1), ("a", 2)]
        assert np.array_equal(room.windows[2].x, waves.window(2, 0))
        assert room.ingest.counts == {
            **{"windows": 3, "duplicates": 1, "refused": 1, "lost": 0},
            **{"labels": 0, "relabelled": 0},
        }

    play(scene)


def test_half_precision_is_taken(play: Callable[..., None]) -> None:
    async def scene(room: Room) -> None:
        half = waves.window(0, 0).astype(np.float16)
        answer, _ = await room.say(windows("a", 0, x=half, dtype="float16"))
        assert answer.outcome == "stored"
        assert np.array_equal(room.windows[0].x, half.astype(np.float32))

    play(scene)


def test_a_window_may_bring_its_label(play: Callable[..., None]) -> None:
    async def scene(room: Room) -> None:
        await room.say(windows("a", 0, label="brisk"), windows("a", 1))
        assert [w.label for w in room.windows] == [1, None]
        assert room.labels == 1

    play(scene)


def test_labels_without_a_window_are_named_and_counted_and_the_last_of_two_counts(
    play: Callable[..., None],
) -> None:
    def label(stream: str, seq: int, name: str) -> Callable[[Wire], None]:
        header = {"type": "label", "client_id": "raw", "stream": stream, "seq": seq}
        return lambda wire: wire.send(header | {"label": name})

    async def scene(room: Room) -> None:
        answers = await room.say(
            windows("a", 5),
            label("nobody", 0, "slow"),
            label("a", 2, "slow"),
            label("a", 10**6, "slow"),
            label("a", 5, "slow"),
            label("a", 5, "brisk"),
            label("a", 5, "brisk"),
        )
        outcomes = [getattr(answer, "outcome", None) for answer in answers[:-1]]
        assert outcomes == ["stored", None, None, None, "stored", "replaced", "duplicate"]
        problems = [answer.error["message"] for answer in answers[1:4]]
        assert "never sent" in problems[0] and "gone" in problems[1] and "too_early" in problems[2]
        assert room.ingest.refusals == {"label.stream": 1, "label.seq": 2}
        assert (room.ingest.counts["labels"], room.ingest.counts["relabelled"]) == (2, 1)
        held = await room.pipeline.stored(lambda store: store.streams()[("raw", "a")])
        assert held.labelled == 1

    play(scene)


def test_a_clock_that_jumps_back_or_far_ahead_loses_nothing(play: Callable[..., None]) -> None:
    async def scene(room: Room) -> None:
        times = [10**18, 5, 2**62, 10**18 + 1]
        answers = await room.say(*(windows("a", n, t_ns=t) for n, t in enumerate(times)))
        assert [answer.outcome for answer in answers[:-1]] == ["stored"] * 4
        assert [w.t_ns for w in room.windows] == times, "in order of their numbers"

    play(scene)


def test_a_sender_that_skips_numbers_says_so(play: Callable[..., None]) -> None:
    async def scene(room: Room) -> None:
        first, gap, told, _ = await room.say(
            windows("a", 0), windows("a", 4), windows("a", 4, gap=True)
        )
        assert (first.type, gap.expected, told.outcome) == ("ack", 1, "stored")
        assert room.ingest.counts["lost"] == 3

    play(scene)


def test_a_stream_too_many_is_turned_away_and_the_others_go_on(play: Callable[..., None]) -> None:
    async def scene(room: Room) -> None:
        answers = await room.say(windows("a", 0), windows("b", 0), windows("c", 0), windows("a", 1))
        assert [answer.type for answer in answers] == ["ack", "ack", "refusal", "ack", "welcome"]
        refusal = answers[2]
        assert (refusal.error["code"], refusal.error["field"]) == ("busy", "stream")
        assert not refusal.final and "max_streams" in refusal.error["remedy"]

    play(scene, max_streams=2)


def test_streams_that_were_turned_away_do_not_pile_up(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgetuner import ingest

    monkeypatch.setattr(ingest, "_RATE_SPAN_S", 1e-9)  # what was sent is long ago

    async def scene(room: Room) -> None:
        for number in range(20):
            await room.say(windows(f"s{number}", 0))
        assert len(room.ingest._recent) <= 6

    play(scene, max_streams=2)


def test_a_full_disk_is_told_and_the_window_may_come_again(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(room: Room) -> None:
        def full(*_: Any) -> None:
            raise StoreError("database or disk is full", field="windows.db", remedy="free space")

        label = {"type": "label", "client_id": "raw", "stream": "a", "seq": 0, "label": "slow"}
        with monkeypatch.context() as patch:
            patch.setattr(Store, "add", full)
            patch.setattr(Store, "add_labels", full)
            refused = await room.say(windows("a", 0), lambda wire: wire.send(label))
        for refusal in refused[:2]:
            assert refusal.error["code"] == "store" and not refusal.final
        assert room.windows == []
        stored, labelled, _ = await room.say(windows("a", 0), lambda wire: wire.send(label))
        assert (stored.outcome, labelled.outcome) == ("stored", "stored")

    play(scene)


def test_recovered_predictions_wait_for_their_client(play: Callable[..., None]) -> None:
    async def scene(room: Room) -> None:
        window = Window(1, "raw", "a", 3, 0, waves.window(0, 0))
        recovered = [
            Predicted(window, 1, 0.9, "v", again=True),
            Predicted(Window(2, "other", "a", 0, 0, window.x), 2, 0.8, "v"),
        ]
        room.ingest.keep(recovered, waves.CLASSES)
        (_,) = await room.say(name="third")
        # A second hello: what was sent after the first welcome comes before the second.
        hello = {"type": "hello", "client_id": "raw", "predictions": True}

        def returned() -> list[Any]:
            with Wire(room.address, "raw") as wire:
                wire.send(hello)
                wire.send(hello)
                return [wire.answer() for _ in range(3)]

        first, told, second = await asyncio.to_thread(returned)
        assert (first.type, told.type, second.type) == ("welcome", "prediction", "welcome")
        assert (told.seq, told.predicted, told.again) == (3, "brisk", True)

    play(scene)


def test_what_a_client_does_not_take_at_once_goes_on_waiting(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgetuner import ingest

    room_left = [3]  # what the socket takes before its client reads on

    def some(socket: Any, frames: list[bytes]) -> bool:
        if b'"prediction"' in frames[2]:
            room_left[0] -= 1
            if room_left[0] < 0:
                return False
        return send_now(socket, frames)

    async def scene(room: Room) -> None:
        x = waves.window(0, 0)
        old = [Predicted(Window(n, "raw", "a", n, 0, x), 1, 0.9, "v", again=True) for n in range(6)]
        new = [Predicted(Window(9, "raw", "a", n, 0, x), 1, 0.9, "v") for n in (6, 7)]
        room.ingest.keep(old, waves.CLASSES)
        monkeypatch.setattr(ingest, "send_now", some)

        def listen() -> list[int]:
            with Wire(room.address, "raw") as wire:
                wire.hello(predictions=True)
                told = [wire.answer().seq for _ in range(3)]
                asyncio.run_coroutine_threadsafe(tell(), loop).result()
                room_left[0] = 100
                wire.send({"type": "hello", "client_id": "raw", "predictions": True})
                assert wire.answer().type == "welcome"
                return told + [wire.answer().seq for _ in range(5)]

        async def tell() -> None:
            room.ingest.send_predictions(new, waves.CLASSES)

        loop = asyncio.get_running_loop()
        assert await asyncio.to_thread(listen) == list(range(8)), "all of them, in order"
        assert not room.ingest._recovered

    play(scene)


def test_predictions_go_to_those_that_ask_for_them(play: Callable[..., None]) -> None:
    async def scene(room: Room) -> None:
        window = Window(1, "asks", "a", 0, 0, waves.window(0, 0))
        silent = Window(2, "silent", "a", 0, 0, window.x)

        def listen(name: str, predictions: bool) -> list[str]:
            with Wire(room.address, name) as wire:
                wire.hello(predictions=predictions)
                asyncio.run_coroutine_threadsafe(tell(), loop).result()
                wire.send({"type": "hello", "client_id": name, "predictions": predictions})
                kinds = [wire.answer().type]
                while kinds[-1] != "welcome":
                    kinds.append(wire.answer().type)
                return kinds

        async def tell() -> None:
            both = [Predicted(one, 0, 0.5, "v") for one in (window, silent)]
            room.ingest.send_predictions(both, waves.CLASSES)

        loop = asyncio.get_running_loop()
        assert await asyncio.to_thread(listen, "asks", True) == ["prediction", "welcome"]
        assert await asyncio.to_thread(listen, "silent", False) == ["welcome"]

    play(scene)
