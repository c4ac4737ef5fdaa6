"""Memory of this process: what it holds, and what it gives back."""

from __future__ import annotations

import ctypes
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


def held_bytes(pid: int | str = "self") -> int | None:
    """What a process holds in memory at present, without the pages of files; None where the kernel
    does not tell.

    The pages of files are libraries', gigabytes of them with CUDA: shared with everybody who has
    loaded them, dropped where memory is short, and counted as available by the kernel.
    """
    known = kilobytes(Path(f"/proc/{pid}/status"))
    if "RssAnon" in known:
        return known["RssAnon"] + known.get("RssShmem", 0)
    return known.get("VmRSS")  # some kernels tell no more


def kilobytes(path: Path) -> dict[str, int]:
    """The lines `Name:  123 kB` of a /proc file, in bytes; none where it cannot be read."""
    found = {}
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return {}
    for line in lines:
        name, _, rest = line.partition(":")
        words = rest.split()
        if len(words) == 2 and words[0].isdigit() and words[1] == "kB":
            found[name] = int(words[0]) * 1024
    return found
