"""Lets a training on the CPU use its memory again at once, in large pages; it changes no result."""

import ctypes
import mmap
from contextlib import suppress

LARGE_PAGES = 1 << 32  # bytes of the heap that may lie in large pages; they cost nothing until they are used
SMALLEST = 1 << 21  # bytes of a large page

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
        _ask_for_large_pages(libc)


def _ask_for_large_pages(libc: ctypes.CDLL) -> None:
    """Extends the heap by LARGE_PAGES bytes, or the largest half of it that the system allows, and marks them."""
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    size = LARGE_PAGES
    while size >= SMALLEST and not (block := libc.malloc(size)):
        size //= 2
    if size < SMALLEST:
        return
    start = -(-block // mmap.PAGESIZE) * mmap.PAGESIZE
    length = (block + size - start) // mmap.PAGESIZE * mmap.PAGESIZE
    libc.madvise(start, length, mmap.MADV_HUGEPAGE)
    libc.free(block)
