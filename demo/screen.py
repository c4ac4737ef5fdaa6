"""Live progress: one line that changes, and one line for every event."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np

from demo.service import Event
from edgetuner.metrics import macro_f1
from edgetuner.simulate import Outcome, Sent

RECENT = 56  # windows of the rolling macro-F1: every exercise once, in bouts of eight
_PHASES = ("right wrist", "left wrist")
_SHOWN = {
    "event.drift": "drift detected",
    "event.deferred": "waits",
    "event.adaptation_started": "training begins",
    "event.gate": "training done, candidate at the gate",
    "event.refused": "candidate refused",
    "event.adaptation_failed": "adaptation failed",
    "event.swap": "candidate swapped in",
    "event.promoted": "candidate promoted",
    "event.rollback": "rolled back",
}


class Screen:
    """Shows how it goes.

    Args:
        classes: names, to tell right from wrong.
        events: filled while the service runs.
        total: windows to come.
    """

    def __init__(self, classes: Sequence[str], events: list[Event], total: int) -> None:
        self._classes = classes
        self._events = events
        self._total = total
        self._shown = 0
        self._moving = sys.stdout.isatty()
        self._last = 0

    def update(self, outcome: Outcome) -> None:
        """Called after every round of windows."""
        for event in self._events[self._shown :]:
            self._tell(event, len(outcome.sent))
        self._shown = len(self._events)
        if self._moving or len(outcome.sent) - self._last >= 50:
            self._last = len(outcome.sent)
            self._line(outcome)

    def end(self) -> None:
        """Leaves the last line as it is."""
        if self._moving:
            print()

    def _line(self, outcome: Outcome) -> None:
        recent = [sent for sent in outcome.sent[-2 * RECENT :] if sent.predicted is not None]
        rolling = rolling_f1(recent[-RECENT:], self._classes)
        f1 = "  -  " if not rolling else f"{rolling[-1][1]:5.3f}"
        bar = "#" * round(30 * (rolling[-1][1] if rolling else 0))
        text = (
            f"{len(outcome.sent):5}/{self._total} windows  {_PHASES[outcome.sent[-1].phase]:11}  "
            f"rolling macro-F1 {f1} {bar:30}"
        )
        print(f"\r{text}" if self._moving else text, end="" if self._moving else "\n", flush=True)

    def _tell(self, event: Event, sent: int) -> None:
        if event.topic not in _SHOWN:
            return
        data = event.data
        why = data.get("why") or data.get("reason") or data.get("gate", {}).get("reason") or ""
        if event.topic == "event.drift":
            why = f"{data['detector']} of {data['key']}"
        if "error" in data:
            why = data["error"]["message"]
        line = f"{sent:5}  {_SHOWN[event.topic]}" + (f": {why}" if why else "")
        print(f"\r{line:100}" if self._moving else line, flush=True)


def rolling_f1(windows: Sequence[Sent], classes: Sequence[str]) -> list[tuple[int, float]]:
    """(order, macro-F1 of the latest windows) for every predicted window, once there are enough."""
    known = [sent for sent in windows if sent.predicted is not None]
    index = {name: i for i, name in enumerate(classes)}
    y = np.array([sent.y for sent in known], np.int64)
    predicted = np.array([index[sent.predicted or ""] for sent in known], np.int64)
    return [
        (known[i].order, macro_f1(y[i + 1 - RECENT : i + 1], predicted[i + 1 - RECENT : i + 1]))
        for i in range(RECENT - 1, len(known))
    ]
