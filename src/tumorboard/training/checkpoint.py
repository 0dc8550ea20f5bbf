"""Checkpoints of a running training: outside DVC's outs, under a key of all that decides the result, never half one."""

import fcntl
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict
from hashlib import sha256
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import torch
from torch import Tensor

import tumorboard
from tumorboard.params import Runtime
from tumorboard.tables import manifest_digest, replacing
from tumorboard.training.distributed import Group
from tumorboard.training.state import Epoch, Job, State

Tree = dict[str, Any]  # nested dicts and lists of tensors and plain values

# What a resumed run would mix with its own: code whose change makes another result, and the packages below it.
CODE = ("augment.py", "data/store.py", "evaluation/metrics.py", "models", "randomness.py", "training")
PACKAGES = ("torch", "torchvision", "timm", "numpy", "scipy", "scikit-learn")

_FORMAT = 1
_KEPT = 2
_DIGEST_BYTES = 32


def job_key(job: Job, initial: Mapping[str, Tensor]) -> str:
    """32 hexadecimal digits that name all that decides a job's result, but for rounding by device and processes.

    `initial`: the model's tensors before the first step. The images are read once, the training and validation rows'.
    """
    manifests = [job.digest, manifest_digest(job.rows), manifest_digest(job.val_rows)]
    said = [_FORMAT, job.name, job.fold, job.classes, manifests, [version(package) for package in PACKAGES]]
    found = sha256(json.dumps([said, job.recipe.model_dump(mode="json"), job.crop.model_dump(mode="json")]).encode())
    source = Path(tumorboard.__file__).parent
    for name in CODE:
        for file in sorted([source / name, *(source / name).rglob("*.py")]):
            if file.is_file():
                found.update(file.read_bytes())
    for name, tensor in initial.items():
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    ids = sorted({*job.rows["id"], *job.val_rows["id"]})
    for start in range(0, len(ids), 256):
        found.update(job.store[ids[start : start + 256]].tobytes())
    return found.hexdigest()[:32]


def write_checkpoint(path: Path, key: str, tree: Tree) -> None:
    """Write a tree: torch.save's bytes, then their SHA-256; on the disk before it gets its name. Raises OSError."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        hashed = _Hashed(file)
        try:
            torch.save({"key": key, "tree": tree}, cast(BinaryIO, hashed))
        except RuntimeError as error:
            raise hashed.error or error from None
        file.write(hashed.digest())
        file.flush()
        os.fsync(file.fileno())
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class _Hashed:
    """A file for torch.save, which writes the parts in their order, that keeps the digest of what went through."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._found = file, sha256()
        self.error: OSError | None = None  # torch speaks of an internal error where writing fails

    def write(self, part: bytes) -> int:
        self._found.update(part)
        try:
            return self._file.write(part)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()

    def digest(self) -> bytes:
        return self._found.digest()


class UnusableError(Exception):
    """A file that is no whole checkpoint of the job; the text says what is wrong."""


def read_checkpoint(path: Path, key: str) -> Tree:
    """Read what write_checkpoint wrote, on the CPU, without running code of the file; raises UnusableError, OSError."""
    content = memoryview(path.read_bytes())
    payload, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
    if sha256(payload).digest() != digest:
        raise UnusableError("is damaged: it does not agree with its digest")
    try:
        found = torch.load(BytesIO(payload), map_location="cpu", weights_only=True)
        owner, tree = found["key"], found["tree"]
    except Exception as error:  # whatever a file that has the digest, but is none, brings about
        reason = str(error).partition("\n")[0]
        raise UnusableError(f"is no checkpoint: {type(error).__name__}: {reason}") from None
    if owner != key:
        raise UnusableError(f"belongs to another job ({owner})")
    return dict(tree)


class Checkpoints:
    """The checkpoints of one job, as a process of its training sees them: rank 0 reads and writes for all.

    Files `<epoch>-<step>.ckpt`, the two newest, in `folder`. Without a folder nothing is kept. A checkpoint that cannot
    be written does not end a training: standard error says so, once until one could be written again.
    """

    def __init__(self, group: Group, folder: Path | None, key: str, seconds: float) -> None:
        self._group, self._folder, self._key, self._seconds = group, folder, key, seconds
        self._wanted = group.broadcast(folder is not None)
        # The first one comes after the first step: whether there is room for it is known at once.
        self._interval = self._left = 1
        self._since = time.monotonic()
        self._writer = ThreadPoolExecutor(max_workers=1)
        self._writing: Future[None] | None = None
        self._failed = False

    def resume(self, state: State) -> bool:
        """Set the state to the newest whole checkpoint's, if there is one; a damaged or foreign one is set aside."""
        tree = self._group.broadcast(self._newest() if self._folder is not None else None)
        if tree is not None:
            _restore(state, tree, self._group)
        return tree is not None

    def tick(self, state: State) -> None:
        """Count a step; about every `seconds` copy the state and leave its writing to a thread.

        All processes must call it, since the copy holds what they found together: the means of their batch norm's
        statistics, the sums of the epoch's totals. The state itself is left as it is.
        """
        self._left -= 1
        if self._left > 0 or not self._wanted:
            return
        model = state.model.state_dict() | self._group.batch_norm_means(state.model)
        average = state.average
        if average is not None:
            average = average | self._group.batch_norm_means(state.model, average)
        totals = self._group.sum([*state.sums.tolist(), *state.counts])
        if self._folder is not None and (self._writing is None or self._writing.done()):
            path = self._folder / f"{len(state.history) + 1:06d}-{state.step:09d}.ckpt"
            tree = _to_tree(state, model, average, totals)
            learned = [tree["model"][name] for name, _ in state.model.named_parameters()]
            self._writing = self._writer.submit(self._write, path, tree, learned)
        now = time.monotonic()
        steps = round(self._seconds * self._interval / max(now - self._since, 1e-9))
        self._since = now
        self._interval = self._left = self._group.broadcast(max(1, steps))

    def discard(self) -> None:
        """Delete them: the job is done."""
        self._writer.shutdown()
        if self._folder is not None:
            try:
                shutil.rmtree(self._folder)
            except OSError as error:
                _say(f"{self._folder}: cannot be deleted ({error}); what is left in it is of no use")

    def close(self) -> None:
        """Wait until the last one is written."""
        self._writer.shutdown()

    def _newest(self) -> Tree | None:
        assert self._folder is not None
        for path in sorted(self._folder.glob("*.ckpt"), reverse=True):
            try:
                return read_checkpoint(path, self._key)
            except UnusableError as error:
                aside = path.with_name(f"{path.name}.damaged")
                _say(f"{path}: {error}; it is set aside as {aside.name}")
                path.replace(aside)
            except OSError as error:
                _say(f"{path}: cannot be read ({error}); it is not used")
        return None

    def _write(self, path: Path, tree: Tree, learned: list[Tensor]) -> None:
        # A training looks at a step's losses after the next step: what is about to end it must not be gone on from.
        if not (np.isfinite(tree["totals"]).all() and all(tensor.isfinite().all() for tensor in learned)):
            return
        try:
            write_checkpoint(path, self._key, tree)
            for old in sorted(path.parent.glob("*.ckpt"))[:-_KEPT]:
                old.unlink()
        except OSError as error:
            if not self._failed:
                _say(f"{path}: cannot be written ({error}); training goes on, but could not be resumed from here")
            self._failed = True
        else:
            self._failed = False


@contextmanager
def checkpoints_of(
    group: Group, folder: Path | None, runtime: Runtime, key: Callable[[], str]
) -> Iterator[Checkpoints]:
    """The checkpoints of the job named by `key()` in `folder`/<key>, locked against other runs of the same job.

    Without a folder, with `runtime.checkpoint_seconds` 0, in a folder that cannot be used, and where another run holds
    the lock, there are none; the latter two are said on standard error. Folders of other jobs in which nothing was
    written for `runtime.checkpoint_days` are deleted.
    """
    name, mine, lock = "", None, None
    if group.rank == 0 and folder is not None and runtime.checkpoint_seconds > 0:
        name = key()
        mine = folder / name
        try:
            _prune(folder, runtime.checkpoint_days, mine)
            lock = _lock(mine)
            if lock is None:
                _say(f"{mine}: in use by another run of the same job; this one trains without checkpoints")
                mine = None
            else:
                for half in mine.glob(".*.tmp"):
                    half.unlink()
        except OSError as error:
            _say(f"{mine}: cannot be used ({error}); training goes on without checkpoints")
            mine = None
    checkpoints = Checkpoints(group, mine, name, runtime.checkpoint_seconds)
    try:
        yield checkpoints
    finally:
        checkpoints.close()
        if lock is not None:
            lock.close()


def _lock(folder: Path) -> BinaryIO | None:
    """An open file that holds the folder's lock until it is closed or the process ends; None where another holds it."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "lock"
        file = path.open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        # The run that held it before may have deleted the folder in the meantime; then the lock guards nothing.
        if path.exists() and path.stat().st_ino == os.fstat(file.fileno()).st_ino:
            return file
        file.close()


def _prune(folder: Path, days: float, mine: Path) -> None:
    """Delete the old folders of other jobs, but those that change just now, or are another user's."""
    now = time.time()
    for old in folder.iterdir() if folder.is_dir() else ():
        with suppress(OSError):
            if old != mine and old.is_dir() and _last_written(old) < now - days * 24 * 3600:
                lock = _lock(old)
                if lock is not None:
                    shutil.rmtree(old)
                    lock.close()


def _last_written(folder: Path) -> float:
    return max(path.stat().st_mtime for path in (folder, *folder.iterdir()))


def _say(message: str) -> None:
    print(f"checkpoint {message}", file=sys.stderr, flush=True)


def _to_tree(
    state: State, model: Mapping[str, Tensor], average: Mapping[str, Tensor] | None, totals: list[float]
) -> Tree:
    """A copy of the state on the CPU that later steps leave alone, with what the processes found together."""
    return {
        "model": _copy(model),
        "average": _copy(average),
        "skipped": state.skipped,
        "optimizer": _copy(state.optimizer.state_dict()),
        "scaler": state.scaler.state_dict(),
        "best_weights": state.best_weights,  # never changed, only replaced
        "history": [_plain(asdict(epoch)) for epoch in state.history],
        "step": state.step,
        "totals": totals,
        "seconds": time.perf_counter() - state.began,
    }


def _restore(state: State, tree: Tree, group: Group) -> None:
    state.model.load_state_dict(tree["model"])
    state.optimizer.load_state_dict(tree["optimizer"])
    state.scaler.load_state_dict(tree["scaler"])
    state.best_weights = tree["best_weights"]
    if state.average is not None:
        for name, value in tree["average"].items():
            state.average[name].copy_(value)
    state.skipped = tree["skipped"]
    state.history = [Epoch(**epoch) for epoch in tree["history"]]
    state.step = tree["step"]
    if group.rank == 0:  # they are summed over the processes at the epoch's end
        state.sums = torch.tensor(tree["totals"][:2], dtype=torch.float64, device=group.device)
        state.counts = np.array(tree["totals"][2:])
    state.began = time.perf_counter() - tree["seconds"]


def _copy(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: _copy(entry) for key, entry in value.items()}
    return [_copy(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def _plain(epoch: Tree) -> Tree:
    """Numbers of NumPy as Python's own: a file read without running code has no others."""
    return {
        key: {name: float(score) for name, score in value.items()} if isinstance(value, Mapping) else value
        for key, value in epoch.items()
    }
