"""The C library's heap, for a process that takes and frees the same large blocks at every step."""

from __future__ import annotations

import ctypes

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
