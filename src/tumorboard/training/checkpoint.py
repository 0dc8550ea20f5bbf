"""Writes and reads checkpoints of a running training, outside DVC's outputs, in one folder per job key.

A problem with checkpoints never ends a training. It is logged as a warning, which Python by default prints to standard
error.
"""

import fcntl
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from tumorboard.base.params import Runtime
from tumorboard.evaluation.held_out import HeldOut
from tumorboard.training.batch_norm import batch_norm_means
from tumorboard.training.checkpoint_file import Tree, UnusableError, read_checkpoint, write_checkpoint
from tumorboard.training.distributed import Group
from tumorboard.training.job import Epoch, State

# Number of checkpoints per job. The second newest serves where the newest is damaged.
_KEPT = 2
_SECONDS_PER_DAY = 24 * 3600

_log = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one job, as one process of its training sees them.

    Rank 0 reads and writes for all processes. The folder holds the two newest files, named `<epoch>-<step>.ckpt`.
    """

    def __init__(self, group: Group, folder: Path | None, key: str, seconds: float) -> None:
        """Starts the thread that writes.

        Args:
            group: the processes of the training.
            folder: folder of the job's checkpoints, on rank 0; None: nothing is read or written.
            key: the job's key (`job_key`).
            seconds: wanted time between two checkpoints.
        """
        self._group, self._folder, self._key, self._seconds = group, folder, key, seconds
        self._enabled = group.broadcast(folder is not None)
        # The first checkpoint follows the first step, so that a full disk is reported at once.
        self._interval = self._steps_left = 1
        self._last_time = time.monotonic()
        self._writer = ThreadPoolExecutor(max_workers=1)
        self._writing: Future[None] | None = None
        self._failed = False

    def resume(self, state: State) -> bool:
        """Restores the state from the newest usable checkpoint and returns True; returns False if there is none.

        A damaged checkpoint, or one of another job, is renamed to `<name>.damaged`.
        """
        tree = self._group.broadcast(self._read_newest() if self._folder is not None else None)
        if tree is not None:
            _restore_state(state, tree, self._group)
        return tree is not None

    def after_step(self, state: State) -> None:
        """Counts a step and, about every `seconds`, copies the state and lets a thread write the copy.

        All processes must call this after each step, since a copy holds values that they compute together: the means
        of their batch norms' statistics and the sums of the epoch's totals. The state itself does not change.
        """
        self._steps_left -= 1
        if self._steps_left > 0 or not self._enabled:
            return
        model = state.model.state_dict() | batch_norm_means(state.model, self._group)
        average = state.average
        if average is not None:
            average = average | batch_norm_means(state.model, self._group, average)
        totals = self._group.sum([*state.sums.tolist(), *state.counts])
        if self._folder is not None and (self._writing is None or self._writing.done()):
            path = self._folder / f"{len(state.history) + 1:06d}-{state.step:09d}.ckpt"
            tree = _to_tree(state, model, average, totals)
            parameters = [tree["model"][name] for name, _ in state.model.named_parameters()]
            self._writing = self._writer.submit(self._write, path, tree, parameters)
        now = time.monotonic()
        steps = round(self._seconds * self._interval / max(now - self._last_time, 1e-9))
        self._last_time = now
        self._interval = self._steps_left = self._group.broadcast(max(1, steps))

    def wait(self) -> None:
        """Waits until the last checkpoint is written."""
        self._writer.shutdown()

    def delete(self) -> None:
        """Deletes the checkpoints of a finished job."""
        self.wait()
        if self._folder is not None:
            try:
                shutil.rmtree(self._folder)
            except OSError as error:
                _warn(f"{self._folder}: cannot be deleted ({error}); the job is done and does not need it")

    def _read_newest(self) -> Tree | None:
        assert self._folder is not None
        for path in sorted(self._folder.glob("*.ckpt"), reverse=True):
            try:
                return read_checkpoint(path, self._key)
            except UnusableError as error:
                renamed = path.with_name(f"{path.name}.damaged")
                try:
                    path.replace(renamed)
                except OSError as fault:
                    _warn(f"{path}: {error}; it is not used, and cannot be renamed ({fault})")
                else:
                    _warn(f"{path}: {error}; it is renamed to {renamed.name}")
            except OSError as error:
                _warn(f"{path}: cannot be read ({error}); it is not used")
        return None

    def _write(self, path: Path, tree: Tree, parameters: list[Tensor]) -> None:
        # A step's losses are checked only after the next step: a state that is about to end the training with an error
        # must not be resumed.
        if not (np.isfinite(tree["totals"]).all() and all(tensor.isfinite().all() for tensor in parameters)):
            return
        try:
            write_checkpoint(path, self._key, tree)
            for old in sorted(path.parent.glob("*.ckpt"))[:-_KEPT]:
                old.unlink()
        except OSError as error:
            if not self._failed:  # one warning until a checkpoint could be written again
                _warn(f"{path}: cannot be written ({error}); training goes on, but could not be resumed from here")
            self._failed = True
        else:
            self._failed = False


@contextmanager
def open_checkpoints(
    group: Group, folder: Path | None, runtime: Runtime, key: Callable[[], str]
) -> Iterator[Checkpoints]:
    """Opens the checkpoints of one job, locked against other runs of the same job.

    No checkpoints are written without a folder or with `runtime.checkpoint_seconds` 0. If the folder cannot be used or
    another run holds the lock, none are written and a warning is logged.

    Args:
        group: the processes of the training.
        folder: parent folder of all jobs; this job's checkpoints are in <folder>/<key>. Other jobs' folders not written
            to for `runtime.checkpoint_days` days are deleted.
        runtime: `checkpoint_seconds` and `checkpoint_days`.
        key: computes the job's key; called on rank 0, only if there are checkpoints.
    """
    name, own_folder, lock = "", None, None
    if group.rank == 0 and folder is not None and runtime.checkpoint_seconds > 0:
        name = key()
        own_folder = folder / name
        try:
            _delete_old(folder, runtime.checkpoint_days, own_folder)
            lock = _lock_folder(own_folder)
            if lock is None:
                _warn(f"{own_folder}: in use by another run of the same job; this one trains without checkpoints")
                own_folder = None
            else:
                for unfinished in own_folder.glob(".*.tmp"):
                    unfinished.unlink()
        except OSError as error:
            _warn(f"{own_folder}: cannot be used ({error}); training goes on without checkpoints")
            own_folder = None
    checkpoints = Checkpoints(group, own_folder, name, runtime.checkpoint_seconds)
    try:
        yield checkpoints
    finally:
        checkpoints.wait()
        if lock is not None:
            lock.close()


def _lock_folder(folder: Path) -> BinaryIO | None:
    """Locks a folder, which is created if missing; returns None if another process holds the lock.

    The lock lasts until the returned file is closed or the process ends.
    """
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "lock"
        file = path.open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        # A run that held the lock before may have deleted the folder in the meantime, and this file with it.
        if path.exists() and path.stat().st_ino == os.fstat(file.fileno()).st_ino:
            return file
        file.close()


def _delete_old(folder: Path, days: float, own_folder: Path) -> None:
    """Deletes other jobs' old folders; a folder that changes meanwhile, is in use or is another user's stays."""
    now = time.time()
    for old in folder.iterdir() if folder.is_dir() else ():
        with suppress(OSError):
            if old != own_folder and old.is_dir() and _last_written(old) < now - days * _SECONDS_PER_DAY:
                lock = _lock_folder(old)
                if lock is not None:
                    shutil.rmtree(old)
                    lock.close()


def _last_written(folder: Path) -> float:
    return max(path.stat().st_mtime for path in (folder, *folder.iterdir()))


def _warn(message: str) -> None:
    _log.warning("checkpoint %s", message)


def _to_tree(
    state: State, model: Mapping[str, Tensor], average: Mapping[str, Tensor] | None, totals: list[float]
) -> Tree:
    """Returns a copy of the state on the CPU that later steps do not change.

    `model`, `average` and `totals` replace the state's own values by the values of all processes together.
    """
    return {
        "model": _copy(model),
        "average": _copy(average),
        "skipped": state.skipped,
        "optimizer": _copy(state.optimizer.state_dict()),
        "scaler": state.scaler.state_dict(),
        "best_weights": state.best_weights,  # not copied: it is never changed, only replaced
        "held_out": _held_out_tensors(state.held_out),
        "history": [_plain_epoch(asdict(epoch)) for epoch in state.history],
        "step": state.step,
        "totals": totals,
        "seconds": time.perf_counter() - state.began,
    }


def _restore_state(state: State, tree: Tree, group: Group) -> None:
    state.model.load_state_dict(tree["model"])
    state.optimizer.load_state_dict(tree["optimizer"])
    state.scaler.load_state_dict(tree["scaler"])
    state.best_weights = tree["best_weights"]
    if state.average is not None:
        for name, value in tree["average"].items():
            state.average[name].copy_(value)
    held_out = tree["held_out"]
    state.held_out = held_out and HeldOut(**{name: tensor.numpy() for name, tensor in held_out.items()})
    state.skipped = tree["skipped"]
    state.history = [Epoch(**epoch) for epoch in tree["history"]]
    state.step = tree["step"]
    if group.rank == 0:  # totals on rank 0 alone, since they are summed over the processes at the epoch's end
        state.sums = torch.tensor(tree["totals"][:2], dtype=torch.float64, device=group.device)
        state.counts = np.array(tree["totals"][2:])
    state.began = time.perf_counter() - tree["seconds"]


def _held_out_tensors(held_out: HeldOut | None) -> dict[str, Tensor] | None:
    """Returns the arrays as tensors; they are not copied, because they are never changed, only replaced."""
    if held_out is None:
        return None
    return {name: torch.from_numpy(array) for name, array in vars(held_out).items()}


def _copy(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: _copy(entry) for key, entry in value.items()}
    return [_copy(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def _plain_epoch(epoch: Tree) -> Tree:
    """Turns NumPy numbers into Python's, because a file that is read without running code can hold no others."""
    return {
        key: {name: float(score) for name, score in value.items()} if isinstance(value, Mapping) else value
        for key, value in epoch.items()
    }
