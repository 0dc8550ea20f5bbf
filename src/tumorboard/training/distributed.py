"""Runs one training in several processes, started here or joined under torchrun, and passes values between them."""

import math
import multiprocessing
import os
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from typing import Any, TypeAlias, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor
from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]
from torch.nn import Module
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from tumorboard.base.cores import available_cores
from tumorboard.base.errors import InputError
from tumorboard.base.faults import explain_fault
from tumorboard.base.params import Runtime
from tumorboard.base.processes import Child, running_children
from tumorboard.models.device import choose_device, threads_of, use_threads
from tumorboard.training.heap import keep_freed_memory

T = TypeVar("T")
Callback: TypeAlias = Callable[[Any], None]  # takes one value that rank 0 sends to the process that called `launch`

CAUSE_SECONDS = 2.0  # time after the first lost connection in which the lost process is identified


class LostProcessError(InputError):
    """Another process of the training is gone or silent."""


@dataclass(frozen=True)
class Group:
    """The processes of one training, as one of them sees them."""

    rank: int  # number of this process, from 0
    size: int  # number of processes
    device: torch.device  # the device of this process

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
        InputError: one was raised in any process, or a process was killed or lost (all processes are ended), or the
            device or the settings of torchrun do not fit.
        RuntimeError: another error in a started process; it has the traceback.
    """
    device = choose_device(runtime)
    if device == "cpu":
        keep_freed_memory()
    if {"RANK", "WORLD_SIZE"} <= os.environ.keys():
        _check_restarts()
        local_rank, local_size = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        torch.set_num_threads(max(1, available_cores() // local_size) if runtime.threads == "auto" else runtime.threads)
        group = Group(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), _device_of(device, local_rank))
        _work_in_group(work, group, callback, store=None, timeout=runtime.timeout)
        return
    devices = torch.cuda.device_count() if device == "cuda" else 1
    size = devices if runtime.processes == "auto" else runtime.processes
    if device == "cuda" and size > devices:
        raise InputError(f"runtime.processes is {size}, but there are {devices} CUDA devices: lower it")
    if size == 1:
        use_threads(runtime)
        work(Group(0, 1, _device_of(device, 0)), callback)
    else:
        _start_processes(work, callback, device=device, size=size, runtime=runtime)


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


def _work_in_group(
    work: Work, group: Group, callback: Callback, *, store: Callable[[], Store] | None, timeout: float
) -> None:
    """Runs the work within a process group of torch; a connection that is lost becomes a LostProcessError."""
    if group.size == 1:
        work(group, callback)
        return
    backend = "cpu:gloo,cuda:nccl" if group.device.type == "cuda" else "gloo"
    limit = timedelta(seconds=timeout)
    try:
        meeting = store() if store else None
        dist.init_process_group(backend, timeout=limit, store=meeting, rank=group.rank, world_size=group.size)
        work(group, callback)
        dist.destroy_process_group()
    except (RuntimeError, ConnectionError) as error:
        if not _is_lost_connection(error):
            raise
        detail = str(error).strip().split("\n")[0]
        raise LostProcessError(
            f"process {group.rank} of {group.size} lost another one, which was killed, failed, or was silent for "
            f"runtime.timeout = {timeout:g} s: look for its message or for the kernel's ('out of memory'), then run "
            f"again, which resumes from the last checkpoint ({detail})"
        ) from None


def _is_lost_connection(error: Exception) -> bool:
    """Whether an error of torch.distributed means that another process is gone or silent."""
    if isinstance(error, (dist.DistNetworkError, dist.DistStoreError, dist.DistBackendError, ConnectionError)):
        return True
    return any(words in str(error) for words in ("gloo/transport", "Connection closed by peer", "Connection reset"))


@dataclass(frozen=True)
class _Start:
    """What all started processes are given."""

    work: Work
    device: str
    size: int
    port: int  # port of the store through which the processes meet
    timeout: float  # seconds after which a process that waits for another fails
    threads: int  # number of torch's threads per process


def _start_processes(work: Work, callback: Callback, *, device: str, size: int, runtime: Runtime) -> None:
    # This process holds the store through which the others meet: the system picks a free port, and no other program
    # can take it in between.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    start = _Start(work, device, size, store.port, runtime.timeout, threads_of(runtime.threads, size))
    with running_children(multiprocessing.get_context("spawn"), size, _run_child, start) as children:
        _follow(children, callback)


def _follow(children: list[Child], callback: Callback) -> None:
    """Gives the values of rank 0 to the callback until all children have ended.

    Raises:
        InputError: a child was killed, or has sent an InputError or a fault of the machine.
        RuntimeError: a child has sent another error; its traceback is the message.
    """
    ranks = {child.connection: rank for rank, child in enumerate(children)}
    lost: list[Exception] = []  # errors that another process's error has caused
    deadline = math.inf
    while ranks and time.monotonic() < deadline:
        for connection in wait(list(ranks), timeout=0.1):
            rank = ranks[cast(Connection, connection)]
            try:
                kind, value = cast(Connection, connection).recv()
            except (EOFError, OSError):
                del ranks[cast(Connection, connection)]
                _check_end(rank, children[rank])
                continue
            if kind == "value":
                callback(value)
            elif isinstance(value, LostProcessError):
                lost.append(value)
                deadline = min(deadline, time.monotonic() + CAUSE_SECONDS)
            else:
                raise value
    if lost:
        raise lost[0]


def _check_end(rank: int, child: Child) -> None:
    """Raises InputError unless a child whose pipe has ended has ended in order."""
    cause = child.cause_of_end()
    if child.process.exitcode != 0:
        raise InputError(
            f"training process {rank} {cause}, most likely because memory ran out: lower runtime.processes or "
            "batch_size, or raise the recipe's accumulate; another run resumes from the last checkpoint"
        )


def _run_child(connection: Connection, rank: int, start: _Start) -> None:
    tqdm.set_lock(threading.RLock())  # its own is a semaphore of the system, which a killed process leaves behind
    try:
        torch.set_num_threads(start.threads)
        if start.device == "cpu":
            keep_freed_memory()
        group = Group(rank, start.size, _device_of(start.device, rank))
        _work_in_group(
            start.work,
            group,
            lambda value: connection.send(("value", value)),
            store=lambda: TCPStore("127.0.0.1", start.port, is_master=False),
            timeout=start.timeout,
        )
    except Exception as error:
        connection.send(("error", _error_to_send(error, rank)))
        # The starting process reads the error and ends all. If this process left first, the others would fail on the
        # lost connection.
        threading.Event().wait()


def _error_to_send(error: Exception, rank: int) -> Exception:
    if isinstance(error, InputError):
        return error
    if fault := explain_fault(error):
        return InputError(f"training process {rank}: {fault}")
    return RuntimeError(f"training process {rank}:\n{traceback.format_exc()}")
