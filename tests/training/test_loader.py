"""Tests which rows an epoch draws, in which order, how they are cut into batches, and the images that are loaded."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tumorboard.augment.alterations import augment_images
from tumorboard.base.params import Params, Recipe
from tumorboard.base.randomness import keys_of, order
from tumorboard.base.tables import copy_id
from tumorboard.data.store import CropStore, write_store
from tumorboard.training.loader import PINNING, SAMPLERS, Loader, epoch_batches, micro_batches, smallest_micro_batch

IDS = [f"{number}.jpg" for number in range(101)]
# Seven of class 0, thirteen of class 1, 81 of class 2.
LABELS = np.array([0] * 7 + [1] * 13 + [2] * 81)


def test_an_epoch_is_cut_evenly_and_has_every_row_once() -> None:
    batches = epoch_batches(keys_of(IDS), np.zeros_like(LABELS), seed=0, epoch=3, batch_size=32)
    assert [len(batch) for batch in batches] == [26, 25, 25, 25]
    assert sorted(np.concatenate(batches).tolist()) == [[row, 3] for row in range(101)]
    assert np.concatenate(batches)[:, 0].tolist() == order(0, keys_of(IDS), 3).tolist()
    for rows, sizes in ((33, [17, 16]), (5, [5])):
        batches = epoch_batches(keys_of(IDS[:rows]), np.zeros(rows), seed=0, epoch=3, batch_size=32)
        assert [len(batch) for batch in batches] == sizes


def test_a_balanced_epoch_draws_equally_from_each_class_and_no_image_twice_before_all_once() -> None:
    seen = np.zeros(101, dtype=int)
    totals = np.zeros(3, dtype=int)
    for epoch in range(9):
        batches = epoch_batches(keys_of(IDS), LABELS, seed=5, epoch=epoch, batch_size=32)
        assert [len(batch) for batch in batches] == [26, 25, 25, 25]
        rows, times = np.concatenate(batches).T
        # A third of 101 draws is 33 or 34; the classes take turns at 34.
        counts = np.bincount(LABELS[rows])
        assert set(counts) <= {33, 34}
        totals += counts
        assert np.ptp(totals) <= 1
        # `times` counts each row's own draws through all epochs.
        for row in np.unique(rows):
            own = sorted(times[rows == row])
            assert own == list(range(seen[row], seen[row] + len(own)))
            seen[row] += len(own)
        for label in range(3):
            assert np.ptp(seen[label == LABELS]) <= 1
    assert totals.tolist() == [303, 303, 303]
    assert np.bincount(LABELS, seen).tolist() == [303, 303, 303]


def test_the_place_of_an_image_in_a_balanced_epoch_is_random() -> None:
    """An epoch draws 33 of 81 images; if they were sorted by what chose them, most would be in the first batch."""
    early = [
        np.mean(LABELS[np.concatenate(batches[:2])[:, 0]] == 2)
        for batches in (epoch_batches(keys_of(IDS), LABELS, seed=seed, epoch=0, batch_size=32) for seed in range(200))
    ]
    # The first 51 of 101 draws, of which 33 are of class 2: the share's standard deviation is 0.046, its mean's 0.003.
    assert abs(np.mean(early) - 33 / 101) < 0.015


def test_the_order_depends_on_ids_seed_and_epoch_but_not_on_the_order_of_rows() -> None:
    def names(order: list[int], sampler: str, seed: int, epoch: int) -> list[list[tuple[str, int]]]:
        strata = SAMPLERS[sampler](LABELS[order])
        batches = epoch_batches(keys_of([IDS[row] for row in order]), strata, seed=seed, epoch=epoch, batch_size=32)
        return [[(IDS[order[row]], times) for row, times in batch.tolist()] for batch in batches]

    rows = list(range(101))
    shuffled = np.random.default_rng(0).permutation(101).tolist()
    for sampler in SAMPLERS:
        assert names(shuffled, sampler, 0, 3) == names(rows, sampler, 0, 3)
        assert names(rows, sampler, 0, 3) != names(rows, sampler, 0, 4)
        assert names(rows, sampler, 0, 3) != names(rows, sampler, 1, 3)


def test_every_sampler_that_params_allow_exists() -> None:
    assert set(SAMPLERS) == set(Recipe.model_fields["sampler"].annotation.__args__)  # type: ignore[union-attr]


@given(
    rows=st.integers(1, 70),
    batch_size=st.integers(1, 20),
    processes=st.integers(1, 5),
    accumulate=st.integers(1, 5),
    sampler=st.sampled_from(sorted(SAMPLERS)),
)
def test_processes_share_out_every_batch(
    rows: int, batch_size: int, processes: int, accumulate: int, sampler: str
) -> None:
    fewest = rows
    drawn: Counter[int] = Counter()
    strata = SAMPLERS[sampler](LABELS[:rows])
    for batch in epoch_batches(keys_of(IDS[:rows]), strata, seed=0, epoch=0, batch_size=batch_size):
        drawn.update(LABELS[batch[:, 0]].tolist())
        assert len(batch) <= batch_size
        shares = [micro_batches(batch, rank, processes, accumulate) for rank in range(processes) if rank < len(batch)]
        # Dealt out in turn: the first images of all processes are the first of the batch.
        dealt = [np.concatenate(share) for share in shares]
        assert [dealt[n % processes][n // processes].tolist() for n in range(len(batch))] == batch.tolist()
        fewest = min(fewest, *(len(part) for share in shares for part in share))
        if len(batch) < processes:
            fewest = 0
    assert drawn.total() == rows
    assert sampler == "shuffle" or max(drawn.values()) <= rows // len(set(LABELS[:rows])) + 1
    assert smallest_micro_batch(rows, batch_size, processes, accumulate) == fewest


def test_loaded_images_are_those_of_the_rows_altered_by_id_and_draw(tmp_path: Path, params: Params) -> None:
    ids = [*IDS[:4], copy_id(IDS[0], 1)]
    crops = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    write_store(tmp_path / "originals", ids[:4], crops[:4], 2)
    write_store(tmp_path / "copies", ids[4:], crops[4:], 2)
    store = CropStore(tmp_path / "originals", tmp_path / "copies")
    labels, augment = np.array([0, 1, 2, 0, 1]), params.train.augment
    cpu = torch.device("cpu")
    loader = Loader(store, ids=ids, labels=labels, sampler="balanced", augment=augment, seed=7, device=cpu)
    assert loader.strata.tolist() == labels.tolist()
    whole = [
        augment_images(torch.from_numpy(crops).permute(0, 3, 1, 2), augment, seed=7, keys=keys_of(ids), counter=times)
        for times in range(4)
    ]
    draws = [np.array(part) for part in ([[3, 2], [1, 2]], [[0, 2]], [[2, 2], [4, 1], [2, 3]])]
    loaded = list(loader.load(draws))
    assert len(loaded) == 3
    for part, (images, loaded_labels) in zip(draws, loaded, strict=True):
        assert images.dtype == torch.float32
        assert torch.equal(images, torch.stack([whole[times][row] for row, times in part]))
        assert loaded_labels.tolist() == labels[part[:, 0]].tolist()
    images = loaded[2][0]
    assert not torch.equal(images[0], images[2]), "the same image, drawn twice"


def test_no_memory_is_pinned_while_a_graph_is_captured(
    tmp_path: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA would refuse it, and the reading thread would end the training."""
    pinned = []

    def pin_memory(tensor: torch.Tensor) -> torch.Tensor:
        pinned.append(PINNING.locked())
        return tensor

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin_memory)
    write_store(tmp_path, ["a", "b"], np.zeros((2, 8, 8, 3), np.uint8), shards=1)
    loader = Loader(
        CropStore(tmp_path),
        ids=["a", "b"],
        labels=np.zeros(2, np.int64),
        sampler="shuffle",
        augment=params.train.augment,
        seed=0,
        device=torch.device("cuda", 0),
    )
    loader._take(np.array([0, 1]))
    assert pinned == [True]
    assert not PINNING.locked()
