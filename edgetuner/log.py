"""Lines on standard output, one an event: JSON for machines, text for people."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from typing import Any, Final

LEVELS: Final = ("debug", "info", "warning", "error")
_LEVEL_OF: Final = {
    "event.adaptation_failed": "warning",
    "event.rollback": "warning",
    "event.drift": "warning",
    "event.sensor_fault": "warning",
    "event.trouble": "warning",
    "event.reload_refused": "error",
    "event.store_failed": "error",
}


class Log:
    """Writes events.

    Args:
        level: the least that is written.
        style: `json` or `text`.
    """

    def __init__(self, level: str = "info", style: str = "json") -> None:
        self._least = LEVELS.index(level)
        self._text = style == "text"

    def event(self, topic: str, data: dict[str, Any]) -> None:
        """Writes an event of the status socket, at the level that its topic has."""
        level = _LEVEL_OF.get(topic, "info")
        if LEVELS.index(level) < self._least:
            return
        name = topic.removeprefix("event.")
        if self._text:
            clock = time.strftime("%H:%M:%S")
            line = f"{clock} {level:7} {name:20} {readable(data)}"
        else:
            line = json.dumps({"t": round(time.time(), 3), "level": level, "event": name, **data})
        with contextlib.suppress(OSError):  # the reader is gone, the disk is full: predict on
            sys.stdout.write(line + "\n")
            sys.stdout.flush()


def readable(data: dict[str, Any], prefix: str = "") -> str:
    """`key=value` pairs in one line, nested keys joined by a dot, long numbers shortened."""
    parts = []
    for key, value in data.items():
        if isinstance(value, dict):
            parts.append(readable(value, f"{prefix}{key}."))
        elif isinstance(value, float):
            parts.append(f"{prefix}{key}={value:.4g}")
        else:
            parts.append(f"{prefix}{key}={one_line(value)}")
    return " ".join(part for part in parts if part)


def one_line(value: Any) -> str:
    """The text of a value; quoted where it would break the line or steer the terminal."""
    text = str(value)
    return text if text.isprintable() else repr(text)
