"""Counts the processor cores that this process may use and the processes that want them; makes idle threads sleep."""

import os
import sys
import time
from collections.abc import Iterable
from math import ceil
from pathlib import Path

# How often OpenMP's threads (libgomp) look for new work before they sleep, where others want the cores. Its default,
# 300,000, keeps a core busy for milliseconds in which the thread that they wait for may need it.
FEW_SPINS = 1000
_LOOKS = 5  # samples of the number of running processes
_SECONDS_BETWEEN = 0.002  # seconds from one sample to the next


def available_cores(groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Returns the cores that this process may use: those of its affinity, or of its control group's limit if fewer.

    Args:
        groups: where the control groups are mounted, of version 2 (`cpu.max`) or 1 (`cpu.cfs_quota_us`).
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = core_limit(groups)
    return cores if limit is None else max(1, min(cores, ceil(limit)))


def core_limit(groups: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Returns the cores that the control group's limit allows, such as 1.5; None without a limit.

    Args:
        groups: where the control groups are mounted, see `available_cores`.
    """
    texts = (
        _text([groups / "cpu.max"]),
        " ".join(_text([groups / f"cpu/cpu.cfs_{name}_us"]) for name in ("quota", "period")),
    )
    for text in texts:
        try:
            quota, period = map(int, text.split())
        except ValueError:  # no limit ("max"), or no such file
            continue
        if quota > 0 and period > 0:
            return quota / period
    return None


def _text(files: Iterable[Path]) -> str:
    try:
        return " ".join(file.read_text(encoding="ascii") for file in files)
    except (OSError, ValueError):
        return ""


def running_processes(stat: Path = Path("/proc/stat")) -> int:
    """Returns how many other threads of the machine want a core at this moment; 0 where the system does not report it.

    Args:
        stat: Linux's file with the line `procs_running`.
    """
    counts = []
    for look in range(_LOOKS):
        time.sleep(_SECONDS_BETWEEN if look else 0)
        lines = [line for line in _text([stat]).splitlines() if line.startswith("procs_running ")]
        counts += [int(line.split()[1]) - 1 for line in lines]  # without this process
    return max(0, sorted(counts)[len(counts) // 2]) if counts else 0


def let_threads_sleep() -> None:
    """Makes the threads of a process that has not imported torch yet sleep soon, where other processes want the cores.

    Threads that wait by spinning are fastest on a quiet machine, and slowest where the thread that they wait for has no
    core. The waiting changes no result. The user's own setting (GOMP_SPINCOUNT, OMP_WAIT_POLICY) stays.
    """
    if "torch" in sys.modules or {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        return
    text = os.environ.get("OMP_NUM_THREADS", "")
    cores = available_cores()
    threads = int(text) if text.isdecimal() else cores
    if threads > 1 and running_processes() + threads > cores:
        os.environ["GOMP_SPINCOUNT"] = str(FEW_SPINS)
