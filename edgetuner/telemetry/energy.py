"""Power to energy: joules by phase."""

from __future__ import annotations

import math
import threading

from edgetuner.telemetry.sample import Sample

_LONGEST_GAP = 3  # intervals; over a longer gap nobody knows what the power was


class Energy:
    """Integrates `total_power_w` by the trapezoid rule over monotonic time.

    An interval in which the phase changes is split where it changed, with the power in between
    interpolated. Simulated joules are kept apart and never added to measured ones. `phase` may be
    called from another thread than `add`.

    Args:
        interval_s: seconds between readings; a gap of more than three is not integrated.
        phase: the first phase.
    """

    def __init__(self, interval_s: float, phase: str = "idle") -> None:
        self._longest_s = _LONGEST_GAP * interval_s
        self._last: Sample | None = None
        self._phase = phase  # the one in force at the last sample
        self._switches: list[tuple[float, str]] = []  # (monotonic_s, new phase) since then
        self._joules: dict[bool, dict[str, float]] = {True: {}, False: {}}  # by simulated
        self._lock = threading.Lock()

    def phase(self, name: str, monotonic_s: float) -> None:
        """What comes after `monotonic_s` belongs to this phase."""
        with self._lock:
            self._switches.append((monotonic_s, name))

    def add(self, sample: Sample | None) -> None:
        """Integrate from the last sample to this one; None says that there was no reading."""
        with self._lock:
            last = self._last
            if last is not None and sample is not None and _repeats(last, sample):
                return
            self._last = sample
            spans = self._spans(last, sample)
            if last is not None and sample is not None and last.source == sample.source:
                self._integrate(last, sample, spans)

    def joules(self, *, simulated: bool) -> dict[str, float]:
        """Joules by phase so far. A phase without two readings of power in it is not there."""
        with self._lock:
            return dict(self._joules[simulated])

    def _spans(self, last: Sample | None, sample: Sample | None) -> list[tuple[float, float, str]]:
        """(begin, end, phase) between two samples; the phase in force at the end is kept."""
        end = math.inf if sample is None else sample.monotonic_s
        begin = end if last is None else last.monotonic_s
        used = [switch for switch in self._switches if switch[0] < end]
        self._switches = self._switches[len(used) :]
        spans = []
        for when, name in used:
            spans.append((begin, max(when, begin), self._phase))
            begin, self._phase = max(when, begin), name
        return [*spans, (begin, end, self._phase)]

    def _integrate(
        self, last: Sample, sample: Sample, spans: list[tuple[float, float, str]]
    ) -> None:
        elapsed_s = sample.monotonic_s - last.monotonic_s
        if elapsed_s > self._longest_s:
            return
        if last.total_power_w is None or sample.total_power_w is None:
            return
        joules = self._joules[sample.simulated]
        slope = (sample.total_power_w - last.total_power_w) / elapsed_s
        for begin, end, name in spans:
            if end > begin:
                middle_w = last.total_power_w + slope * ((begin + end) / 2 - last.monotonic_s)
                joules[name] = joules.get(name, 0.0) + middle_w * (end - begin)


def _repeats(last: Sample, sample: Sample) -> bool:
    """Whether this is the reading that is known already: a source may be slower than its reader."""
    return last.source == sample.source and sample.monotonic_s <= last.monotonic_s
