"""When each sensor was faulty: nothing of these times is trained on, or judged by, and nothing of
shortly before and after them: a sensor that fails fails again, and on a busy stream only half of
the faults get a name.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgetuner.drift.monitor import Finding
from edgetuner.store import Context

StreamKey = tuple[str, str]
_OPEN = 2**63 - 1  # the end of a fault that still stands
_NEAR = 60  # windows before a fault, and after it
_MOST = 64  # ranges of a stream: of more the oldest become one, with what was between them


class Faults:
    """Ranges of sequence numbers in which a stream's sensor was faulty."""

    def __init__(self) -> None:
        self._ranges: dict[StreamKey, list[tuple[int, int]]] = {}

    def note(self, finding: Finding) -> None:
        """Takes in a `sensor_fault` or `sensor_ok`; other findings do not matter."""
        if finding.kind == "sensor_fault":
            ranges = self._ranges.setdefault(finding.key, [])
            first = finding.onset_seq
            if ranges and ranges[-1][1] == _OPEN:  # one fault gives way to the next
                first = min(first, ranges.pop()[0])
            ranges.append((first, _OPEN))
            if len(ranges) > _MOST:
                ranges[:2] = [(ranges[0][0], ranges[1][1])]
        elif finding.kind == "sensor_ok" and finding.key in self._ranges:
            ranges = self._ranges[finding.key]
            ranges[-1] = (ranges[-1][0], finding.onset_seq)

    def standing(self) -> list[str]:
        """The streams whose sensor is faulty now, as client/stream."""
        return sorted("/".join(k) for k, ranges in self._ranges.items() if ranges[-1][1] == _OPEN)

    def cover(self, context: Context) -> NDArray[np.bool_]:
        """Which of the windows of a context fall into such a time, or near it, (N,)."""
        covered = np.zeros(len(context), bool)
        for index, key in enumerate(context.keys):
            mine = context.stream == index
            for first, end in self._ranges.get(key, ()):
                near = (context.seq >= first - _NEAR) & (context.seq - _NEAR < end)
                covered |= mine & near
        return covered
