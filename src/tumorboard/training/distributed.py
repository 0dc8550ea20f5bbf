"""One training in several processes: started here or joined under torchrun, and what they tell each other."""

import ctypes
import multiprocessing
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import connection
from multiprocessing.queues import SimpleQueue
from typing import Any, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor
from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]
from torch.multiprocessing.spawn import spawn
from torch.nn import Module
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from tumorboard.errors import InputError
from tumorboard.models.inference import choose_device
from tumorboard.params import Runtime

T = TypeVar("T")
Report = Callable[[Any], None]

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's mallopt


@dataclass(frozen=True)
class Group:
    """The processes of one training as one of them sees them: its rank, their number, its device."""

    rank: int
    size: int
    device: torch.device

    def broadcast(self, value: T) -> T:
        """Rank 0's value, in every process."""
        box = [value]
        if self.size > 1:
            dist.broadcast_object_list(box, src=0)
        return box[0]

    def sum(self, values: list[float]) -> list[float]:
        """The sums over all processes, in every process."""
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        if self.size > 1:
            dist.all_reduce(total)
        return total.tolist()

    def gather(self, part: NDArray[Any], rows: int) -> NDArray[Any]:
        """The whole [rows, ...] on rank 0, of which each process holds part [rank::size]; elsewhere undefined."""
        if self.size == 1:
            return part
        parts: list[Any] | None = [None] * self.size if self.rank == 0 else None
        dist.gather_object(part, parts, dst=0)
        whole = np.empty((rows, *part.shape[1:]), part.dtype)
        for rank, piece in enumerate(parts or []):
            whole[rank :: self.size] = piece
        return whole

    def wrap(self, model: Module) -> Module:
        """The model whose backward pass averages gradients over the processes; batch norm stays each process's own."""
        if self.size == 1:
            return model
        with warnings.catch_warnings():
            # torch 2.15 has another name for broadcast_buffers, which older ones do not know.
            warnings.simplefilter("ignore", FutureWarning)
            return DistributedDataParallel(model, broadcast_buffers=False, gradient_as_bucket_view=True)

    def synchronised(self, model: Module, wanted: bool) -> AbstractContextManager[None]:
        """Where `wanted` is false, the backward passes within leave the gradients to a later one to average."""
        return nullcontext() if wanted or self.size == 1 else cast(DistributedDataParallel, model).no_sync()

    def batch_norm_means(self, model: Module, tensors: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """The means over the processes of batch norm's running statistics, under their names in the model's state.

        The statistics are the model's, or those that `tensors` holds under these names.
        """
        held = model.state_dict() if tensors is None else tensors
        names = [
            f"{name}.{statistic}".removeprefix(".")
            for name, module in model.named_modules()
            if isinstance(module, _BatchNorm) and module.track_running_stats
            for statistic in ("running_mean", "running_var")
        ]
        found = {name: held[name].clone() for name in names}
        if self.size > 1:
            for mean in found.values():
                dist.all_reduce(mean)
                mean /= self.size
        return found

    def average_batch_norm(self, model: Module) -> None:
        """Set the running statistics of batch norm to their means over the processes."""
        if self.size > 1:
            model.load_state_dict(self.batch_norm_means(model), strict=False)


def launch(work: Callable[..., None], arguments: tuple[Any, ...], runtime: Runtime, report: Report) -> None:
    """Run `work(group, *arguments, report)` in every process of a training, and return when all have ended.

    Under torchrun (RANK and WORLD_SIZE are set) this process joins its group; else `runtime.processes` are started, by
    'auto' one a CUDA device and one on the CPU. `work` and `arguments` are pickled then. What rank 0 gives to its
    `report` reaches the caller's. A failing process ends all: its InputError is raised here, or torch's
    ProcessException with its traceback; killing this process ends them too. One that has waited for another for
    `runtime.timeout` seconds fails.
    """
    device = choose_device(runtime)
    if device == "cpu":
        keep_freed_memory()
    if {"RANK", "WORLD_SIZE"} <= os.environ.keys():
        _check_restarts()
        local_rank, local_size = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // local_size))
        group = Group(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), _device(device, local_rank))
        _take_part(group, None, runtime.timeout, work, arguments, report)
        return
    devices = torch.cuda.device_count() if device == "cuda" else 1
    size = devices if runtime.processes == "auto" else runtime.processes
    if device == "cuda" and size > devices:
        raise InputError(f"runtime.processes is {size}, but there are {devices} CUDA devices")
    if size == 1:
        work(Group(0, 1, _device(device, 0)), *arguments, report)
    else:
        _spawn(device, size, runtime.timeout, work, arguments, report)


def keep_freed_memory() -> None:
    """Have glibc keep what is freed for the next step, instead of giving it back and fetching it page by page again.

    ResNet-18 at 224 pixels then trains a sixth faster (benchmarks/README.md); other C libraries are left as they are.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def _check_restarts() -> None:
    """Started again, workers find the addresses of dead ones in a store that torchrun keeps (pytorch issue 135712)."""
    restarts = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0))
    if restarts > 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        raise InputError(
            f"torchrun with --max-restarts {restarts} needs --rdzv-backend c10d (or --standalone) and the environment "
            "variable TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1, without which workers that it starts again never meet"
        )


def _device(kind: str, local_rank: int) -> torch.device:
    if kind == "cpu":
        return torch.device("cpu")
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def _take_part(
    group: Group,
    store: Store | None,
    timeout: float,
    work: Callable[..., None],
    arguments: tuple[Any, ...],
    report: Report,
) -> None:
    if group.size > 1:
        backend = "cpu:gloo,cuda:nccl" if group.device.type == "cuda" else "gloo"
        patience = timedelta(seconds=timeout)
        dist.init_process_group(backend, timeout=patience, store=store, rank=group.rank, world_size=group.size)
    work(group, *arguments, report)
    if group.size > 1:
        dist.destroy_process_group()


def _spawn(
    device: str, size: int, timeout: float, work: Callable[..., None], arguments: tuple[Any, ...], report: Report
) -> None:
    # This process keeps the meeting point: the system picks its port, so that no other program can take it in between.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    events: SimpleQueue[Any] = multiprocessing.get_context("spawn").SimpleQueue()
    threads = max(1, torch.get_num_threads() // size)
    shared = (size, device, store.port, timeout, threads, events, work, arguments)
    children = spawn(_child, shared, nprocs=size, join=False)  # type: ignore[no-untyped-call]
    try:
        ended = False
        while not ended:
            connection.wait(children.sentinels, timeout=0.1)
            _read(events, report)
            ended = children.join(timeout=0)
        _read(events, report)
    finally:
        for process in children.processes:
            process.kill()
            process.join()


def _read(events: "SimpleQueue[Any]", report: Report) -> None:
    while not events.empty():
        event = events.get()
        if isinstance(event, InputError):
            raise event
        report(event)


def _child(
    rank: int,
    size: int,
    device: str,
    port: int,
    timeout: float,
    threads: int,
    events: "SimpleQueue[Any]",
    work: Callable[..., None],
    arguments: tuple[Any, ...],
) -> None:
    # torch has this process sent a SIGINT when its parent dies; one that was started in the background may ignore it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    torch.set_num_threads(threads)
    if device == "cpu":
        keep_freed_memory()
    store = TCPStore("127.0.0.1", port, is_master=False)
    try:
        _take_part(Group(rank, size, _device(device, rank)), store, timeout, work, arguments, events.put)
    except InputError as error:
        events.put(error)
        # The starting process reads it and ends all. One that left before would make the others fail, and say so.
        time.sleep(60)
        sys.exit(1)
