"""The sensor's side of the acknowledged plane, without sockets, threads or a clock.

Whoever owns the socket hands in what arrives (`receive`), asks what is to be sent (`next_message`)
until there is nothing, and comes back at `deadline`. Times are seconds of any clock that only goes
forward.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgetuner.client.lane import Item, Kind, Lane, Sent
from edgetuner.errors import (
    BusyError,
    EdgetunerError,
    LabelError,
    ProtocolError,
    SequenceError,
    UnavailableError,
    UsageError,
    WindowError,
)
from edgetuner.protocol import (
    TO_SENSOR,
    Ack,
    Hello,
    LabelHeader,
    PredictionHeader,
    Refusal,
    Welcome,
    WindowHeader,
    compose,
    decode,
    encode,
    error_from_wire,
    whole,
    window_message,
)

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

_log = logging.getLogger("edgetuner.client")

_KEPT_REFUSALS: Final = 1_000
_KEPT_PREDICTIONS: Final = 10_000
_RETRY_CONNECTION_S: Final = 1.0


@dataclass(slots=True)
class Counts:
    """What happened so far."""

    published: int = 0
    labelled: int = 0
    acked: int = 0  # windows that the service holds
    labels_acked: int = 0
    duplicates: int = 0  # acknowledged more than once, held once
    refused: int = 0  # windows and labels
    resent: int = 0
    greetings: int = 0  # connections and restarts
    predictions: int = 0
    predictions_repeated: int = 0  # seen before, and dropped
    predictions_dropped: int = 0  # nobody took them in time
    unreadable: int = 0


class Session:
    """Sequence numbers, what is not acknowledged yet, and when to say hello or send again.

    Args:
        client_id: as in the protocol.
        predictions: whether to ask for the predictions of this client's windows.
        max_pending: how many windows and labels are kept unacknowledged.
        resend_after_s: an answer that is missing for so long makes it ask where the streams stand.
        hello_every_s: how often it asks without a cause, so that a restarted service knows this
            client.

    Raises:
        ProtocolError: not a client's name.
    """

    def __init__(
        self,
        client_id: str,
        *,
        predictions: bool = True,
        max_pending: int = 1024,
        resend_after_s: float = 2.0,
        hello_every_s: float = 5.0,
    ) -> None:
        self.welcome: Welcome | None = None
        self.failed: EdgetunerError | None = None
        self.predictions: deque[PredictionHeader] = deque()
        self.refusals: deque[Refusal] = deque(maxlen=_KEPT_REFUSALS)
        self.counts = Counts()
        self.resend_after_s = resend_after_s
        self._hello = compose(Hello, client_id=client_id, predictions=predictions)
        self._hello_every_s = hello_every_s
        self._max_pending = max_pending
        self._lanes: dict[str, Lane] = {}
        self._under_way: deque[Sent] = deque()
        self._predicted: dict[str, int] = {}
        self._credit = 0
        self._open = False
        self._hello_at = 0.0
        self._unanswered_hello_at: float | None = None

    # ------------------------------------------------------------------ the user's side

    @property
    def client_id(self) -> str:
        """The name that every header carries."""
        return self._hello.client_id

    @property
    def pending(self) -> int:
        """Windows and labels that the service has not answered yet."""
        return sum(len(lane.items) for lane in self._lanes.values())

    @property
    def ready(self) -> bool:
        """Whether `publish` and `label` can take something."""
        return self.welcome is not None and self.pending < self._max_pending

    def publish(
        self,
        stream: str,
        x: ArrayLike,
        *,
        t_ns: int,
        hz: float | None = None,
        label: str | None = None,
        seq: int | None = None,
    ) -> int:
        """Takes a window and returns its sequence number; see `Client.publish`."""
        welcome = self._check_ready()
        lane = self._lane(stream)
        number = _next_seq(lane, seq)
        if label is not None:
            _check_label(label, welcome)
        header, payload = window_message(
            _checked_samples(x, welcome),
            client_id=self.client_id,
            stream=stream,
            seq=number,
            t_ns=whole("t_ns", t_ns),
            hz=float(welcome.hz if hz is None else hz),
            label=label,
        )
        self._lanes[stream] = lane
        lane.items.append(Item(header, payload))
        lane.next_seq = max(number + 1, lane.next_seq or 0)
        self.counts.published += 1
        return number

    def label(self, stream: str, seq: int, label: str) -> None:
        """Takes a label; see `Client.label`."""
        _check_label(label, self._check_ready())
        header = compose(
            LabelHeader, client_id=self.client_id, stream=stream, seq=whole("seq", seq), label=label
        )
        self._lanes.setdefault(stream, Lane()).items.append(Item(header))
        self.counts.labelled += 1

    # ------------------------------------------------------------------ the wire's side

    def next_message(self, now: float) -> list[bytes] | None:
        """The next message to be sent, counted as sent; None if there is none at present."""
        if self.failed is not None:
            return None
        if self._open and now >= self._overdue_at():
            self._greet(now)
        if now >= self._hello_at:
            return self._say_hello(now)
        if not self._open or len(self._under_way) >= self._credit:
            return None
        return self._send(now)

    def deadline(self, now: float) -> float:
        """When `next_message` may have something, if nothing arrives or is published before."""
        if self.failed is not None:
            return math.inf
        times = [self._hello_at]
        if self._open:
            times.append(self._overdue_at())
        if self._open and len(self._under_way) < self._credit:
            waiting = (lane for lane in self._lanes.values() if lane.sent < len(lane.items))
            times += [lane.not_before for lane in waiting if lane.not_before > now]
        return min(times)

    def receive(self, frames: list[bytes], now: float) -> None:
        """Takes in what arrived."""
        try:
            message, _ = decode(frames, TO_SENSOR)
        except ProtocolError as error:
            self.counts.unreadable += 1
            _log.warning("an answer that cannot be read: %s", error)
            return
        match message:
            case Welcome():
                self._on_welcome(message, now)
            case Ack():
                self._on_ack(message)
            case Refusal():
                self._on_refusal(message, now)
            case PredictionHeader():
                self._on_prediction(message)

    def disconnected(self, now: float) -> None:
        """Tells that a message could not leave: there is no connection at present."""
        self._open = False
        self._hello_at = now + _RETRY_CONNECTION_S

    def connected(self, now: float) -> None:
        """Tells that messages can leave again."""
        self._hello_at = now

    # ------------------------------------------------------------------ sending

    def _greet(self, now: float) -> None:
        # What is under way stays until the welcome: its answers may still come, and come before it.
        self._open = False
        self._hello_at = now

    def _say_hello(self, now: float) -> list[bytes]:
        self._hello_at = now + (self._hello_every_s if self._open else self.resend_after_s)
        if self._unanswered_hello_at is None:
            self._unanswered_hello_at = now
        return encode(self._hello)

    def _overdue_at(self) -> float:
        oldest = [self._under_way[0].at] if self._under_way else []
        if self._unanswered_hello_at is not None:
            oldest.append(self._unanswered_hello_at)
        return min(oldest, default=math.inf) + self.resend_after_s

    def _send(self, now: float) -> list[bytes] | None:
        for stream, lane in self._lanes.items():
            sent = lane.send(now)
            if sent is None:
                continue
            self._lanes[stream] = self._lanes.pop(stream)  # to the end: streams take turns
            self._under_way.append(sent)
            self.counts.resent += sent.item.tries > 1
            header = sent.item.header
            if sent.gap:
                header = header.model_copy(update={"gap": True})
            return encode(header, sent.item.payload)
        return None

    # ------------------------------------------------------------------ receiving

    def _on_welcome(self, welcome: Welcome, now: float) -> None:
        restarted = self.welcome is not None and welcome.boot_id != self.welcome.boot_id
        begins = restarted or not self._open
        self.welcome = welcome
        self._credit = welcome.credit
        self._unanswered_hello_at = None
        if not begins:
            return
        self._open = True
        self._hello_at = now + self._hello_every_s
        self._under_way.clear()
        self.counts.greetings += 1
        for stream in welcome.streams:
            self._lanes.setdefault(stream, Lane())
        for stream, lane in self._lanes.items():
            self.counts.acked += lane.resume(welcome.streams.get(stream))

    def _on_ack(self, ack: Ack) -> None:
        self._credit = ack.credit
        sent = self._answered(ack.of, ack.stream, ack.seq)
        item = self._item(sent, ack.of, ack.stream, ack.seq)
        if item is None:
            return
        lane = self._lanes[ack.stream]
        lane.drop(item)
        self.counts.duplicates += ack.outcome == "duplicate"
        if ack.of == "window":
            lane.accepted()
            self.counts.acked += 1
        else:
            self.counts.labels_acked += 1

    def _on_refusal(self, refusal: Refusal, now: float) -> None:
        self._credit = refusal.credit
        of, stream, seq = refusal.of, refusal.stream, refusal.seq
        if of is not None and of != "hello" and stream is not None and seq is not None:
            self._on_item_refused(refusal, of, stream, seq, now)
        elif refusal.final:
            # It cannot read what we say, or will not talk to us: sending again would not help.
            self.failed = error_from_wire(refusal.error)
        elif self._open:
            self._greet(now)  # it does not know this connection

    def _on_item_refused(
        self, refusal: Refusal, of: Kind, stream: str, seq: int, now: float
    ) -> None:
        sent = self._answered(of, stream, seq)
        item = self._item(sent, of, stream, seq)
        if item is None:
            return
        lane = self._lanes[stream]
        if refusal.final:
            lane.drop(item)
            self.counts.refused += 1
            self.refusals.append(refusal)
            _log.warning("%s %s of %s refused: %s", of, seq, stream, refusal.error.get("message"))
        elif sent is None or not lane.has_sent(item) or self._is_under_way(item):
            return  # of what left before the lane went back: it is, or will be, sent again
        elif refusal.expected is None:
            lane.try_later(item, now)
        elif sent.gap:
            self.failed = SequenceError(
                "the service awaits a window that it has acknowledged, and that is gone",
                field=f"{stream}.seq",
                value=seq,
                remedy="update the service, or publish under another stream's name",
                details={"expected": refusal.expected},
            )
        else:
            lane.go_on_from(refusal.expected)

    def _on_prediction(self, prediction: PredictionHeader) -> None:
        last = self._predicted.get(prediction.stream, -1)
        if prediction.again and prediction.seq <= last:
            self.counts.predictions_repeated += 1
            return
        self._predicted[prediction.stream] = max(last, prediction.seq)
        self.counts.predictions += 1
        if len(self.predictions) == _KEPT_PREDICTIONS:
            self.predictions.popleft()
            self.counts.predictions_dropped += 1
        self.predictions.append(prediction)

    def _answered(self, of: Kind, stream: str, seq: int) -> Sent | None:
        """Takes the oldest message under way of this name; answers come in order, so it is near."""
        wanted: type[Any] = WindowHeader if of == "window" else LabelHeader
        for index, sent in enumerate(self._under_way):
            header = sent.item.header
            if header.seq == seq and header.stream == stream and isinstance(header, wanted):
                del self._under_way[index]
                return sent
        return None

    def _is_under_way(self, item: Item) -> bool:
        return any(sent.item is item for sent in self._under_way)

    def _item(self, sent: Sent | None, of: Kind, stream: str, seq: int) -> Item | None:
        """The item that an answer speaks of, if it is still kept."""
        lane = self._lanes.get(stream)
        if lane is None:
            return None
        if sent is not None:
            return sent.item if sent.item in lane.items else None
        # A window is what its number says, whenever it left; of labels there may be several.
        return lane.find(of, seq) if of == "window" else None

    # ------------------------------------------------------------------ checks

    def _lane(self, stream: str) -> Lane:
        return self._lanes.get(stream) or Lane()

    def _check_ready(self) -> Welcome:
        if self.failed is not None:
            raise self.failed
        if self.welcome is None:
            raise UnavailableError(
                "the service does not answer",
                remedy="see that it runs, at this address and with these keys",
            )
        if self.pending >= self._max_pending:
            raise BusyError(
                "too many windows wait for an acknowledgement",
                field="max_pending",
                value=self._max_pending,
                remedy="publish more slowly, or see why the service does not answer",
            )
        return self.welcome


def _next_seq(lane: Lane, seq: int | None) -> int:
    following = 0 if lane.next_seq is None else lane.next_seq
    if seq is None:
        return following
    seq = whole("seq", seq)
    waiting = [item.header.seq for item in lane.items if isinstance(item.header, WindowHeader)]
    if waiting and seq <= waiting[-1]:
        raise UsageError(
            "sequence numbers count up",
            field="seq",
            value=seq,
            remedy=f"publish {waiting[-1] + 1} or a later one",
        )
    return seq


def _checked_samples(x: ArrayLike, welcome: Welcome) -> np.ndarray:
    samples = np.asarray(x)
    shape = (len(welcome.channels), welcome.length)
    if samples.dtype.kind not in "fiu":
        raise WindowError(
            "samples are not numbers", field="x", value=str(samples.dtype), remedy="send float32"
        )
    if samples.shape != shape:
        raise WindowError(
            "the model takes another shape",
            field="x",
            value=samples.shape,
            remedy=f"send {shape}: {', '.join(welcome.channels)}, each with its samples",
        )
    if samples.dtype != np.float16:
        with np.errstate(over="ignore"):  # it becomes infinite, and is refused below
            samples = samples.astype(np.float32)
    if not np.isfinite(samples).all():
        raise WindowError(
            "a sample is not finite",
            field="x",
            value=f"{int((~np.isfinite(samples)).sum())} of {samples.size} samples",
            remedy="drop or repair the window",
        )
    return samples


def _check_label(label: str, welcome: Welcome) -> None:
    if label not in welcome.classes:
        raise LabelError(
            "not a class of the model",
            field="label",
            value=label,
            remedy=f"one of {', '.join(welcome.classes)}",
        )
