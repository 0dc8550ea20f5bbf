"""The order of an epoch, its cut into batches, and the images that arrive."""

from pathlib import Path

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from tumorboard.augment import augment_images
from tumorboard.data.store import CropStore, write_store
from tumorboard.params import Params
from tumorboard.randomness import keys_of
from tumorboard.tables import copy_id
from tumorboard.training.loader import Loader, epoch_batches, micro_batches, smallest_micro_batch

IDS = [f"{number}.jpg" for number in range(101)]


def test_an_epoch_is_cut_evenly_and_holds_every_row_once() -> None:
    batches = epoch_batches(keys_of(IDS), 0, 3, 32)
    assert [len(batch) for batch in batches] == [26, 25, 25, 25]
    assert sorted(np.concatenate(batches)) == list(range(101))
    assert [len(batch) for batch in epoch_batches(keys_of(IDS[:33]), 0, 3, 32)] == [17, 16]
    assert [len(batch) for batch in epoch_batches(keys_of(IDS[:5]), 0, 3, 32)] == [5]


def test_the_order_follows_ids_seed_and_epoch_not_the_rows() -> None:
    def names(ids: list[str], seed: int, epoch: int) -> list[list[str]]:
        return [[ids[row] for row in batch] for batch in epoch_batches(keys_of(ids), seed, epoch, 32)]

    shuffled = [IDS[row] for row in np.random.default_rng(0).permutation(101)]
    assert names(shuffled, 0, 3) == names(IDS, 0, 3)
    assert names(IDS, 0, 3) != names(IDS, 0, 4)
    assert names(IDS, 0, 3) != names(IDS, 1, 3)


@given(
    rows=st.integers(1, 70), batch_size=st.integers(1, 20), processes=st.integers(1, 5), accumulate=st.integers(1, 5)
)
def test_processes_share_every_batch_out(rows: int, batch_size: int, processes: int, accumulate: int) -> None:
    fewest = rows
    for batch in epoch_batches(keys_of(IDS[:rows]), 0, 0, batch_size):
        assert len(batch) <= batch_size
        shares = [micro_batches(batch, rank, processes, accumulate) for rank in range(processes) if rank < len(batch)]
        # Dealt out in turn: the first images of all processes are the first of the batch.
        dealt = [np.concatenate(share) for share in shares]
        assert [dealt[n % processes][n // processes] for n in range(len(batch))] == batch.tolist()
        fewest = min(fewest, *(len(part) for share in shares for part in share))
        if len(batch) < processes:
            fewest = 0
    assert smallest_micro_batch(rows, batch_size, processes, accumulate) == fewest


def test_images_are_those_of_the_rows_altered_by_id_and_epoch(tmp_path: Path, params: Params) -> None:
    ids = [*IDS[:4], copy_id(IDS[0], 1)]
    crops = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    write_store(tmp_path / "originals", ids[:4], crops[:4], 2)
    write_store(tmp_path / "copies", ids[4:], crops[4:], 2)
    store = CropStore(tmp_path / "originals", tmp_path / "copies")
    labels, augment = np.array([0, 1, 2, 0, 1]), params.train.augment
    loader = Loader(store, ids, labels, augment, 7, torch.device("cpu"))
    whole = augment_images(torch.from_numpy(crops).permute(0, 3, 1, 2), augment, 7, keys_of(ids), 2)
    rows = [np.array(part) for part in ([3, 1], [0], [2, 4])]
    arrived = list(loader.load(rows, 2))
    assert len(arrived) == 3
    for part, (images, found) in zip(rows, arrived, strict=True):
        assert images.dtype == torch.float32
        assert torch.equal(images, whole[part])
        assert found.tolist() == labels[part].tolist()
