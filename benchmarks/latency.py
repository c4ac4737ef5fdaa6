"""Does training make predictions late? The real service, idle and training in turn.

    python -m benchmarks.latency [--rounds 3] [--rate 20] [--json FILE]

A sensor publishes at a steady rate. The latency of a window is the time from `publish` to its
prediction in the client, sockets and durable commit included. Idle and training stretches take
turns; what counts is the ratio of their 99th percentiles, not the milliseconds of this machine.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import yaml

from demo.recordings import watch_windows
from demo.service import RunningService
from edgetuner.client import Client, Operator
from edgetuner.data import WindowSet

ROOT = Path(__file__).parents[1]
STREAM = "imu"


class Sender:
    """Publishes labelled windows at a steady rate and measures when each prediction comes.

    Args:
        client: connected.
        windows: sent over and over.
        rate: windows a second.
    """

    def __init__(self, client: Client, windows: WindowSet, rate: float) -> None:
        self._client = client
        self._windows = windows
        self._period_s = 1 / rate
        self._sent_at: dict[int, float] = {}
        self._count = 0

    def send(self, go_on: Callable[[int], bool]) -> list[float]:
        """Seconds from `publish` to prediction of every window sent while `go_on(number)`."""
        latencies: list[float] = []
        number = 0
        while go_on(number):
            began = time.monotonic()
            self._publish()
            number += 1
            while (left := began + self._period_s - time.monotonic()) > 0:
                latencies += self._take(left)
        while self._sent_at:
            latencies += self._take(1.0)
        return latencies

    def _publish(self) -> None:
        row = self._count % len(self._windows)
        self._count += 1
        now = time.monotonic()
        seq = self._client.publish(STREAM, self._windows.x[row], t_ns=time.time_ns())
        self._sent_at[seq] = now
        self._client.label(STREAM, seq, self._windows.classes[self._windows.y[row]])

    def _take(self, timeout_s: float) -> list[float]:
        for prediction in self._client.predictions(timeout=timeout_s):
            return [time.monotonic() - self._sent_at.pop(prediction.seq)]
        return []


def measure(rounds: int, rate: float, idle_windows: int) -> dict[str, Any]:
    """Latencies of idle and training stretches in turn."""
    windows = watch_windows().select(subject=[1, 2], position="right_wrist")
    phases: dict[str, list[list[float]]] = {"idle": [], "training": []}
    with tempfile.TemporaryDirectory(prefix="edgetuner-") as folder:
        config = Path(folder) / "config.yaml"
        config.write_text(yaml.safe_dump(_config()))
        with (
            RunningService(config, Path(folder), Path(folder)) as service,
            Client(service.ingest, "bench") as client,
            Operator(service.control) as operator,
        ):
            sender = Sender(client, windows, rate)
            sender.send(lambda number: number < idle_windows)  # warm, and with labels to train on
            for _ in range(rounds):
                phases["idle"].append(sender.send(lambda number: number < idle_windows))
                ended = _ended(service)
                operator.call("adapt", {"reason": "a benchmark"})
                training = sender.send(lambda _, before=ended: _ended(service) == before)  # type: ignore[misc]
                phases["training"].append(training)
    return _report(phases, rate)


def _config() -> dict[str, Any]:
    return {
        "bundle": str(ROOT / "demo/bundle"),
        "drift": {"enabled": False},
        "adapt": {"min_labels": 40, "cooldown_s": 0, "rungs": ["cores"], "steps": 60},
        # Nothing passes, so that every round trains from the same model.
        "gate": {"min_gain": 2.0},
    }


def _ended(service: RunningService) -> int:
    return sum(event.topic in _ENDS for event in service.events)


_ENDS = ("event.refused", "event.swap", "event.adaptation_failed")


def _report(phases: dict[str, list[list[float]]], rate: float) -> dict[str, Any]:
    report: dict[str, Any] = {"rate": rate, "rounds": len(phases["idle"])}
    for name, stretches in phases.items():
        report[name] = {
            "windows": sum(map(len, stretches)),
            "p50_ms": round(1e3 * median(float(np.quantile(s, 0.5)) for s in stretches), 2),
            "p99_ms": round(1e3 * median(float(np.quantile(s, 0.99)) for s in stretches), 2),
        }
    for quantile in (0.5, 0.99):
        ratios = [
            float(np.quantile(training, quantile) / np.quantile(idle, quantile))
            for idle, training in zip(phases["idle"], phases["training"], strict=True)
        ]
        report[f"p{round(100 * quantile)}_ratio"] = round(median(ratios), 2)
    return report


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=float, default=20.0, help="windows a second")
    parser.add_argument("--idle", type=int, default=300, help="windows of an idle stretch")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    report = measure(options.rounds, options.rate, options.idle)
    print(json.dumps(report, indent=1))
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
