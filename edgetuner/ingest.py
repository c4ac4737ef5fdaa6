"""Windows and labels come in: checked, committed, acknowledged, handed on.

An acknowledgement goes out only after the commit. Messages that lie waiting are committed together,
so that one flush of the disk serves many of them (group commit), and nothing waits longer for it.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetuner import protocol
from edgetuner.bundle import Manifest
from edgetuner.config import IngestConfig
from edgetuner.drift.monitor import Finding
from edgetuner.errors import (
    AccessError,
    BusyError,
    EdgetunerError,
    LabelError,
    ProtocolError,
    SequenceError,
    StoreError,
    WindowError,
)
from edgetuner.pipeline import Pipeline, Predicted
from edgetuner.protocol import FROM_SENSOR, Ack, Hello, LabelHeader, Refusal, Welcome, WindowHeader
from edgetuner.store import Entry, LabelEntry, Receipt, Window
from edgetuner.transport import AsyncSocket, Received, Sockets, receive_batch, send_now

_RATE_TOLERANCE = 0.02  # of the sampling rate; a sensor's own clock is off by less
_RATE_SPAN_S = 10.0
# Standard deviations from the source's mean: beyond any sensor, and far below float32's limit.
_SANE = 1e6
_KEPT = 8192  # predictions that wait for their client to come back, or to take them


@dataclass(frozen=True, slots=True)
class _Arrival:
    """A message that was understood, and who waits for the answer (None on the plain plane)."""

    peer: bytes | None
    header: Hello | WindowHeader | LabelHeader
    x: NDArray[np.float32] | None = None
    refusal: EdgetunerError | None = None


class Ingest:
    """The two sockets of the sensors.

    Args:
        sockets: knows which client a key belongs to.
        router: where acknowledged clients are answered.
        pipeline: where windows and labels go.
        settings: gives the configuration in force.
        boot_id: new with every start of the service.
        on_windows: awaited with the windows that are stored, in order; while it waits, so do the
            sensors.
        on_labels: called after labels were stored, with what the detectors found in them.
    """

    def __init__(
        self,
        sockets: Sockets,
        router: AsyncSocket,
        pipeline: Pipeline,
        settings: Callable[[], IngestConfig],
        boot_id: str,
        on_windows: Callable[[Sequence[Window]], Awaitable[None]],
        on_labels: Callable[[Sequence[Finding]], None],
    ) -> None:
        self._sockets = sockets
        self._router = router
        self._pipeline = pipeline
        self._settings = settings
        self._boot_id = boot_id
        self._on_windows = on_windows
        self._on_labels = on_labels
        self._listeners: dict[str, bytes] = {}  # client that wants predictions -> its routing id
        self._recovered: dict[str, deque[list[bytes]]] = {}  # client -> what it has yet to take
        self._recent: defaultdict[tuple[str, str], deque[float]] = defaultdict(deque)
        self.counts: Counter[str] = Counter(
            {"windows": 0, "labels": 0, "relabelled": 0, "duplicates": 0, "lost": 0, "refused": 0}
        )
        self.refusals: Counter[str] = Counter()

    async def serve(self, socket: AsyncSocket, *, plain: bool = False) -> None:
        """Takes what sensors send to a ROUTER socket, or `plain`, without answers, to a SUB; until
        cancelled.
        """
        while True:
            batch = await receive_batch(socket, self._settings().batch)
            if plain:
                arrivals = [self._understand(message, None) for message in batch]
            else:
                arrivals = [
                    self._understand(m._replace(frames=m.frames[1:]), m.frames[0]) for m in batch
                ]
            await self._take([arrival for arrival in arrivals if arrival is not None])
            self._send_recovered()

    def send_predictions(self, predicted: Sequence[Predicted], names: Sequence[str]) -> None:
        """Sends each client that asked for them the predictions of its windows."""
        self._send_recovered()
        for one in predicted:
            client = one.window.client
            peer = self._listeners.get(client)
            if peer is None:
                continue
            frames = protocol.encode(prediction_header(one, names))
            if client in self._recovered:  # in order, behind what it has not taken yet
                self._keep(client, frames)
            else:
                send_now(self._router, [peer, *frames])

    def keep(self, recovered: Sequence[Predicted], names: Sequence[str]) -> None:
        """Keeps predictions made up for at the start until their clients have said hello."""
        for one in recovered[-_KEPT:]:
            self._keep(one.window.client, protocol.encode(prediction_header(one, names)))

    def _keep(self, client: str, frames: list[bytes]) -> None:
        self._recovered.setdefault(client, deque(maxlen=_KEPT)).append(frames)

    # ------------------------------------------------------------------ one message

    def _understand(self, message: Received, peer: bytes | None) -> _Arrival | None:
        """Checks all that can be told without the store; refuses by answering, and then returns
        None.
        """
        try:
            header, payload = protocol.decode(message.frames, FROM_SENSOR)
            self._check_sender(header, message.key)
        except (ProtocolError, AccessError) as error:
            self._refuse(peer, error, of=None, stream=None, seq=None, final=True)
            return None
        if not isinstance(header, WindowHeader):
            return _Arrival(peer, header)
        try:
            return _Arrival(peer, header, self._samples(header, payload))
        except EdgetunerError as error:
            return _Arrival(peer, header, refusal=error)

    def _check_sender(self, header: Hello | WindowHeader | LabelHeader, key: str | None) -> None:
        name = self._sockets.client_name(key)
        if name is not None and name != header.client_id:
            raise AccessError(
                "this key belongs to another client",
                field="client_id",
                value=header.client_id,
                remedy=f"publish as {name!r}" if name else "use a key that the service knows",
            )

    def _samples(self, header: WindowHeader, payload: bytes) -> NDArray[np.float32]:
        manifest = self._pipeline.version.manifest
        wanted = [len(manifest.channels), manifest.length]
        if header.shape != wanted:
            raise WindowError(
                "the model takes another shape",
                field="shape",
                value=header.shape,
                remedy=f"send {wanted}: {wanted[0]} channels of {wanted[1]} samples",
            )
        if abs(header.hz / manifest.hz - 1) > _RATE_TOLERANCE:
            raise WindowError(
                "the model takes another sampling rate",
                field="hz",
                value=header.hz,
                remedy=f"resample to {manifest.hz:g} Hz",
            )
        if header.label is not None:
            _class_index(header.label, manifest)
        x = protocol.decode_samples(header, payload)
        self._check_range(x)
        return x

    def _check_range(self, x: NDArray[np.float32]) -> None:
        bundle = self._pipeline.version.bundle
        with np.errstate(over="ignore"):  # infinity is beyond the limit too
            reach = np.abs(x - bundle.mean[:, None]).max(1) / bundle.std
        if (reach > _SANE).any():
            worst = int(reach.argmax())
            raise WindowError(
                "no sensor measures this",
                field="payload",
                value=f"{np.abs(x[worst]).max():.3g} in {bundle.manifest.channels[worst]}",
                remedy="send physical units, and drop what a broken sensor says",
            )

    # ------------------------------------------------------------------ a batch

    async def _take(self, arrivals: Sequence[_Arrival]) -> None:
        windows = [a for a in arrivals if isinstance(a.header, WindowHeader) and self._in_time(a)]
        labels = [a for a in arrivals if isinstance(a.header, LabelHeader)]
        if windows:
            await self._take_windows(windows)
        if labels:
            await self._take_labels(labels)
        for arrival in arrivals:
            if isinstance(arrival.header, Hello) and arrival.peer is not None:
                await self._welcome(arrival.peer, arrival.header)

    def _in_time(self, arrival: _Arrival) -> bool:
        """Turns a stream away that sends at an absurd rate: it would push out everybody else's
        windows.
        """
        header = arrival.header
        assert isinstance(header, WindowHeader)
        now = time.monotonic()
        self._forget_silent(now - _RATE_SPAN_S)
        recent = self._recent[header.client_id, header.stream]
        while recent and recent[0] < now - _RATE_SPAN_S:
            recent.popleft()
        most = self._settings().max_windows_per_s
        if len(recent) >= most * _RATE_SPAN_S:
            error = BusyError(
                "an absurd rate of windows",
                field="stream",
                value=f"{header.stream}: over {most:g} windows/s",
                remedy="send slower, or raise ingest.max_windows_per_s",
            )
            self._refuse_header(arrival, error, final=False)
            return False
        recent.append(now)
        return True

    def _forget_silent(self, before: float) -> None:
        """Streams that were refused for want of room must not pile up here."""
        if len(self._recent) > 2 * self._settings().max_streams:
            for key in [key for key, recent in self._recent.items() if recent[-1] < before]:
                del self._recent[key]

    async def _take_windows(self, arrivals: list[_Arrival]) -> None:
        manifest = self._pipeline.version.manifest
        entries = [_entry(arrival, manifest) for arrival in arrivals]
        try:
            receipts = await self._pipeline.stored(lambda store: store.add(entries))
        except StoreError as error:  # a full disk: nothing is held, so nothing is acknowledged
            for arrival in arrivals:
                self._refuse_header(arrival, error, final=False)
            return
        stored = []
        for arrival, receipt in zip(arrivals, receipts, strict=True):
            self._answer_window(arrival, receipt)
            if receipt.window is not None:
                stored.append(receipt.window)
        await self._on_windows(stored)
        if any(a.header.label for a in arrivals if isinstance(a.header, WindowHeader)):
            self._on_labels([])

    def _answer_window(self, arrival: _Arrival, receipt: Receipt) -> None:
        header = arrival.header
        assert isinstance(header, WindowHeader)
        self.counts["lost"] += receipt.lost
        if receipt.outcome in ("stored", "duplicate"):
            self.counts["windows" if receipt.outcome == "stored" else "duplicates"] += 1
            self._ack(arrival, "window", receipt.outcome, receipt.durable)
        elif receipt.outcome == "refused" and arrival.refusal is not None:
            self._refuse_header(arrival, arrival.refusal, final=True)
        else:
            final = receipt.outcome != "gap" and receipt.outcome != "busy"
            expected = receipt.expected if receipt.outcome == "gap" else None
            self._refuse_header(
                arrival, _out_of_turn(header, receipt), final=final, expected=expected
            )

    async def _take_labels(self, arrivals: list[_Arrival]) -> None:
        manifest = self._pipeline.version.manifest
        entries, senders = [], []
        for arrival in arrivals:
            assert isinstance(arrival.header, LabelHeader)
            try:
                entries.append(_label_entry(arrival.header, manifest))
                senders.append(arrival)
            except LabelError as error:
                self._refuse_header(arrival, error, final=True)
        try:
            outcomes, findings = await self._pipeline.label(entries)
        except StoreError as error:
            for arrival in senders:
                self._refuse_header(arrival, error, final=False)
            return
        for arrival, receipt in zip(senders, outcomes, strict=True):
            if receipt.outcome in ("stored", "duplicate", "replaced", "early"):
                self.counts["labels"] += receipt.outcome != "duplicate"
                self.counts["relabelled"] += receipt.outcome == "replaced"
                self._ack(arrival, "label", receipt.outcome, receipt.durable)
            else:
                self._refuse_header(
                    arrival, _unlabelled(arrival.header, receipt.outcome), final=True
                )
        self._on_labels(findings)

    async def _welcome(self, peer: bytes, hello: Hello) -> None:
        streams = await self._pipeline.stored(lambda store: store.cursors(hello.client_id))
        self._listeners.pop(hello.client_id, None)
        if hello.predictions:
            self._listeners[hello.client_id] = peer
            if len(self._listeners) > self._settings().max_streams:  # who has not come for longest
                del self._listeners[next(iter(self._listeners))]
        version = self._pipeline.version
        welcome = Welcome(
            boot_id=self._boot_id,
            channels=list(version.manifest.channels),
            length=version.manifest.length,
            hz=version.manifest.hz,
            classes=list(version.classes),
            model=version.id,
            credit=self._settings().credit,
            streams=streams,
        )
        send_now(self._router, [peer, *protocol.encode(welcome)])
        self._send_recovered()

    def _send_recovered(self) -> None:
        """As many as their clients take now; the rest goes on waiting."""
        for client in self._recovered.keys() & self._listeners.keys():
            peer, waiting = self._listeners[client], self._recovered[client]
            while waiting and send_now(self._router, [peer, *waiting[0]]):
                waiting.popleft()
            if not waiting:
                del self._recovered[client]

    # ------------------------------------------------------------------ answers

    def _ack(self, arrival: _Arrival, of: Any, outcome: Any, durable: bool) -> None:
        header = arrival.header
        assert not isinstance(header, Hello)
        if arrival.peer is None:
            return
        ack = Ack(
            of=of,
            stream=header.stream,
            seq=header.seq,
            outcome=outcome,
            durable=durable,
            credit=self._settings().credit,
        )
        send_now(self._router, [arrival.peer, *protocol.encode(ack)])

    def _refuse_header(
        self, arrival: _Arrival, error: EdgetunerError, *, final: bool, expected: int | None = None
    ) -> None:
        header = arrival.header
        assert not isinstance(header, Hello)
        self._refuse(
            arrival.peer,
            error,
            of=header.type,
            stream=header.stream,
            seq=header.seq,
            final=final,
            expected=expected,
        )

    def _refuse(
        self,
        peer: bytes | None,
        error: EdgetunerError,
        *,
        of: Any,
        stream: str | None,
        seq: int | None,
        final: bool,
        expected: int | None = None,
    ) -> None:
        self.counts["refused"] += 1
        self.refusals[f"{error.code}.{error.field}" if error.field else error.code] += 1
        if peer is None:
            return
        refusal = Refusal(
            of=of,
            stream=stream,
            seq=seq,
            final=final,
            expected=expected,
            error=error.to_wire(),
            credit=self._settings().credit,
        )
        send_now(self._router, [peer, *protocol.encode(refusal)])


def prediction_header(one: Predicted, names: Sequence[str]) -> protocol.PredictionHeader:
    """The wire form of a prediction; `names` are the classes."""
    return protocol.PredictionHeader(
        client_id=one.window.client,
        stream=one.window.stream,
        seq=one.window.seq,
        t_ns=one.window.t_ns,
        predicted=names[one.predicted],
        confidence=round(one.confidence, 4),
        overruled=None if one.overruled is None else names[one.overruled],
        model=one.version,
        again=one.again,
    )


def _entry(arrival: _Arrival, manifest: Manifest) -> Entry:
    header = arrival.header
    assert isinstance(header, WindowHeader)
    refused = arrival.refusal is not None
    labelled = header.label is not None and not refused
    return Entry(
        client=header.client_id,
        stream=header.stream,
        seq=header.seq,
        t_ns=header.t_ns,
        x=arrival.x,
        crc32=header.crc32,
        refusal=arrival.refusal.code if arrival.refusal is not None else None,
        plain=arrival.peer is None or header.gap,  # either way the missing ones will never come
        label=_class_index(header.label or "", manifest) if labelled else None,
    )


def _label_entry(header: LabelHeader, manifest: Manifest) -> LabelEntry:
    return LabelEntry(
        client=header.client_id,
        stream=header.stream,
        seq=header.seq,
        label=_class_index(header.label, manifest),
        t_ns=time.time_ns(),
    )


def _class_index(label: str, manifest: Manifest) -> int:
    try:
        return manifest.classes.index(label)
    except ValueError:
        raise LabelError(
            "the model has no such class",
            field="label",
            value=label,
            remedy=f"use one of {', '.join(manifest.classes)}",
        ) from None


def _out_of_turn(header: WindowHeader, receipt: Receipt) -> EdgetunerError:
    if receipt.outcome == "busy":
        return BusyError(
            "no room for a further stream",
            field="stream",
            value=header.stream,
            remedy="raise ingest.max_streams, or use fewer streams",
        )
    problem, remedy = {
        "gap": ("windows are missing before this one", f"go on from {receipt.expected}"),
        "conflict": (
            "another window is held under this number",
            f"say hello and go on from {receipt.expected}",
        ),
        "expired": (
            "this number was used, and its window is gone by now",
            f"say hello and go on from {receipt.expected}",
        ),
    }[receipt.outcome]
    return SequenceError(problem, field="seq", value=header.seq, remedy=remedy)


def _unlabelled(header: Any, outcome: str) -> LabelError:
    problem = {
        "unknown_stream": "this stream never sent a window",
        "expired": "its window is gone by now",
        "refused": "its window was refused",
    }.get(outcome, f"cannot be joined to a window: {outcome}")
    return LabelError(
        problem,
        field="stream" if outcome == "unknown_stream" else "seq",
        value=header.stream if outcome == "unknown_stream" else header.seq,
        remedy="label windows that were sent, while they are kept (store.max_mb)",
    )
