"""Sensors that are not there: recorded windows, sent as sensors would, with drift by script.

A person does one thing for a while, then another, so the windows go out in bouts that rotate
through the classes, each class in its own order of time. A phase is a selection of the recording
(the sensor on the right wrist), and the next phase another one (on the left). Labels follow later,
for some of the windows.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetuner.client import Client
from edgetuner.data import WindowSet
from edgetuner.errors import UsageError
from edgetuner.metrics import macro_f1

_FLUSH_S = 30.0
_END = object()


@dataclass(frozen=True)
class Script:
    """How the windows are sent.

    Attributes:
        bout: windows of one class in a row.
        label_share: share of the windows that get a label, 0 to 1.
        label_delay: windows of the same stream sent before its label.
        rate: windows a second of each stream; None: as fast as they are taken.
        hop_s: seconds from one window's start to the next within a bout.
        seed: of the choice of labelled windows.
    """

    bout: int = 8
    label_share: float = 0.3
    label_delay: int = 5
    rate: float | None = 10.0
    hop_s: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, ok, remedy in (
            ("bout", self.bout >= 1, "at least 1"),
            ("label_share", 0 <= self.label_share <= 1, "between 0 and 1"),
            ("label_delay", self.label_delay >= 0, "0 or more"),
            ("rate", self.rate is None or self.rate > 0, "above 0"),
            ("hop_s", self.hop_s is None or self.hop_s > 0, "above 0"),
        ):
            if not ok:
                raise UsageError(
                    "out of range", field=name, value=getattr(self, name), remedy=f"choose {remedy}"
                )


@dataclass(slots=True)
class Sent:
    """One window that was sent, and what came back.

    Attributes:
        order: position among all windows of the simulation.
        client: who sent it.
        seq: its number in the stream.
        t: when it was sent, monotonic seconds.
        phase: index of the phase.
        y: class index of the truth.
        labelled: whether its label is sent too.
        predicted: class name that the service said; None until it does.
        model: the version that said so.
    """

    order: int
    client: str
    seq: int
    t: float
    phase: int
    y: int
    labelled: bool
    predicted: str | None = None
    model: str | None = None


@dataclass
class Outcome:
    """What a simulation did.

    Attributes:
        sent: every window, in the order of sending.
        acked: windows that the service acknowledged.
        predictions: windows whose prediction arrived.
        duplicates: windows acknowledged as held already, and predictions that came a second time.
        refusals: errors of the service, as they came.
        seconds: from the first window to the last answer.
    """

    sent: list[Sent] = field(default_factory=list)
    acked: int = 0
    predictions: int = 0
    duplicates: int = 0
    refusals: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0

    def accuracy(self, classes: Sequence[str], phase: int) -> float | None:
        """Share of right predictions in a phase; None before the first."""
        known = self._predicted(phase)
        return sum(s.predicted == classes[s.y] for s in known) / len(known) if known else None

    def macro_f1(self, classes: Sequence[str], phase: int) -> float | None:
        """Macro-F1 of the predictions in a phase; None before the first."""
        known = self._predicted(phase)
        if not known:
            return None
        named = {name: index for index, name in enumerate(classes)}
        said = np.array([named.get(s.predicted or "", -1) for s in known])
        return macro_f1(np.array([s.y for s in known]), said)

    def _predicted(self, phase: int) -> list[Sent]:
        return [s for s in self.sent if s.phase == phase and s.predicted is not None]


class Sensor:
    """One stream of one client.

    Args:
        client: connected.
        stream: name of the stream.
        phases: what it sends, one after the other.
        script: how.
        outcome: where everything is noted.
    """

    def __init__(
        self,
        client: Client,
        stream: str,
        phases: Sequence[WindowSet],
        script: Script,
        outcome: Outcome,
    ) -> None:
        self._client = client
        self._stream = stream
        self._phases = phases
        self._script = script
        self._outcome = outcome
        self._by_seq: dict[int, Sent] = {}
        self._due: deque[tuple[int, Sent, str]] = deque()  # (number of windows then, whose, label)
        self._count = 0

    def steps(self) -> Iterator[None]:
        """Sends one window a step, with the labels that are due, and takes what has come back."""
        draw = np.random.default_rng([self._script.seed, *self._client.client_id.encode()])
        t_ns = time.time_ns()
        for phase, windows in enumerate(self._phases):
            length_s = windows.length / windows.hz
            hop_s = self._script.hop_s or length_s
            order = in_bouts(windows, self._script.bout)
            for row, apart_s in zip(order, spacing(windows, order, hop_s, length_s), strict=True):
                t_ns += round(1e9 * apart_s)
                self._send(
                    windows, row, phase, t_ns, bool(draw.random() < self._script.label_share)
                )
                yield
        while self._due:
            self._label_due(all_of_them=True)

    def _send(self, windows: WindowSet, row: int, phase: int, t_ns: int, labelled: bool) -> None:
        seq = self._client.publish(self._stream, windows.x[row], t_ns=t_ns, hz=windows.hz)
        sent = Sent(
            len(self._outcome.sent),
            self._client.client_id,
            seq,
            time.monotonic(),
            phase,
            int(windows.y[row]),
            labelled,
        )
        self._outcome.sent.append(sent)
        self._by_seq[seq] = sent
        self._count += 1
        if labelled:
            due = self._count + self._script.label_delay
            self._due.append((due, sent, windows.classes[sent.y]))
        self._label_due()

    def _label_due(self, *, all_of_them: bool = False) -> None:
        while self._due and (all_of_them or self._due[0][0] <= self._count):
            _, sent, label = self._due.popleft()
            self._client.label(self._stream, sent.seq, label)

    def take_predictions(self, timeout_s: float = 0.0) -> None:
        """Notes the predictions that have come; waits up to `timeout_s` for the next."""
        for prediction in self._client.predictions(timeout=timeout_s):
            sent = self._by_seq.get(prediction.seq)
            if sent is None:  # of an earlier simulation, which did not wait for it
                continue
            self._outcome.predictions += 1
            sent.predicted, sent.model = prediction.predicted, prediction.model

    @property
    def missing(self) -> int:
        """Windows that wait for their prediction; those that were refused get none."""
        refused = {refusal.seq for refusal in self._client.refusals if refusal.of == "window"}
        waiting = (seq for seq, sent in self._by_seq.items() if sent.predicted is None)
        return sum(seq not in refused for seq in waiting)


def in_bouts(windows: WindowSet, bout: int) -> NDArray[np.int64]:
    """Row numbers, rotating through the classes, `bout` windows of each in a row, in time order
    within it.

    Within a class, recordings follow each other as a whole. A class that runs out is passed over.
    Every row comes exactly once.
    """
    t, recording = _time(windows), _recording(windows)
    waiting = []
    for label in np.unique(windows.y):
        rows = np.flatnonzero(windows.y == label)
        waiting.append(deque(rows[np.lexsort((t[rows], recording[rows]))].tolist()))
    order: list[int] = []
    while waiting:
        for queue in waiting:
            order += [queue.popleft() for _ in range(min(bout, len(queue)))]
        waiting = [queue for queue in waiting if queue]
    return np.array(order, np.int64)


def spacing(
    windows: WindowSet, order: NDArray[np.int64], hop_s: float, length_s: float
) -> NDArray[np.float64]:
    """Seconds from the start of the window before to the start of each window in `order`, (N,).

    Neighbours of one recording are `hop_s` apart and may overlap; a new bout begins with fresh
    samples.
    """
    same = np.diff(_recording(windows)[order]) == 0
    neighbours = same & (np.diff(_time(windows)[order]) == 1)
    return np.concatenate([[length_s], np.where(neighbours, hop_s, length_s)])[: len(order)]


def _time(windows: WindowSet) -> NDArray[np.int64]:
    """Place in time within its recording, (N,); the order of the rows where that is not known."""
    return windows.groups.get("t", np.arange(len(windows)))


def _recording(windows: WindowSet) -> NDArray[np.int64]:
    """Number of each window's recording, (N,): its class and every group but `t`."""
    names = [windows.y, *(windows.groups[name] for name in sorted(windows.groups) if name != "t")]
    _, number = np.unique(np.stack(names), axis=1, return_inverse=True)
    return number.reshape(-1)


def simulate(
    clients: dict[str, Client],
    phases: Mapping[str, Sequence[WindowSet]],
    script: Script,
    *,
    stream: str = "imu",
    on_step: Callable[[Outcome], None] | None = None,
) -> Outcome:
    """Sends every phase of every client, side by side, and waits for all predictions.

    Args:
        clients: by client_id, connected, with predictions asked for.
        phases: client_id -> what its sensor sends.
        script: how.
        stream: name of each client's stream.
        on_step: called after every round of windows, for a display.
    """
    outcome = Outcome()
    start = time.monotonic()
    sensors = [
        Sensor(client, stream, phases[name], script, outcome) for name, client in clients.items()
    ]
    running = {sensor: sensor.steps() for sensor in sensors}
    round_number = 0
    while running:
        running = {s: steps for s, steps in running.items() if next(steps, _END) is not _END}
        for sensor in sensors:
            sensor.take_predictions()
        round_number += 1
        if on_step is not None:
            on_step(outcome)
        if script.rate is not None and running:
            time.sleep(max(0.0, start + round_number / script.rate - time.monotonic()))
    for client, sensor in zip(clients.values(), sensors, strict=True):
        client.flush(timeout=_FLUSH_S)
        deadline = time.monotonic() + _FLUSH_S
        while sensor.missing and time.monotonic() < deadline:
            sensor.take_predictions(timeout_s=0.2)
        outcome.acked += client.counts.acked
        outcome.duplicates += client.counts.duplicates + client.counts.predictions_repeated
        outcome.refusals += [refusal.error for refusal in client.refusals]
    outcome.seconds = time.monotonic() - start
    return outcome
