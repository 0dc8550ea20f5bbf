"""Lets a training on the CPU use its memory again at once, in large pages; it changes no result."""

import ctypes
import mmap
import resource
from contextlib import suppress
from pathlib import Path

LARGE_PAGES = 1 << 32  # bytes of addresses for the heap that may lie in large pages; memory is taken as they are used
_STRICT = "2"  # of vm.overcommit_memory: addresses count as memory

# Parameters of glibc's mallopt; -1 as the value of the first switches the return of memory off.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4


def keep_freed_memory() -> None:
    """Makes glibc keep freed memory for the next step, in large pages, instead of returning it page by page.

    A step allocates and frees the same large blocks each time. Without this the system clears each of their pages anew,
    and the processor looks up each page of 4 kB by itself (benchmarks/README.md). Other C libraries, and systems
    without large pages, are left as they are.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, -1)
        if LARGE_PAGES and not _addresses_are_limited():
            _ask_for_large_pages(libc)


def _addresses_are_limited() -> bool:
    """Returns whether a limit, as of `ulimit -v`, counts addresses that are not used, which others would then lack."""
    limits = (resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
    if any(limit != resource.RLIM_INFINITY for limit in limits):
        return True
    return Path("/proc/sys/vm/overcommit_memory").read_text(encoding="ascii").strip() == _STRICT


def _ask_for_large_pages(libc: ctypes.CDLL) -> None:
    """Extends the heap by LARGE_PAGES bytes of addresses, if the system has as many, and marks them."""
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    if block := libc.malloc(LARGE_PAGES):
        start = -(-block // mmap.PAGESIZE) * mmap.PAGESIZE
        length = (block + LARGE_PAGES - start) // mmap.PAGESIZE * mmap.PAGESIZE
        libc.madvise(start, length, mmap.MADV_HUGEPAGE)
        libc.free(block)
