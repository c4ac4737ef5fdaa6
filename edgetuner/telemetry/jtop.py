"""jetson-stats, the usual monitor of a Jetson, kept at arm's length in a process of its own.

The package is AGPL-3.0, its socket speaks pickle, its client can hang and can serve old data for
ever. So only `jtop_child` imports it, and what is believed of it is decided here: a child that says
nothing, or whose uptime stands still, is killed and tried again later.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edgetuner.errors import TelemetryError
from edgetuner.telemetry.jtop_reading import board_reading, number
from edgetuner.telemetry.proc import Proc
from edgetuner.telemetry.sample import Sample
from edgetuner.telemetry.source import Options

_START_S = 10.0  # besides three intervals: importing jtop and its handshake take about 2 s
_STALE_INTERVALS = 3
_FIRST_BACKOFF_S, _LONGEST_BACKOFF_S = 5.0, 300.0
_KILLED_S = 2.0  # for the kernel to end a killed process
_REMEDY = "see `systemctl status jtop`, or use the sysfs source"


@dataclass(frozen=True)
class _Failure:
    """Why there is no reading, in the words of a TelemetryError."""

    problem: str
    remedy: str = _REMEDY
    permanent: bool = False

    def error(self) -> TelemetryError:
        return TelemetryError(self.problem, field="telemetry.jtop", remedy=self.remedy)


class Jtop:
    """Power, temperature, GPU load and power mode from jtop; memory and processor load from /proc.

    jtop's own memory figures lack MemAvailable, which is what the kernel would give us.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._proc = Proc(options.sysroot)
        self._failure: _Failure | None = None
        self._backoff_s = _FIRST_BACKOFF_S
        self._retry_s = options.clock()
        self._child = self._start(options.clock())
        if self._child is not None:
            self._child.wait(options.settle_s)

    def read(self) -> Sample:
        """See `Source.read`. Never waits for jtop; at most 2 s for a killed child to be gone."""
        now_s = self._options.clock()
        self._child = self._child or self._start(now_s)
        if self._child is None:
            raise (self._failure or _Failure("is closed")).error()
        failure = self._child.failure(now_s)
        if failure is not None:
            self._give_up(failure, now_s)
            raise failure.error()
        reading = self._child.reading
        if reading is None:
            raise _Failure("is starting").error()
        self._backoff_s = _FIRST_BACKOFF_S
        return Sample(
            source="jtop",
            t=time.time() - max(0.0, now_s - reading.monotonic_s),
            monotonic_s=reading.monotonic_s,
            **board_reading(reading.line),
            **self._proc.read(),
        )

    def close(self) -> None:
        """End the child."""
        self._give_up(_Failure("is closed", permanent=True), self._options.clock())

    def _start(self, now_s: float) -> _Child | None:
        """A new child if one is due and can be had."""
        permanent = self._failure is not None and self._failure.permanent
        if permanent or now_s < self._retry_s:
            return None
        try:
            return _Child(self._options.interval_s, self._options.clock)
        except OSError as error:
            self._put_off(_Failure(f"its process cannot be started: {error.strerror}"), now_s)
            return None

    def _give_up(self, failure: _Failure, now_s: float) -> None:
        """End the child, and wait before the next one."""
        child, self._child = self._child, None
        self._put_off(failure, now_s)
        if child is not None:
            child.kill()

    def _put_off(self, failure: _Failure, now_s: float) -> None:
        """Wait twice as long as last time before the next child."""
        self._failure = failure
        self._retry_s = now_s + self._backoff_s
        self._backoff_s = min(2 * self._backoff_s, _LONGEST_BACKOFF_S)


@dataclass(frozen=True)
class _Reading:
    line: dict[str, Any]
    monotonic_s: float


class _Child:
    """One child process and the thread that listens to it."""

    def __init__(self, interval_s: float, clock: Callable[[], float]) -> None:
        self.reading: _Reading | None = None  # the last one that was new
        self._clock = clock
        self._interval_s = interval_s
        self._started_s = clock()
        self._uptime_s: float | None = None
        self._end: _Failure | None = None
        self._changed = threading.Condition()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "edgetuner.telemetry.jtop_child", str(interval_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",  # `-m` imports from the working folder first
            start_new_session=True,  # a Ctrl-C at the terminal is the parent's business
        )
        self._listener = threading.Thread(target=self._listen, name="jtop", daemon=True)
        self._listener.start()

    def wait(self, timeout_s: float) -> None:
        """Until there is a reading, or there will be none, or the time is up."""
        with self._changed:
            self._changed.wait_for(lambda: self.reading or self._end, timeout_s)

    def failure(self, now_s: float) -> _Failure | None:
        """Why this child is of no use any more, or None."""
        if self._end is not None:
            return self._end
        if self.reading is None:
            limit_s = _START_S + _STALE_INTERVALS * self._interval_s
            silent = now_s - self._started_s > limit_s
            return _Failure(f"gave no fresh reading in {limit_s:g} s") if silent else None
        # The first client of the service fixes the rate for all, so it may be slower than ours.
        served_s = number(self.reading.line.get("interval")) or 0.0
        limit_s = _STALE_INTERVALS * max(self._interval_s, served_s)
        stale = now_s - self.reading.monotonic_s > limit_s
        return _Failure(f"has served old data for {limit_s:g} s") if stale else None

    def kill(self) -> None:
        """End the process; one that the kernel cannot end in time is left to the listener."""
        self._process.kill()
        self._listener.join(_KILLED_S)

    def _listen(self) -> None:
        """Take in lines until the process ends, then reap it."""
        with self._process as process:  # closes the pipes and waits
            assert process.stdout is not None
            for line in process.stdout:
                self._take(line)
        with self._changed:
            status = f"its process ended with status {self._process.returncode}"
            self._end = self._end or _Failure(status)
            self._changed.notify_all()

    def _take(self, text: bytes) -> None:
        try:
            line = json.loads(text)
        except ValueError:
            line = None
        with self._changed:
            if not isinstance(line, dict):
                self._end = _Failure("its process wrote a line that is not a JSON object")
            elif "error" in line:
                permanent = line.get("permanent") is True
                self._end = _Failure(line["error"], line.get("remedy", _REMEDY), permanent)
            elif self._advances(number(line.get("uptime"))):
                self.reading = _Reading(line, self._clock())
            self._changed.notify_all()

    def _advances(self, uptime_s: float | None) -> bool:
        """Whether the server has measured since the last line. The first line proves nothing."""
        before, self._uptime_s = self._uptime_s, uptime_s
        return before is not None and uptime_s is not None and uptime_s > before
