"""The ramp against a plain loop of torch, suggestions by hand, and probes of memories that are made up."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from tumorboard.errors import InputError
from tumorboard.models.pretrained import normalization
from tumorboard.models.registry import build_model
from tumorboard.params import LrFind, Runtime
from tumorboard.randomness import keys_of
from tumorboard.training.loader import epoch_batches
from tumorboard.training.search import (
    Probe,
    accumulate_for,
    estimate_from_peaks,
    find_lr,
    largest_that_fits,
    probe_batch_size,
    suggest_lr,
)
from tumorboard.training.state import Job

MakeJob = Callable[..., Job]
GIB = 2**30


def test_the_ramp_is_a_training_with_a_rising_rate(make_job: MakeJob, alone: Runtime) -> None:
    """In two parts with rates of their own, over more than one epoch, until the loss is four times its lowest."""
    job = make_job(40, backbone_lr_scale=0.5, freeze_epochs=1, epochs=2, momentum=0.0, weight_decay=0.0)
    curve = find_lr(job, alone, LrFind(first=1e-4, last=1e4, steps=24, smoothing=0.5))
    model = build_model(job.recipe, 2, 32, normalization(job.recipe))
    ids = job.rows["id"].tolist()
    labels = torch.tensor([int(label == "red") for label in job.rows["label"]])
    batches = [batch[:, 0] for epoch in range(9) for batch in epoch_batches(keys_of(ids), np.zeros(40), 5, epoch, 16)]
    found, mean = [], 0.0
    for step, (lr, batch) in enumerate(zip(np.geomspace(1e-4, 1e4, 24), batches, strict=False)):
        images = torch.from_numpy(job.store[[ids[row] for row in batch]]).permute(0, 3, 1, 2)
        loss = F.cross_entropy(model(images), labels[batch])
        model.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        mean = 0.5 * mean + 0.5 * loss.item()
        smoothed = mean / (1 - 0.5 ** (step + 1))
        if not smoothed <= 4 * min((row[2] for row in found), default=np.inf):
            break
        found.append((lr, loss.item(), smoothed))
        with torch.no_grad():
            for part, scale in ((model.backbone, 0.5), (model.head, 1.0)):
                for parameter in part.parameters():
                    parameter -= lr * scale * parameter.grad
    assert 3 < len(found) < 24  # more than an epoch, and ended early
    np.testing.assert_allclose(curve.to_numpy(), np.array(found), rtol=1e-4)


def test_suggestions_by_hand() -> None:
    """Losses over 20 rates from 1e-6 on, each twice the last: they fall from the fifth on, most at the eighth."""
    smoothed = [9.0, 2, 2, 2, 2, 1.9, 1.8, 1.4, 1.0, 0.9, 0.8, 0.7, 0.6, 0.9, 1.5, 2, 3, 4, 5, 6]
    lr = 1e-6 * 2.0 ** np.arange(20)
    curve = pd.DataFrame({"lr": lr, "loss": smoothed, "smoothed": smoothed})
    # The first tenth, two steps, is left out: the fall from 9 to 2 is not the steepest.
    assert suggest_lr(curve) == {"tenth of the lowest": pytest.approx(lr[12] / 10), "steepest fall": lr[7]}
    for rising in (curve.assign(smoothed=np.arange(20.0)), curve[:1], curve[:0]):
        with pytest.raises(InputError, match=r"the loss never fell: lower lr_find\.first"):
            suggest_lr(rising)


@pytest.mark.parametrize(("fewest", "most"), [(1, 1000), (2, 1000), (2, 37), (2, 2), (1, 1)])
def test_the_largest_step_that_fits_is_found(fewest: int, most: int) -> None:
    for holds in [*range(fewest, min(most, 40) + 1), 500, 999, 1000, 2000]:
        tried: list[int] = []

        def step(images: int, holds: int = holds, tried: list[int] = tried) -> None:
            tried.append(images)
            if images > holds:
                raise torch.OutOfMemoryError("CUDA out of memory")

        assert largest_that_fits(step, fewest, most) == min(holds, most)
        assert len(tried) <= 22
        assert max(tried) <= most


def test_a_memory_too_small_and_another_error_are_told() -> None:
    def never(_: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    def broken(_: int) -> None:
        raise RuntimeError("something else")

    with pytest.raises(InputError, match=r"too little memory for a step with 2 images: lower crop\.side"):
        largest_that_fits(never, 2, 64)
    with pytest.raises(RuntimeError, match="something else"):
        largest_that_fits(broken, 2, 64)


def test_an_estimate_carries_the_line_on_and_tries_nothing_near_the_limit() -> None:
    """1 GiB and 0.25 an image: 10.1 GiB hold 36; at 8 images 3, at 16 already 5, half of the limit."""
    tried: list[int] = []

    def peak(images: int) -> int:
        tried.append(images)
        return int(GIB * (1 + 0.25 * images))

    probe = estimate_from_peaks(peak, 2, 1000, 10.1 * GIB)
    assert probe.images == 36
    assert probe.how == "estimated from the peaks at 8 and 16: 1.00 GiB and 0.250 an image, within 10.10 GiB"
    assert tried == [4, 8, 16]
    assert estimate_from_peaks(peak, 2, 20, 10.1 * GIB).images == 20
    with pytest.raises(
        InputError, match=r"too little memory for a step with 2 images: a step needs 1\.00 GiB and 0\.250 more an image"
    ):
        estimate_from_peaks(peak, 2, 20, 1.3 * GIB)
    assert estimate_from_peaks(lambda _: GIB, 1, 77, 2 * GIB).images == 77  # no image needs anything that shows


def test_accumulation_keeps_the_batch(make_job: MakeJob) -> None:
    """Of 100 images an epoch makes two steps of 50 where batches may have 64."""

    def accumulate(batch_size: int, processes: int, images: int, fewest: int = 1) -> int:
        return accumulate_for(make_job(100, batch_size=batch_size), processes, Probe(images, fewest, ""))

    assert accumulate(100, 1, 100) == accumulate(64, 1, 50) == 1
    assert accumulate(100, 1, 99) == 2
    assert accumulate(64, 1, 10) == 5
    assert accumulate(64, 1, 3) == 17
    assert accumulate(33, 2, 12) == 2  # four steps of 25, of which one of two processes has 13
    assert accumulate(64, 1, 1) == 50
    assert accumulate(64, 1, 3, fewest=2) == 17  # 16 of three, one of two
    with pytest.raises(InputError, match=r"cut into parts of 2 to 2 images: choose another batch_size than 33"):
        accumulate(33, 1, 2, fewest=2)  # 25 images: twelve pairs, and one


def test_a_probe_on_the_cpu_measures_this_process(make_job: MakeJob, alone: Runtime) -> None:
    """Two processes have half of the memory each; what an image needs is of the size of its activations."""
    job = make_job(100, architecture="cnn", accumulate=4)
    one = probe_batch_size(job, alone, 64.0)
    assert one.images == 100
    assert one.fewest == 1
    assert "within 64.00 GiB" in one.how
    with pytest.raises(InputError, match="too little memory for a step with 1 image: "):
        probe_batch_size(job, alone.model_copy(update={"processes": 2}), 0.1)
