"""How results look: aligned text for people, one JSON object for machines."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from edgetuner.errors import EdgetunerError

_COLOURS = {"red": "31", "green": "32", "yellow": "33", "blue": "36", "dim": "2", "bold": "1"}


def show_json(value: Any) -> None:
    """One JSON document on standard output."""
    print(json.dumps(value, indent=None if not sys.stdout.isatty() else 2, default=str))


def table(rows: Sequence[Sequence[Any]], header: Sequence[str]) -> str:
    """Columns aligned to the left; what is not there is shown as a dash."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(len(row[i]) for row in [list(header), *cells]) for i in range(len(header))]
    lines = [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in [list(header), *cells]
    ]
    return "\n".join(lines)


def tree(value: dict[str, Any], indent: int = 0) -> str:
    """Nested values, a key a line."""
    width = max((len(key) for key in value), default=0)
    lines = []
    for key, inner in value.items():
        if isinstance(inner, dict) and inner:
            lines += [f"{' ' * indent}{key}:", tree(inner, indent + 2)]
        else:
            lines.append(f"{' ' * indent}{key.ljust(width)}  {_cell(inner)}")
    return "\n".join(lines)


def colour(text: str, name: str) -> str:
    """The text in a colour, where standard output is a terminal and NO_COLOR is not set."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return text
    return f"\033[{_COLOURS[name]}m{text}\033[0m"


def complain(error: EdgetunerError, *, as_json: bool) -> None:
    """The error, one line on standard error; as JSON for a command that was asked for it."""
    text = json.dumps({"error": error.to_wire()}) if as_json else f"edgetuner: {error}"
    print(text, file=sys.stderr)


def _cell(value: Any) -> str:
    if value is None or value == {} or value == []:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return " ".join(f"{key}={_cell(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_cell(inner) for inner in value)
    return str(value)
