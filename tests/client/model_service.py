"""The service of docs/protocol.md in memory: what a client is tested against, and nothing more."""

from __future__ import annotations

import contextlib
import threading
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import zmq

from edgetuner.errors import (
    BusyError,
    EdgetunerError,
    LabelError,
    ProtocolError,
    SequenceError,
    WindowError,
)
from edgetuner.protocol import (
    FROM_SENSOR,
    Ack,
    Hello,
    LabelHeader,
    PredictionHeader,
    Refusal,
    Welcome,
    WindowHeader,
    decode,
    decode_samples,
    encode,
)

CHANNELS, LENGTH, HZ = ["x", "y"], 4, 50.0
CLASSES = ["rest", "walk", "run"]


@dataclass
class Disk:
    """What survives a restart: of each stream, CRC by sequence number, and labels."""

    windows: defaultdict[str, dict[int, int | None]] = field(
        default_factory=lambda: defaultdict(dict)
    )
    labels: dict[tuple[str, int], str] = field(default_factory=dict)
    lost: Counter[str] = field(default_factory=Counter)
    boots: int = 0

    def last(self, stream: str) -> int | None:
        return max(self.windows[stream], default=None)


class ModelService:
    """Answers the frames of one client."""

    def __init__(self, disk: Disk, credit: int = 8) -> None:
        self.disk = disk
        self.credit = credit
        self.no_room: Counter[tuple[str, int]] = Counter()  # refused so often before it is taken
        self.refused_clients: set[str] = set()
        disk.boots += 1
        self.boot_id = f"boot-{disk.boots}"
        self._predictions = False

    def answers(self, frames: Sequence[bytes]) -> list[list[bytes]]:
        """What it says to one message."""
        try:
            header, payload = decode(frames, FROM_SENSOR)
        except ProtocolError as error:
            return [self._refuse(None, error, final=True)]
        if isinstance(header, Hello):
            return [self._welcome(header)]
        if isinstance(header, LabelHeader):
            return [self._label(header)]
        answer = self._window(header, payload)
        stored = isinstance(answer, Ack) and answer.outcome == "stored"
        predictions = [self.prediction(header)] if stored and self._predictions else []
        return [encode(answer), *predictions]

    def prediction(self, header: WindowHeader, *, again: bool = False) -> list[bytes]:
        return encode(
            PredictionHeader(
                client_id=header.client_id,
                stream=header.stream,
                seq=header.seq,
                t_ns=header.t_ns,
                predicted="walk",
                confidence=0.75,
                model="v1",
                again=again,
            )
        )

    def _welcome(self, hello: Hello) -> list[bytes]:
        if hello.client_id in self.refused_clients:
            return encode(
                Refusal(
                    of="hello",
                    final=True,
                    credit=0,
                    error=LabelError("not you", field="client_id").to_wire(),
                )
            )
        self._predictions = hello.predictions
        held = {stream: self.disk.last(stream) for stream in self.disk.windows}
        return encode(
            Welcome(
                boot_id=self.boot_id,
                channels=CHANNELS,
                length=LENGTH,
                hz=HZ,
                classes=CLASSES,
                model="v1",
                credit=self.credit,
                streams={stream: last for stream, last in held.items() if last is not None},
            )
        )

    def _window(self, header: WindowHeader, payload: bytes) -> Ack | Refusal:
        held, last = self.disk.windows[header.stream], self.disk.last(header.stream)
        expected = header.seq if last is None else last + 1
        if header.seq < expected:
            if held.get(header.seq) == header.crc32:
                return self._ack(header, "duplicate")
            return self._no(header, SequenceError("another is held", field="seq"), final=True)
        if header.seq > expected and not header.gap:
            error = SequenceError("windows are missing", field="seq")
            return self._no(header, error, final=False, expected=expected)
        if self.no_room[header.stream, header.seq] > 0:
            self.no_room[header.stream, header.seq] -= 1
            return self._no(header, BusyError("no room"), final=False)
        self.disk.lost[header.stream] += header.seq - expected
        try:
            decode_samples(header, payload)
        except WindowError as error:
            held[header.seq] = None
            return self._no(header, error, final=True)
        assert zlib.crc32(payload) == header.crc32
        held[header.seq] = header.crc32
        if header.label is not None:
            self.disk.labels[header.stream, header.seq] = header.label
        return self._ack(header, "stored")

    def _label(self, header: LabelHeader) -> list[bytes]:
        if header.label not in CLASSES:
            return encode(self._no(header, LabelError("no such class", field="label"), final=True))
        key = header.stream, header.seq
        before = self.disk.labels.get(key)
        self.disk.labels[key] = header.label
        if before is not None:
            return encode(self._ack(header, "duplicate" if before == header.label else "replaced"))
        here = header.seq in self.disk.windows[header.stream]
        return encode(self._ack(header, "stored" if here else "early"))

    def _ack(self, header: WindowHeader | LabelHeader, outcome: str) -> Ack:
        return Ack.model_validate(
            {
                "of": header.type,
                "stream": header.stream,
                "seq": header.seq,
                "outcome": outcome,
                "durable": True,
                "credit": self.credit,
            }
        )

    def _no(
        self,
        header: WindowHeader | LabelHeader,
        error: EdgetunerError,
        *,
        final: bool,
        expected: int | None = None,
    ) -> Refusal:
        return Refusal(
            of=header.type,
            stream=header.stream,
            seq=header.seq,
            final=final,
            expected=expected,
            error=error.to_wire(),
            credit=self.credit,
        )

    def _refuse(self, of: None, error: EdgetunerError, *, final: bool) -> list[bytes]:
        return encode(Refusal(of=of, final=final, error=error.to_wire(), credit=self.credit))


class Peer:
    """A real ROUTER in a thread. Killed, it says nothing more; what is on `disk` stays."""

    def __init__(self, address: str, disk: Disk | None = None, credit: int = 8) -> None:
        self.address = address
        self.disk = disk or Disk()
        self.service = ModelService(self.disk, credit)
        self.mute = threading.Event()  # reads, and keeps the answers to itself
        self.deaf = threading.Event()  # reads, and throws away
        self.seen = 0
        self.changed = threading.Condition()
        self._die = threading.Event()
        self._context = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        self._router.linger = 0
        self._router.bind(address)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def kill(self) -> None:
        """Ends without a word."""
        self._die.set()
        self._thread.join()
        self._context.destroy(linger=0)

    def reborn(self) -> Peer:
        """Another one on the same address and disk."""
        self.kill()
        return Peer(self.address, self.disk, self.service.credit)

    def wait_until_seen(self, count: int, timeout: float = 10.0) -> None:
        """Waits until it has read `count` messages."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.seen >= count, timeout), self.seen

    def _run(self) -> None:
        while not self._die.is_set():
            if not self._router.poll(10):
                continue
            identity, *frames = self._router.recv_multipart()
            answers = [] if self.deaf.is_set() else self.service.answers(frames)
            if not self.mute.is_set():
                for answer in answers:
                    self._router.send_multipart([identity, *answer])
            with self.changed:
                self.seen += 1
                self.changed.notify_all()


@contextlib.contextmanager
def living_peers(address: str, **arguments: int) -> Iterator[list[Peer]]:
    """A peer in a list, so that a test can put its successor there; the last one is ended."""
    peers = [Peer(address, **arguments)]
    try:
        yield peers
    finally:
        peers[-1].kill()
