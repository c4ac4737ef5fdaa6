"""Small kernel files. One that is missing, unreadable or not a number is absent: None."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def text(path: Path) -> str | None:
    """The file's text without surrounding white space and NUL (device tree), or None."""
    try:
        # A sensor that is switched off answers EAGAIN or ENODATA: an OSError as well.
        return path.read_text(encoding="utf-8", errors="replace").strip(" \t\n\0")
    except OSError:
        return None


def integer(path: Path) -> int | None:
    """The file's integer, or None."""
    content = text(path)
    try:
        return None if content is None else int(content)
    except ValueError:
        return None


def matching(root: Path, pattern: str) -> Iterator[Path]:
    """The paths under `root` that match, in a stable order; none where they cannot be listed."""
    try:
        yield from sorted(root.glob(pattern))
    except OSError:
        return
