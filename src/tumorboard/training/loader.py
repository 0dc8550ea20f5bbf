"""Turns the training rows into augmented batches on the device, in an order independent of the number of processes."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tumorboard.augment.alterations import alter_images, augment_images, draw_numbers
from tumorboard.base.params import Augment
from tumorboard.base.randomness import keys_of, order, uniforms
from tumorboard.data.store import CropStore
from tumorboard.training.progressive import resize_images

RowNumbers: TypeAlias = NDArray[np.int64]  # [N]: positions of rows in the training manifest
Draws: TypeAlias = NDArray[np.int64]  # [N, 2]: a row, and how often it was drawn before in this training
A = TypeVar("A")
B = TypeVar("B")

# Held while memory is pinned, and while a CUDA graph is captured: CUDA then refuses to pin memory, in any thread, and
# both the capture and the reading thread would fail.
PINNING = Lock()

# From labels int64[N] to strata int64[N]. An epoch draws equally often from each stratum: all rows, or each class.
SAMPLERS: dict[str, Callable[[RowNumbers], RowNumbers]] = {"shuffle": np.zeros_like, "balanced": np.asarray}


def epoch_batches(
    keys: NDArray[np.uint64], strata: RowNumbers, *, seed: int, epoch: int, batch_size: int
) -> list[Draws]:
    """Returns the draws of each step's batch, over all processes, for one epoch.

    There are ceil(N / batch_size) batches, whose sizes differ by at most one; no row is dropped. An epoch has N draws,
    equally many from each stratum; if N does not divide evenly, the strata take turns at one more. Within a stratum no
    row is drawn again, in this epoch or a later one, before all its rows were drawn. With one stratum each row is
    therefore drawn once per epoch. The order depends on (seed, epoch) and the keys alone.

    Args:
        keys: uint64[N], keys of the rows' ids (`keys_of`).
        strata: int64[N], from one of SAMPLERS.
        seed: the recipe's seed.
        epoch: counted from 0.
        batch_size: images per step, over all processes.

    >>> labels = np.array([0, 0, 0, 0, 1])
    >>> keys = keys_of(["a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg"])
    >>> shuffled = epoch_batches(keys, SAMPLERS["shuffle"](labels), seed=1, epoch=2, batch_size=2)
    >>> [batch.tolist() for batch in shuffled]  # (row, earlier draws): each row for the third time
    [[[2, 2], [4, 2]], [[0, 2], [3, 2]], [[1, 2]]]
    >>> balanced = epoch_batches(keys, SAMPLERS["balanced"](labels), seed=1, epoch=0, batch_size=3)
    >>> [labels[batch[:, 0]].tolist() for batch in balanced]  # the only row of class 1 is drawn 3 times
    [[1, 0, 1], [1, 0]]
    """
    draws = _draw(keys, strata, seed, epoch)
    drawn_keys, times = keys[draws[:, 0]], draws[:, 1]
    mixed = draws[np.lexsort((drawn_keys, uniforms(seed, drawn_keys, times, 1)[:, 0]))]
    return np.array_split(mixed, -(-len(keys) // batch_size))


def _draw(keys: NDArray[np.uint64], strata: RowNumbers, seed: int, epoch: int) -> Draws:
    """Returns the draws of an epoch, stratum by stratum."""
    names = np.unique(strata)
    parts = []
    for place, name in enumerate(names):
        rows = np.flatnonzero(strata == name)
        # The sum of floor((e N + k) / K) over k = 0 .. K - 1 is e N (Hermite's identity): every epoch has N draws.
        start, end = ((past * len(keys) + place) // len(names) for past in (epoch, epoch + 1))
        for times in range(start // len(rows), -(-end // len(rows))):
            # Negative counters make a row's place in its stratum independent of its place in the epoch.
            turn = rows[order(seed, keys[rows], -1 - times)]
            taken = turn[max(start - times * len(rows), 0) : end - times * len(rows)]
            parts.append(np.stack([taken, np.full_like(taken, times)], axis=1))
    return np.concatenate(parts)


def micro_batches(batch: Draws, rank: int, processes: int, accumulate: int) -> list[Draws]:
    """Returns one process's share of a batch, `batch[rank::processes]`, cut into micro-batches.

    There are `accumulate` of them, or one per image if the share has fewer images.
    """
    share = batch[rank::processes]
    return np.array_split(share, min(accumulate, len(share)))


def smallest_micro_batch(rows: int, batch_size: int, processes: int, accumulate: int) -> int:
    """Returns the fewest images in any micro-batch of any step; 0 if a process has none.

    >>> smallest_micro_batch(rows=40, batch_size=16, processes=2, accumulate=3)  # batches of 14, 13, 13; shares of 6, 7
    2
    """
    batch = rows // -(-rows // batch_size)
    share = batch // processes
    return share // min(accumulate, share) if share else 0


class Loader:
    """Reads training images, moves them to the device as uint8, and augments them there."""

    def __init__(
        self,
        store: CropStore,
        *,
        ids: list[str],
        labels: RowNumbers,
        sampler: str,
        augment: Augment,
        seed: int,
        device: torch.device,
    ) -> None:
        """Finds the images in the store.

        Args:
            store: store of the images.
            ids: ids of the training rows; row i of all draws is ids[i].
            labels: int64[N], the class of each row.
            sampler: a name in SAMPLERS.
            augment: ranges of the random alterations.
            seed: seed of the random alterations.
            device: the device on which the images are augmented.
        """
        self.keys, self.strata = keys_of(ids), SAMPLERS[sampler](labels)
        self._store, self._positions, self._labels = store, store.positions(ids), torch.from_numpy(labels)
        self._augment, self._seed, self._device = augment, seed, device

    def load(self, batches: Sequence[Draws], side: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the images and labels of each batch; a thread reads the next batch meanwhile.

        Images are float32[n, 3, S, S] in 0..255, altered differently at each draw; labels are int64[n].

        Args:
            batches: the draws of each batch.
            side: S in pixels, to which the images are scaled before they are altered; None: as they are stored.
        """
        for draws, (images, labels, numbers) in zip(batches, self.read(batches, side), strict=True):
            rows, times = draws.T
            images = self._on_device(images, side)
            settings = {"seed": self._seed, "keys": self.keys[rows], "counter": times, "numbers": numbers}
            yield augment_images(images, self._augment, **settings), labels

    def read(self, batches: Sequence[Draws], side: int | None = None) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yields what each batch is made of; a thread reads the next batch's images meanwhile.

        These are the images as they are stored, uint8[n, S, S, 3] in the CPU's memory (pinned for a CUDA device), and
        on the device the labels int64[n] and the numbers of their alterations (`draw_numbers`).
        """
        if not batches:
            return
        rows, times = np.concatenate(batches).T
        numbers = draw_numbers(self._augment, self._seed, self.keys[rows], times, side or self._store.size)
        labels, numbers = self._labels[rows].to(self._device), numbers.to(self._device)
        end = 0
        for images in _one_ahead(self._take, [draws[:, 0] for draws in batches]):
            start, end = end, end + len(images)
            yield images, labels[start:end], numbers[start:end]

    @property
    def needs_keys(self) -> bool:
        """Whether `alter` cannot alter the images, since their noise is drawn on the CPU by their keys."""
        return self._augment.noise > 0

    def alter(self, images: Tensor, numbers: Tensor, side: int | None = None) -> Tensor:
        """Returns the images that `load` yields for what `read` yields; `needs_keys` says where it cannot."""
        return alter_images(self._on_device(images, side), self._augment, numbers)

    def _on_device(self, images: Tensor, side: int | None) -> Tensor:
        images = images.to(self._device, non_blocking=True).permute(0, 3, 1, 2)
        return resize_images(images, side or self._store.size)

    def _take(self, rows: RowNumbers) -> Tensor:
        """Returns images from the store; in pinned memory for CUDA, so that no copy waits."""
        images = torch.from_numpy(self._store.take(self._positions[rows]))
        if self._device.type != "cuda":
            return images
        with PINNING:
            return images.pin_memory()


def _one_ahead(make: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
    """Yields make(item) for each item; a thread computes the next one while the reader uses this one."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        pending: deque[Future[B]] = deque()
        for item in items:
            pending.append(thread.submit(make, item))
            if len(pending) > 1:
                yield pending.popleft().result()
        yield from (future.result() for future in pending)
