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
from tumorboard.randomness import keys_of, order, uniforms

Rows = NDArray[np.int64]
Draws = NDArray[np.int64]  # [N, 2]: a row, and how often it was drawn before in the training
A = TypeVar("A")
B = TypeVar("B")


# From labels int64[N] to strata int64[N], of which an epoch draws equally many: one of all rows, or the classes.
SAMPLERS: dict[str, Callable[[Rows], Rows]] = {"shuffle": np.zeros_like, "balanced": np.asarray}


def epoch_batches(keys: NDArray[np.uint64], strata: Rows, seed: int, epoch: int, batch_size: int) -> list[Draws]:
    """The draws of each step's batch over all processes, in an order that depends on (seed, epoch) and the keys alone.

    ceil(N / batch_size) batches whose sizes differ by one at most: the last is as good as any, and none is dropped. An
    epoch has N draws, as many of each stratum; where that does not divide, the strata take turns at one more. Within a
    stratum, and on from epoch to epoch, no row comes again before all have come: of one stratum, each once an epoch.
    """
    draws = _draw(keys, strata, seed, epoch)
    drawn, times = keys[draws[:, 0]], draws[:, 1]
    mixed = draws[np.lexsort((drawn, uniforms(seed, drawn, times, 1)[:, 0]))]
    return np.array_split(mixed, -(-len(keys) // batch_size))


def _draw(keys: NDArray[np.uint64], strata: Rows, seed: int, epoch: int) -> Draws:
    """The draws of an epoch, not yet mixed."""
    names = np.unique(strata)
    parts = []
    for place, name in enumerate(names):
        rows = np.flatnonzero(strata == name)
        # The sum of floor((e N + k) / K) over k = 0 .. K - 1 is e N (Hermite's identity): every epoch has N draws.
        start, end = ((past * len(keys) + place) // len(names) for past in (epoch, epoch + 1))
        for times in range(start // len(rows), -(-end // len(rows))):
            # Negative counters: a row's place in its stratum's turn must tell nothing of its place in the epoch.
            turn = rows[order(seed, keys[rows], -1 - times)]
            taken = turn[max(start - times * len(rows), 0) : end - times * len(rows)]
            parts.append(np.stack([taken, np.full_like(taken, times)], axis=1))
    return np.concatenate(parts)


def micro_batches(batch: Draws, rank: int, processes: int, accumulate: int) -> list[Draws]:
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
        self,
        store: CropStore,
        ids: list[str],
        labels: Rows,
        sampler: str,
        augment: Augment,
        seed: int,
        device: torch.device,
    ) -> None:
        self.keys, self.strata = keys_of(ids), SAMPLERS[sampler](labels)
        self._store, self._positions, self._labels = store, store.positions(ids), torch.from_numpy(labels)
        self._augment, self._seed, self._device = augment, seed, device

    def load(self, batches: Sequence[Draws]) -> Iterator[tuple[Tensor, Tensor]]:
        """Images float32[n, 3, S, S] in 0..255, altered anew at each draw, and labels int64[n], for each batch.

        While a batch is used, a thread reads the next one.
        """
        for (rows, times), (images, labels) in zip(
            (draws.T for draws in batches), _one_ahead(self._read, batches), strict=True
        ):
            images, labels = (part.to(self._device, non_blocking=True) for part in (images, labels))
            yield augment_images(images.permute(0, 3, 1, 2), self._augment, self._seed, self.keys[rows], times), labels

    def _read(self, draws: Draws) -> tuple[Tensor, Tensor]:
        rows = draws[:, 0]
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
