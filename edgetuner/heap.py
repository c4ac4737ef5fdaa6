"""Memory of this process: what it holds, and what it gives back."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

# Of mallopt(3), glibc.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST_BLOCK = 32 * 1024 * 1024  # glibc takes no more
_LARGEST_REST = 1024 * 1024 * 1024


def keep_freed_memory() -> bool:
    """Keeps what this process frees for its own next request, up to blocks of 32 MiB.

    By default glibc gives large blocks back to the kernel, which has to fault in and clear every
    page of the next one: some 3,000 faults a training step, a tenth of its time. The process
    stays as large as it ever was, which suits one that trains and ends.

    Returns:
        Whether the C library knows the request; others than glibc do as they always did.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    asked = ((_MMAP_THRESHOLD, _LARGEST_BLOCK), (_TRIM_THRESHOLD, _LARGEST_REST))
    return all(mallopt(name, value) == 1 for name, value in asked)


def resident_bytes(pid: int | str = "self") -> int | None:
    """What a process holds in memory at present; None where the kernel does not tell."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")
