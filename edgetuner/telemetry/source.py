"""What a telemetry source is: a name in a table, a factory, and `read`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgetuner.telemetry.sample import Sample
from edgetuner.telemetry.trace import Trace


@dataclass(frozen=True)
class Options:
    """What a factory may need; each takes what concerns it.

    Attributes:
        interval_s: seconds between two readings.
        sysroot: where /sys, /proc, /etc and /var are looked up.
        settle_s: how long a factory may wait for a source that starts slowly.
        seed: of the simulated board's noise.
        trace: recording for the simulated board to play instead.
        phase: tells what the service is doing; the simulated board's power follows it.
        clock: monotonic seconds.
    """

    interval_s: float = 1.0
    sysroot: Path = Path("/")
    settle_s: float = 5.0
    seed: int = 0
    trace: Trace | None = None
    phase: Callable[[], str] = lambda: "idle"
    clock: Callable[[], float] = time.monotonic


class Source(Protocol):
    """One way to measure the board. `read` is called once an interval, from one thread."""

    def read(self) -> Sample:
        """The latest reading, without waiting for a later one.

        Raises:
            TelemetryError: the source is not available now; the next call may succeed.
        """

    def close(self) -> None:
        """Let go of files and processes. May be called twice."""
