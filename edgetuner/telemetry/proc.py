"""Memory and processor load from /proc; every source reports these of the machine it runs on."""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict

from edgetuner.telemetry import files


class ProcReading(TypedDict):
    """The fields of a Sample that come from /proc."""

    memory_total_bytes: int | None
    memory_available_bytes: int | None
    process_rss_bytes: int | None
    swap_used_bytes: int | None
    cpu_load: float | None


class Proc:
    """Reads /proc under `sysroot`; remembers the last processor times."""

    def __init__(self, sysroot: Path) -> None:
        self._proc = sysroot / "proc"
        self._times = _cpu_times(self._proc)

    def read(self) -> ProcReading:
        """Memory in bytes, processor load since the last call; None where /proc does not say."""
        memory = _kilobytes(self._proc / "meminfo")
        swap_total, swap_free = memory.get("SwapTotal"), memory.get("SwapFree")
        return ProcReading(
            memory_total_bytes=memory.get("MemTotal"),
            memory_available_bytes=memory.get("MemAvailable"),
            process_rss_bytes=_kilobytes(self._proc / "self" / "status").get("VmRSS"),
            swap_used_bytes=(
                None if swap_total is None or swap_free is None else swap_total - swap_free
            ),
            cpu_load=self._cpu_load(),
        )

    def _cpu_load(self) -> float | None:
        before, self._times = self._times, _cpu_times(self._proc)
        if before is None or self._times is None:
            return None
        busy, total = self._times[0] - before[0], self._times[1] - before[1]
        # Counters may step back when a processor goes offline; then the difference means nothing.
        return busy / total if total > 0 and 0 <= busy <= total else None


def _kilobytes(path: Path) -> dict[str, int]:
    """The lines `Name:  123 kB` of a /proc file, in bytes."""
    found = {}
    for line in (files.text(path) or "").splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if len(words) == 2 and words[0].isdigit() and words[1] == "kB":
            found[name] = int(words[0]) * 1024
    return found


def _cpu_times(proc: Path) -> tuple[int, int] | None:
    """Busy and total ticks of all processors since boot (proc_stat(5))."""
    words = (files.text(proc / "stat") or "").split("\n", 1)[0].split()
    if len(words) < 6 or words[0] != "cpu" or not all(word.isdigit() for word in words[1:]):
        return None
    # user nice system idle iowait irq softirq steal; guest time is already inside user.
    ticks = [int(word) for word in words[1:9]]
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)
