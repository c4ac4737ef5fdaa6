"""How results look: aligned text for people, one JSON object for machines."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from edgetuner.errors import EdgetunerError, StoreError

_COLOURS = {"red": "31", "green": "32", "yellow": "33", "blue": "36", "dim": "2", "bold": "1"}
_BAR = 10
NOTHING = "-"


def say(text: str) -> None:
    """A text on standard output, at once.

    Raises:
        BrokenPipeError: the reader has gone.
        StoreError: it cannot be written: full disk.
    """
    try:
        print(text, flush=True)
    except OSError as error:
        # What is left in the buffer would be tried again, and complained of, at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise
        raise StoreError(
            "cannot be written",
            field="standard output",
            value=error.strerror,
            remedy="free some disk space",
        ) from None


def say_json(value: Any) -> None:
    """One JSON document on standard output."""
    say(json.dumps(value, indent=None if not sys.stdout.isatty() else 2, default=str))


def table(rows: Sequence[Sequence[Any]], header: Sequence[str]) -> str:
    """Columns, numbers to the right; what is not there is shown as a dash."""
    cells = [[cell(value) for value in row] for row in rows]
    widths = [max(len(row[i]) for row in [list(header), *cells]) for i in range(len(header))]
    numeric = [
        any(isinstance(row[i], int | float) for row in rows)
        and all(isinstance(row[i], int | float | None) for row in rows)
        for i in range(len(header))
    ]
    lines = [
        "  ".join(
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(row, widths, numeric, strict=True)
        ).rstrip()
        for row in [list(header), *cells]
    ]
    return "\n".join([colour(lines[0], "dim"), *lines[1:]])


def pairs(rows: Iterable[tuple[str, str | None]]) -> str:
    """A name and a text a line, the texts below each other; a text that is None is left out."""
    known = [(name, text) for name, text in rows if text is not None]
    width = max((len(name) for name, _ in known), default=0)
    return "\n".join(f"{colour(name.ljust(width), 'dim')}  {text}" for name, text in known)


def cell(value: Any) -> str:
    """A value as short text; what is not there is a dash."""
    if value is None or value in ({}, [], ()):
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return " ".join(f"{key}={cell(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(cell(inner) for inner in value)
    return str(value)


def spoken(name: str) -> str:
    """The name of a metric as a person writes it."""
    return name.replace("_", " ").replace("macro f1", "macro-F1")


def percent(share: float | None, digits: int = 0) -> str:
    """A share of one."""
    return NOTHING if share is None else f"{100 * share:.{digits}f} %"


def bar(share: float) -> str:
    """A share of one as a bar; beyond one it is full, and the number tells by how much."""
    full = round(_BAR * min(1.0, max(0.0, share)))
    return f"{'#' * full}{'.' * (_BAR - full)} {100 * share:3.0f} %"


def size(count: float | None) -> str:
    """Bytes in the decimal units that storage is sold in."""
    if count is None:
        return NOTHING
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count:.0f} B"


def latency(seconds: dict[str, float] | None) -> str:
    """Quantiles of a latency."""
    if not seconds:
        return "latency not measured yet"
    median, most = (_short(seconds[name]) for name in ("p50", "p99"))
    return f"latency {median}, 99 % within {most}"


def _short(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms" if seconds < 0.9995 else f"{seconds:.1f} s"


def duration(seconds: float | None) -> str:
    """A long time, in its two largest units."""
    if seconds is None:
        return NOTHING
    whole = int(seconds)
    parts = [
        (whole // 86400, "d"),
        (whole // 3600 % 24, "h"),
        (whole // 60 % 60, "min"),
        (whole % 60, "s"),
    ]
    while len(parts) > 1 and not parts[0][0]:
        parts.pop(0)
    return " ".join(f"{count} {unit}" for count, unit in parts[:2])


def colour(text: str, name: str) -> str:
    """The text in a colour, where standard output is a terminal and NO_COLOR is not set."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return text
    return f"\033[{_COLOURS[name]}m{text}\033[0m"


def complain(error: EdgetunerError, *, as_json: bool) -> None:
    """The error, one line on standard error; as JSON for a command that was asked for it."""
    text = " ".join(f"edgetuner: {error}".split())
    print(json.dumps({"error": error.to_wire()}) if as_json else text, file=sys.stderr)
