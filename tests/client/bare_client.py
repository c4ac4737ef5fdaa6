"""A client written from docs/protocol.md alone: no line of edgetuner is used."""

from __future__ import annotations

import json
import struct
import time
import zlib
from collections.abc import Sequence
from typing import Any

import zmq


def header(**fields: Any) -> bytes:
    return json.dumps({"v": 1, **fields}).encode()


def window(client_id: str, stream: str, seq: int, x: Sequence[Sequence[float]]) -> list[bytes]:
    samples = [value for channel in x for value in channel]
    payload = struct.pack(f"<{len(samples)}f", *samples)
    fields = {
        "type": "window",
        "client_id": client_id,
        "stream": stream,
        "seq": seq,
        "t_ns": 1_700_000_000_123_456_789,
        "hz": 50.0,
        "dtype": "float32",
        "shape": [len(x), len(x[0])],
        "crc32": zlib.crc32(payload),
    }
    return [b"EDT1", header(**fields), payload]


class BareClient:
    """One stream. `publish`, then `run` until nothing is unanswered."""

    def __init__(self, address: str, client_id: str, stream: str) -> None:
        self.client_id, self.stream = client_id, stream
        self.queue: list[tuple[int, list[bytes]]] = []
        self.sent = 0  # the mark
        self.next_seq: int | None = None
        self.credit = 0
        self.boot_id = ""
        self.open = self.known = False
        self.under_way: list[tuple[int, float]] = []
        self.predicted: dict[int, str] = {}
        self.refused: list[dict[str, Any]] = []
        self.hello_at = self.not_before = 0.0
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.linger, self.socket.immediate = 0, 1
        self.socket.connect(address)

    def publish(self, x: Sequence[Sequence[float]]) -> None:
        while self.next_seq is None:
            self.step()
        self.queue.append((self.next_seq, window(self.client_id, self.stream, self.next_seq, x)))
        self.next_seq += 1

    def run(self) -> None:
        while self.queue:
            self.step()

    def close(self) -> None:
        self.context.destroy(linger=0)

    def step(self) -> None:
        now = time.monotonic()
        if self.open and self.under_way and now > self.under_way[0][1] + 0.2:
            self.open, self.hello_at = False, now
        if now >= self.hello_at:
            fields = {"type": "hello", "client_id": self.client_id, "predictions": True}
            self.send([b"EDT1", header(**fields)])
            self.hello_at = now + (5.0 if self.open else 0.2)
        while self.open and self.sent < len(self.queue) and now >= self.not_before:
            if len(self.under_way) >= (self.credit if self.known else 1):
                break
            seq, frames = self.queue[self.sent]
            if not self.send(frames):
                break
            self.under_way.append((seq, now))
            self.sent += 1
        while self.socket.poll(5):
            self.receive(json.loads(self.socket.recv_multipart()[1]))

    def send(self, frames: list[bytes]) -> bool:
        try:
            self.socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            self.open = False
            return False
        return True

    def receive(self, answer: dict[str, Any]) -> None:
        self.credit = answer.get("credit", self.credit)
        if answer["type"] == "welcome":
            if not self.open or answer["boot_id"] != self.boot_id:
                self.begin(answer)
        elif answer["type"] == "prediction":
            self.predicted[answer["seq"]] = answer["predicted"]
        elif answer["type"] == "ack":
            self.known = True
            self.answered(answer["seq"], drop=True)
        elif answer["final"]:
            self.refused.append(answer)
            self.answered(answer["seq"], drop=True)
        else:
            self.answered(answer["seq"], drop=False)
            seqs = [seq for seq, _ in self.queue]
            back_to = answer.get("expected", answer["seq"])
            again = any(seq == answer["seq"] for seq, _ in self.under_way)
            if answer["seq"] in seqs[: self.sent] and not again:
                self.sent = min(self.sent, seqs.index(back_to))
                if "expected" not in answer:
                    self.not_before = time.monotonic() + 0.05

    def begin(self, welcome: dict[str, Any]) -> None:
        last = welcome["streams"].get(self.stream)
        self.boot_id, self.open, self.known = welcome["boot_id"], True, last is not None
        self.queue = [q for q in self.queue if last is None or q[0] > last]
        self.sent, self.under_way = 0, []
        if self.next_seq is None:
            self.next_seq = 0 if last is None else last + 1

    def answered(self, seq: int, *, drop: bool) -> None:
        for index, (under_way, _) in enumerate(self.under_way):
            if under_way == seq:
                del self.under_way[index]
                break
        for index, (kept, _) in enumerate(self.queue):
            if drop and kept == seq:
                del self.queue[index]
                self.sent -= index < self.sent
                break
