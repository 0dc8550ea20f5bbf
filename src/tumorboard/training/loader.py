"""From the rows of an epoch to augmented batches on the device, in an order that no number of processes changes."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tumorboard.augment import augment_images
from tumorboard.data.store import CropStore
from tumorboard.params import Augment
from tumorboard.randomness import keys_of, order

Rows = NDArray[np.int64]
A = TypeVar("A")
B = TypeVar("B")


def epoch_batches(keys: NDArray[np.uint64], seed: int, epoch: int, batch_size: int) -> list[Rows]:
    """The rows of each step's batch over all processes, in the epoch's order, which depends on the keys alone.

    ceil(N / batch_size) batches whose sizes differ by one at most: the last is as good as any, and none is dropped.
    """
    steps = -(-len(keys) // batch_size)
    return np.array_split(order(seed, keys, epoch), steps)


def micro_batches(batch: Rows, rank: int, processes: int, accumulate: int) -> list[Rows]:
    """One process's share of a batch, `batch[rank::processes]`, cut into `accumulate` parts or one an image."""
    share = batch[rank::processes]
    return np.array_split(share, min(accumulate, len(share)))


def smallest_micro_batch(rows: int, batch_size: int, processes: int, accumulate: int) -> int:
    """The fewest images that any process sees at once in any step; 0 where a process has none."""
    batch = rows // -(-rows // batch_size)
    share = batch // processes
    return share // min(accumulate, share) if share else 0


class Loader:
    """Reads training images, moves them to the device as uint8 and augments them there; row i is ids[i], labels[i]."""

    def __init__(
        self, store: CropStore, ids: list[str], labels: Rows, augment: Augment, seed: int, device: torch.device
    ) -> None:
        self.keys = keys_of(ids)
        self._store, self._positions, self._labels = store, store.positions(ids), torch.from_numpy(labels)
        self._augment, self._seed, self._device = augment, seed, device

    def load(self, batches: Sequence[Rows], epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Images float32[n, 3, S, S] in 0..255 as this epoch alters them, and labels int64[n], for each batch of rows.

        While a batch is used, a thread reads the next one.
        """
        for rows, (images, labels) in zip(batches, _one_ahead(self._read, batches), strict=True):
            images, labels = (part.to(self._device, non_blocking=True) for part in (images, labels))
            yield augment_images(images.permute(0, 3, 1, 2), self._augment, self._seed, self.keys[rows], epoch), labels

    def _read(self, rows: Rows) -> tuple[Tensor, Tensor]:
        images, labels = torch.from_numpy(self._store.take(self._positions[rows])), self._labels[rows]
        return (images.pin_memory(), labels.pin_memory()) if self._device.type == "cuda" else (images, labels)


def _one_ahead(make: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
    with ThreadPoolExecutor(max_workers=1) as thread:
        pending: deque[Future[B]] = deque()
        for item in items:
            pending.append(thread.submit(make, item))
            if len(pending) > 1:
                yield pending.popleft().result()
        yield from (future.result() for future in pending)
