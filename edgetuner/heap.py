"""Memory of this process: what it holds, and what it gives back."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

# Of mallopt(3), glibc.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST_BLOCK = 32 * 1024 * 1024  # glibc takes no more
_LARGEST_REST = 1024 * 1024 * 1024
_HELD = re.compile(r"^(RssAnon|RssShmem|VmRSS):\s+(\d+) kB$", re.MULTILINE)  # proc_pid_status(5)


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
    try:
        status = Path(f"/proc/{pid}/status").read_text(errors="replace")
    except OSError:
        return None
    known = {name: int(kilobytes) * 1024 for name, kilobytes in _HELD.findall(status)}
    if "RssAnon" in known:
        return known["RssAnon"] + known.get("RssShmem", 0)
    return known.get("VmRSS")  # some kernels tell no more
