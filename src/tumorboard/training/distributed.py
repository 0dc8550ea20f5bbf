"""Runs one training in several processes, started here or joined under torchrun, and passes values between them."""

import ctypes
import multiprocessing
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import connection
from multiprocessing.queues import SimpleQueue
from typing import Any, TypeAlias, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor
from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]
from torch.multiprocessing.spawn import spawn
from torch.nn import Module
from torch.nn.parallel import DistributedDataParallel

from tumorboard.base.errors import InputError
from tumorboard.base.params import Runtime
from tumorboard.models.device import choose_device

T = TypeVar("T")
Callback: TypeAlias = Callable[[Any], None]  # takes one value that rank 0 sends to the process that called `launch`

# Parameters of glibc's mallopt.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4


@dataclass(frozen=True)
class Group:
    """The processes of one training, as one of them sees them."""

    rank: int  # of this process, from 0
    size: int  # number of processes
    device: torch.device  # of this process

    def broadcast(self, value: T) -> T:
        """Returns rank 0's value in every process."""
        box = [value]
        if self.size > 1:
            dist.broadcast_object_list(box, src=0)
        return box[0]

    def sum(self, values: list[float]) -> list[float]:
        """Returns the sums over all processes, in every process."""
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        if self.size > 1:
            dist.all_reduce(total)
        return total.tolist()

    def average_(self, tensors: Iterable[Tensor]) -> None:
        """Sets each tensor, in place, to its mean over all processes."""
        if self.size > 1:
            for tensor in tensors:
                dist.all_reduce(tensor)
                tensor /= self.size

    def gather(self, part: NDArray[Any], rows: int) -> NDArray[Any]:
        """Assembles on rank 0 an array whose rows are distributed over the processes.

        Args:
            part: rows [rank::size] of the whole array.
            rows: number of rows of the whole array.

        Returns:
            The whole array [rows, ...] on rank 0; on the other ranks its content is undefined.
        """
        if self.size == 1:
            return part
        parts: list[Any] | None = [None] * self.size if self.rank == 0 else None
        dist.gather_object(part, parts, dst=0)
        whole = np.empty((rows, *part.shape[1:]), part.dtype)
        for rank, piece in enumerate(parts or []):
            whole[rank :: self.size] = piece
        return whole

    def wrap(self, model: Module) -> Module:
        """Returns the model wrapped so that a backward pass averages gradients over the processes.

        The running statistics of batch norm stay each process's own.
        """
        if self.size == 1:
            return model
        with warnings.catch_warnings():
            # torch 2.15 renames broadcast_buffers; older versions do not know the new name.
            warnings.simplefilter("ignore", FutureWarning)
            return DistributedDataParallel(model, broadcast_buffers=False, gradient_as_bucket_view=True)

    def gradient_averaging(self, wrapped: Module, enabled: bool) -> AbstractContextManager[None]:
        """Returns a context in which backward passes average gradients over the processes only if `enabled`.

        Gradients of passes without averaging accumulate in each process until the next pass that averages.
        """
        return nullcontext() if enabled or self.size == 1 else cast(DistributedDataParallel, wrapped).no_sync()


Work: TypeAlias = Callable[[Group, Callback], None]  # what every process of a training runs


def launch(work: Work, runtime: Runtime, callback: Callback) -> None:
    """Runs `work(group, callback)` in every process of a training and returns when all have ended.

    Under torchrun (RANK and WORLD_SIZE are set) this process joins its group. Otherwise `runtime.processes` processes
    are started; "auto" means one per CUDA device, or one on the CPU. Killing this process ends them too.

    Args:
        work: a picklable function; a module-level one or a functools.partial of one.
        runtime: device, number of processes, and the seconds after which a process that waits for another fails.
        callback: called in this process with each value that rank 0 passes to its own callback.

    Raises:
        InputError: one was raised in any process (all processes are ended), or the device or the settings of torchrun
            do not fit.
        torch.multiprocessing.ProcessException: another error in a started process; it has the traceback.
    """
    device = choose_device(runtime)
    if device == "cpu":
        keep_freed_memory()
    if {"RANK", "WORLD_SIZE"} <= os.environ.keys():
        _check_restarts()
        local_rank, local_size = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // local_size))
        group = Group(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), _device_of(device, local_rank))
        _work_in_group(work, group, callback, store=None, timeout=runtime.timeout)
        return
    devices = torch.cuda.device_count() if device == "cuda" else 1
    size = devices if runtime.processes == "auto" else runtime.processes
    if device == "cuda" and size > devices:
        raise InputError(f"runtime.processes is {size}, but there are {devices} CUDA devices: lower it")
    if size == 1:
        work(Group(0, 1, _device_of(device, 0)), callback)
    else:
        _start_processes(work, callback, device=device, size=size, timeout=runtime.timeout)


def keep_freed_memory() -> None:
    """Makes glibc keep freed memory for the next step instead of returning it to the system page by page.

    ResNet-18 at 224 pixels then trains a sixth faster (benchmarks/README.md). Other C libraries are left as they are.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def _check_restarts() -> None:
    """Raises InputError for settings of torchrun with which restarted workers never meet (pytorch issue 135712).

    They would find the addresses of dead workers in the store that torchrun keeps.
    """
    restarts = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0))
    if restarts > 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        raise InputError(
            f"torchrun with --max-restarts {restarts} needs --rdzv-backend c10d (or --standalone) and the environment "
            "variable TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1, without which restarted workers never meet"
        )


def _device_of(kind: str, local_rank: int) -> torch.device:
    """Returns the device of a process and makes a CUDA device torch's current one."""
    if kind == "cpu":
        return torch.device("cpu")
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def _work_in_group(work: Work, group: Group, callback: Callback, *, store: Store | None, timeout: float) -> None:
    if group.size > 1:
        backend = "cpu:gloo,cuda:nccl" if group.device.type == "cuda" else "gloo"
        limit = timedelta(seconds=timeout)
        dist.init_process_group(backend, timeout=limit, store=store, rank=group.rank, world_size=group.size)
    work(group, callback)
    if group.size > 1:
        dist.destroy_process_group()


@dataclass(frozen=True)
class _Start:
    """What a started process is given."""

    work: Work
    events: "SimpleQueue[Any]"  # from rank 0's callback to the starting process; an InputError comes from any rank
    device: str
    size: int
    port: int  # of the store through which the processes meet
    timeout: float  # seconds
    threads: int  # of torch, per process


def _start_processes(work: Work, callback: Callback, *, device: str, size: int, timeout: float) -> None:
    # This process holds the store through which the others meet: the system picks a free port, and no other program
    # can take it in between.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    events: SimpleQueue[Any] = multiprocessing.get_context("spawn").SimpleQueue()
    threads = max(1, torch.get_num_threads() // size)
    start = _Start(work, events, device, size, store.port, timeout, threads)
    children = spawn(_run_child, (start,), nprocs=size, join=False)  # type: ignore[no-untyped-call]
    try:
        ended = False
        while not ended:
            connection.wait(children.sentinels, timeout=0.1)
            _pass_on(events, callback)
            ended = children.join(timeout=0)
        _pass_on(events, callback)
    finally:
        for process in children.processes:
            process.kill()
            process.join()


def _pass_on(events: "SimpleQueue[Any]", callback: Callback) -> None:
    """Passes the waiting values to the callback; raises the InputError of a child."""
    while not events.empty():
        event = events.get()
        if isinstance(event, InputError):
            raise event
        callback(event)


def _run_child(rank: int, start: _Start) -> None:
    # torch sends this process a SIGINT when its parent dies; a process started in the background may ignore SIGINT.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    torch.set_num_threads(start.threads)
    if start.device == "cpu":
        keep_freed_memory()
    store = TCPStore("127.0.0.1", start.port, is_master=False)
    group = Group(rank, start.size, _device_of(start.device, rank))
    try:
        _work_in_group(start.work, group, start.events.put, store=store, timeout=start.timeout)
    except InputError as error:
        start.events.put(error)
        # The starting process reads the error and ends all. If this process left first, the others would fail on the
        # lost connection and print that instead.
        time.sleep(60)
        sys.exit(1)
