"""The board as the service sees it: the best source there is, and energy by phase."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from edgetuner.errors import ConfigError, TelemetryError
from edgetuner.telemetry.energy import Energy
from edgetuner.telemetry.host import Host
from edgetuner.telemetry.jtop import Jtop
from edgetuner.telemetry.sample import SIMULATED, Sample
from edgetuner.telemetry.simulated import Simulated
from edgetuner.telemetry.source import Options, Source
from edgetuner.telemetry.sysfs import Sysfs
from edgetuner.telemetry.trace import Trace

SOURCES: dict[str, Callable[[Options], Source]] = {
    "jtop": Jtop,
    "sysfs": Sysfs,
    "host": Host,
    SIMULATED: Simulated,
}


class Telemetry:
    """Reads the first of several sources that answers; returns to an earlier one that recovers.

    Args:
        names: keys of `SOURCES`, the best first.
        options: for the factories; `settle_s` applies to the first reading, made here, alone.

    Attributes:
        source: name of the source of the last reading, None if there is none.
        skipped: why each source before that one was not read.
    """

    def __init__(self, names: Sequence[str], options: Options) -> None:
        self.source: str | None = None
        self.skipped: dict[str, str] = {}
        self._names = tuple(dict.fromkeys(names))
        self._phase = options.phase()
        self._options = replace(options, phase=lambda: self._phase)
        self._open: dict[str, Source] = {}
        self._energy = Energy(options.interval_s, self._phase)
        self._lock = threading.Lock()
        self.read()
        self._options = replace(self._options, settle_s=0.0)

    def read(self) -> Sample | None:
        """The latest reading of the best source, with its age; None if no source answers.

        Call it once an interval from any one thread. It waits for no process and no network: it
        takes milliseconds, and at most about 2 s when a hanging jtop has to be killed.
        """
        with self._lock:
            sample = self._first()
            self._energy.add(sample)
        return None if sample is None else sample.aged(self._options.clock())

    def phase(self, name: str) -> None:
        """From now on energy counts for this phase. Never waits for a reading."""
        self._phase = name
        self._energy.phase(name, self._options.clock())

    def energy_j(self) -> dict[str, float]:
        """Joules by phase since the start; a phase without readings of power is not there.

        Measured joules, unless the present source is the simulated board: then its own, and only
        those. The two are never added up.
        """
        return self._energy.joules(simulated=self.source == SIMULATED)

    def close(self) -> None:
        """End every source; there are no readings afterwards."""
        with self._lock:
            self._close_all_but(())
            self._names, self.source = (), None

    def __enter__(self) -> Telemetry:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _first(self) -> Sample | None:
        skipped: dict[str, str] = {}
        sample = None
        for name in self._names:
            try:
                if name not in self._open:
                    self._open[name] = SOURCES[name](self._options)
                sample = self._open[name].read()
                break
            except TelemetryError as error:
                skipped[name] = str(error)
        self.skipped = skipped
        self.source = None if sample is None else sample.source
        # A stand-in is closed once it is not needed, so that it starts afresh when it is again.
        self._close_all_but((*skipped, self.source))
        return sample

    def _close_all_but(self, kept: Sequence[str | None]) -> None:
        for name in [name for name in self._open if name not in kept]:
            self._open.pop(name).close()


def open_telemetry(
    names: Sequence[str],
    interval_s: float,
    *,
    sysroot: Path = Path("/"),
    settle_s: float = 5.0,
    seed: int = 0,
    trace: Path | None = None,
    phase: str = "idle",
    clock: Callable[[], float] = time.monotonic,
) -> Telemetry:
    """Open the first available of the named sources.

    Args:
        names: keys of `SOURCES` in order of preference; none at all means no telemetry.
        interval_s: seconds between the calls of `read` to come.
        sysroot: where /sys, /proc, /etc and /var are looked up.
        settle_s: longest wait here for jtop to start; a late one is taken up when it is ready.
        seed: of the simulated board's noise.
        trace: JSON recording for the simulated board to play.
        phase: the first energy phase.
        clock: monotonic seconds.

    Raises:
        ConfigError: an unknown source, or an interval that is not positive.
        TelemetryError: the trace cannot be read. A missing source is no error: see `skipped`.
    """
    for name in names:
        if name not in SOURCES:
            raise ConfigError(
                "unknown source",
                field="telemetry.sources",
                value=name,
                remedy=f"choose from {', '.join(SOURCES)}",
            )
    if not 0 < interval_s < float("inf"):
        raise ConfigError(
            "is no positive number of seconds", field="telemetry.interval_s", value=interval_s
        )
    options = Options(
        interval_s=interval_s,
        sysroot=sysroot,
        settle_s=settle_s,
        seed=seed,
        trace=None if trace is None else Trace.load(trace),
        phase=lambda: phase,
        clock=clock,
    )
    return Telemetry(names, options)
