import platform
import resource
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")
LARGE = Path("/sys/kernel/mm/transparent_hugepage/enabled")

FAULTS = """
import resource, torch
from tumorboard.training.heap import keep_freed_memory

def faults():
    torch.ones(1 << 24)  # 64 MiB, freed at once
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(40):
        torch.ones(1 << 24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

leave = faults()
keep_freed_memory()
print(leave, faults())
"""


def test_freed_memory_is_used_again_without_new_page_faults() -> None:
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    leave, keep = map(int, done.stdout.split())
    assert leave >= 40 * (1 << 26) // resource.getpagesize()
    assert keep < leave / 5  # the first few may find no free block that fits


IN_LARGE_PAGES = """
import re, torch
from tumorboard.training.heap import keep_freed_memory

keep_freed_memory()
kept = torch.ones(1 << 25)  # 128 MiB
print(sum(map(int, re.findall(r"AnonHugePages: +([0-9]+) kB", open("/proc/self/smaps").read()))))
"""


@pytest.mark.skipif(not LARGE.is_file() or "[never]" in LARGE.read_text(), reason="the system has no large pages")
def test_a_large_tensor_lies_in_large_pages() -> None:
    done = subprocess.run([sys.executable, "-c", IN_LARGE_PAGES], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 64 * 1024  # a crowded machine may lack some


LIMITED = """
import mmap, resource, sys, threading
from tumorboard.training import heap

used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
limit = used + (3 << 29)
resource.setrlimit(getattr(resource, sys.argv[1]), (limit, limit))
heap.keep_freed_memory()
block = mmap.mmap(-1, 1 << 30)
thread = threading.Thread(target=print, args=["alive"])
thread.start()
thread.join()
"""


@pytest.mark.parametrize("kind", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_a_limit_of_the_memory_is_left_to_others(kind: str) -> None:
    done = subprocess.run([sys.executable, "-c", LIMITED, kind], capture_output=True, text=True, check=True)
    assert done.stdout == "alive\n"
