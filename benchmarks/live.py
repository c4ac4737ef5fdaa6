"""A stream through the real sockets of the real service, as a sensor would send it.

Time is this machine's, and the stream hurries: at 20 windows a second a training of four seconds
costs 80 windows. So the figures are harder than those of a stream at its own pace.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.prequential import rolling_f1
from benchmarks.scenarios import Stream
from demo.service import RunningService
from edgetuner.client import Client
from edgetuner.inference import ModelVersion

_STREAM = "imu"
_PATIENCE_S = 60.0
_TOLD = ("drift", "sensor_fault", "adaptation_started", "swap", "refused", "promoted", "rollback")
Row = dict[str, Any]


def live(stream: Stream, version: ModelVersion, rate: float) -> Row:
    """Sends the stream at `rate` windows a second, each label when it is due, and waits for the
    last prediction.
    """
    with tempfile.TemporaryDirectory(prefix="edgetuner-") as name:
        folder = Path(name)
        config = folder / "config.yaml"
        config.write_text(yaml.safe_dump({"bundle": str(version.bundle.path)}))
        with (
            RunningService(config, folder, folder) as service,
            Client(service.ingest, "person") as client,
        ):
            sensor = _Sensor(client, stream)
            sensor.send(rate)
            counts = client.counts
        missing = int((sensor.predicted < 0).sum())
        events = [
            [int(np.searchsorted(sensor.sent_at, event.t)), event.topic.removeprefix("event.")]
            for event in service.events
            if event.topic.removeprefix("event.") in _TOLD
        ]
    curve = rolling_f1(stream, sensor.predicted)
    first = stream.changes[0]
    return {
        "windows": len(stream),
        "rate": rate,
        "acked": counts.acked,
        "missing": missing,
        "doubled": counts.duplicates + counts.predictions_repeated,
        "changes": list(stream.changes),
        "auc": float(np.mean([f1 for at, f1 in curve if at > first])),
        "curve": [[at, round(f1, 4)] for at, f1 in curve[::2]],
        "events": events,
        "exit_code": service.exit_code,
    }


@dataclass
class _Sensor:
    """Publishes, labels and notes what comes back.

    Attributes:
        predicted: class index of each window, -1 until it comes (N,).
        sent_at: monotonic seconds (N,).
    """

    client: Client
    stream: Stream

    def __post_init__(self) -> None:
        self.predicted = np.full(len(self.stream), -1)
        self.sent_at = np.zeros(len(self.stream))
        self._row: dict[int, int] = {}
        self._seq: list[int] = []
        order = np.argsort(self.stream.due, kind="stable")
        self._labels = order[self.stream.label[order] >= 0].tolist()

    def send(self, rate: float) -> None:
        """All windows, evenly, and every label when it is due; those due later come at the end."""
        windows, begun, t_ns = self.stream.windows, time.monotonic(), time.time_ns()
        for row, x in enumerate(windows.x):
            now_ns = t_ns + round(1e9 * self.stream.hop_s * row)
            seq = self.client.publish(_STREAM, x, t_ns=now_ns, hz=windows.hz)
            self.sent_at[row] = time.monotonic()
            self._row[seq] = row
            self._seq.append(seq)
            self._label(row)
            while (left := begun + (row + 1) / rate - time.monotonic()) > 0:
                self._take(left)
        self.client.flush(timeout=_PATIENCE_S)
        deadline = time.monotonic() + _PATIENCE_S
        while (self.predicted < 0).any() and time.monotonic() < deadline:
            self._take(0.2)

    def _label(self, row: int) -> None:
        while self._labels and self.stream.due[self._labels[0]] <= row:
            labelled = self._labels.pop(0)
            name = self.stream.windows.classes[self.stream.label[labelled]]
            self.client.label(_STREAM, self._seq[labelled], name)

    def _take(self, timeout_s: float) -> None:
        classes = self.stream.windows.classes
        for prediction in self.client.predictions(timeout=timeout_s):
            self.predicted[self._row[prediction.seq]] = classes.index(prediction.predicted)
            return
