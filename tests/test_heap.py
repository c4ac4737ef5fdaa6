import platform
import resource
import subprocess
import sys

import pytest

from edgetuner.heap import held_bytes

CHILD = """
import ctypes, resource, sys
from edgetuner.heap import keep_freed_memory

def faults_of(rounds):
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes, libc.free.argtypes = [ctypes.c_size_t], [ctypes.c_void_p]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        block = libc.malloc(size)
        ctypes.memset(block, 1, size)
        libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

size = 4 * 1024 * 1024
kept = len(sys.argv) > 1 and keep_freed_memory()
faults_of(1)
print(int(kept), faults_of(20))
"""


def faults(*arguments):
    result = subprocess.run(
        [sys.executable, "-c", CHILD, *arguments], capture_output=True, text=True, check=True
    )
    kept, count = result.stdout.split()
    return kept == "1", int(count)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_a_freed_block_is_taken_again_without_a_page_fault():
    kept, count = faults("keep")
    assert kept
    page = resource.getpagesize()
    assert count < 4 * 1024 * 1024 // page  # of twenty blocks: fewer than one block has pages


HELD = """
import mmap, sys, tempfile
from edgetuner.heap import held_bytes

def resident(*arguments, **how):
    pages = mmap.mmap(*arguments, **how)
    assert sum(pages[::4096]) == 0
    if "prot" not in how:
        pages[::4096] = bytes([1]) * (size // 4096)
    return pages

size = 64 * 1024 * 1024
file = tempfile.TemporaryFile()
file.truncate(size)
held = [held_bytes()]
kept = []
for one in (
    (file.fileno(), size, {"prot": mmap.PROT_READ}),
    (-1, size, {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS}),
    (-1, size, {"flags": mmap.MAP_SHARED | mmap.MAP_ANONYMOUS}),
):
    kept.append(resident(*one[:2], **one[2]))
    held.append(held_bytes())
print(*[(b - a) >> 20 for a, b in zip(held, held[1:])])
"""


def test_what_is_held_counts_no_file_but_what_is_shared_with_children():
    done = subprocess.run([sys.executable, "-c", HELD], capture_output=True, text=True, check=True)
    file, private, shared = map(int, done.stdout.split())
    assert abs(file) < 16
    assert private > 60
    assert shared > 60


def test_what_the_kernel_does_not_tell_is_absent():
    assert held_bytes(2**22 + 1) is None  # no process has that number
