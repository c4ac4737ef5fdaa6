"""Which streams have drifted and wait for an answer, why, and since when."""

from __future__ import annotations

import numpy as np

from edgetuner.drift.monitor import ABOUT, Finding
from edgetuner.store import Context

StreamKey = tuple[str, str]


class Drifts:
    """The drifts that nobody has answered yet, the latest of each stream."""

    def __init__(self) -> None:
        self._found: dict[StreamKey, Finding] = {}

    def __bool__(self) -> bool:
        return bool(self._found)

    def note(self, finding: Finding) -> bool:
        """Takes in what the detectors found; whether it changed anything.

        A fault of the sensor that began about when the drift did, or before, takes it back: the
        sensor was what drifted. So does the end of the drift. Other findings do not matter.
        """
        if finding.kind == "drift":
            known = self._found.get(finding.key)
            # Of two detectors at the same window the monitor goes by the earlier onset.
            if known is None or known.seq != finding.seq or finding.onset_seq < known.onset_seq:
                self._found[finding.key] = finding
            return True
        drift = self._found.get(finding.key)
        if drift is None or finding.kind not in ("sensor_fault", "drift_over"):
            return False
        if finding.kind == "sensor_fault" and finding.onset_seq > drift.onset_seq + ABOUT:
            return False
        if finding.kind == "drift_over" and finding.detector != drift.detector:
            return False  # of one before: what labels and what windows tell may overtake each other
        del self._found[finding.key]
        return True

    def answer(self, key: StreamKey) -> None:
        """The drift of this stream waits no longer, if it did."""
        self._found.pop(key, None)

    def answer_all(self) -> None:
        """No drift waits any longer."""
        self._found.clear()

    @property
    def alarms(self) -> dict[StreamKey, int]:
        """The window at which the drift of each stream was found, the first to drift first."""
        return {key: finding.seq for key, finding in self._found.items()}

    @property
    def names(self) -> list[str]:
        """The streams in alphabetical order, as client/stream."""
        return ["/".join(key) for key in sorted(self._found)]

    @property
    def reasons(self) -> str:
        """Which detector found each, in words; empty where nothing has drifted."""
        return "; ".join(
            f"{finding.detector} drift in {'/'.join(key)}" for key, finding in self._found.items()
        )

    def present(self, context: Context) -> Context:
        """The windows since the first of the streams that drifted began to; all where none did.

        A stream that was not found to have drifted counts from that moment as well: what it did
        long before may not be the present.
        """
        streams = [index for index, key in enumerate(context.keys) if key in self._found]
        drifted = np.isin(context.stream, streams)
        if not drifted.any():
            return context
        return context.take(context.row >= context.row[drifted].min())
