import mmap
import platform
import resource
import subprocess
import sys
import tempfile

import pytest

from edgetuner.heap import held_bytes

_MB = 1024 * 1024

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


def test_what_is_held_counts_no_file_that_is_mapped():
    before = held_bytes()
    with tempfile.TemporaryFile() as file:
        file.truncate(64 * _MB)
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as pages:
            assert sum(pages[::4096]) == 0  # read, so that they are resident
            assert abs(held_bytes() - before) < 32 * _MB
            own = bytearray(64 * _MB)
            own[::4096] = bytes([1]) * len(range(0, len(own), 4096))
            assert held_bytes() - before > 60 * _MB


def test_memory_that_is_shared_with_children_is_held():
    before = held_bytes()
    with mmap.mmap(-1, 64 * _MB) as shared:
        shared[::4096] = bytes([1]) * len(range(0, len(shared), 4096))
        assert held_bytes() - before > 60 * _MB


def test_what_the_kernel_does_not_tell_is_absent():
    assert held_bytes(2**22 + 1) is None  # no process has that number
