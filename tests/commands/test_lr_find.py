"""The ramp against a plain loop of torch, suggestions by hand, and the command on a prepared project."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from typer.testing import CliRunner

from tumorboard.base.errors import InputError
from tumorboard.base.params import LrFind, Runtime
from tumorboard.base.randomness import keys_of
from tumorboard.commands.app import app
from tumorboard.commands.lr_find import find_lr, suggest_lr
from tumorboard.models.normalization import normalization
from tumorboard.models.registry import build_model
from tumorboard.training.job import Job
from tumorboard.training.loader import epoch_batches

MakeJob = Callable[..., Job]


def test_the_ramp_is_a_training_with_a_rising_rate(make_job: MakeJob, alone: Runtime) -> None:
    """Two parts with rates of their own, over more than one epoch, until the loss is four times its lowest."""
    job = make_job(40, backbone_lr_scale=0.5, freeze_epochs=1, epochs=2, momentum=0.0, weight_decay=0.0)
    curve = find_lr(job, alone, LrFind(first=1e-4, last=1e4, steps=24, smoothing=0.5))
    model = build_model(job.recipe, 2, 32, normalization(job.recipe))
    ids = job.rows["id"].tolist()
    labels = torch.tensor([int(label == "red") for label in job.rows["label"]])
    keys = keys_of(ids)
    batches = [
        batch[:, 0]
        for epoch in range(9)
        for batch in epoch_batches(keys, np.zeros(40), seed=5, epoch=epoch, batch_size=16)
    ]
    expected, mean = [], 0.0
    for step, (lr, batch) in enumerate(zip(np.geomspace(1e-4, 1e4, 24), batches, strict=False)):
        images = torch.from_numpy(job.store[[ids[row] for row in batch]]).permute(0, 3, 1, 2)
        loss = F.cross_entropy(model(images), labels[batch])
        model.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        mean = 0.5 * mean + 0.5 * loss.item()
        smoothed = mean / (1 - 0.5 ** (step + 1))
        if not smoothed <= 4 * min((row[2] for row in expected), default=np.inf):
            break
        expected.append((lr, loss.item(), smoothed))
        with torch.no_grad():
            for part, scale in ((model.backbone, 0.5), (model.head, 1.0)):
                for parameter in part.parameters():
                    parameter -= lr * scale * parameter.grad
    assert 3 < len(expected) < 24  # more than an epoch, and ended early
    np.testing.assert_allclose(curve.to_numpy(), np.array(expected), rtol=1e-4)


def test_suggestions_by_hand() -> None:
    """Losses over 20 rates from 1e-6 on, each twice the one before: they fall from the fifth on, most at the eighth."""
    smoothed = [9.0, 2, 2, 2, 2, 1.9, 1.8, 1.4, 1.0, 0.9, 0.8, 0.7, 0.6, 0.9, 1.5, 2, 3, 4, 5, 6]
    lr = 1e-6 * 2.0 ** np.arange(20)
    curve = pd.DataFrame({"lr": lr, "loss": smoothed, "smoothed": smoothed})
    # The first tenth, two steps, is left out: the fall from 9 to 2 is not the steepest.
    assert suggest_lr(curve) == {"tenth of the lowest": pytest.approx(lr[12] / 10), "steepest fall": lr[7]}
    for rising in (curve.assign(smoothed=np.arange(20.0)), curve[:1], curve[:0]):
        with pytest.raises(InputError, match=r"the loss never fell: lower lr_find\.first"):
            suggest_lr(rising)


def test_a_fall_after_the_lowest_loss_is_no_suggestion() -> None:
    """The steepest fall of all follows the divergence at the end."""
    smoothed = [2.0, 1.9, 1.7, 1.0, 9.0, 3.0, 1.5]
    curve = pd.DataFrame({"lr": 10.0 ** np.arange(7), "loss": smoothed, "smoothed": smoothed})
    # Slopes by central differences: -0.1, -0.15, -0.45, then +3.65 at the lowest loss.
    assert suggest_lr(curve) == {"tenth of the lowest": 100.0, "steepest fall": 100.0}


def test_the_command_writes_a_table_and_a_picture_and_suggests(prepared_project: Path) -> None:
    done = CliRunner().invoke(app, ["lr-find", "cnn"])
    assert done.exit_code == 0, done.output
    curve = pd.read_csv(prepared_project / "lr_find/cnn.csv")
    lowest = curve["lr"][2 + curve["smoothed"][2:].argmin()]
    lines = done.stdout.splitlines()
    assert lines[0] == f"tenth of the lowest: {lowest / 10:.2g}"
    assert lines[1].startswith("steepest fall: ")
    assert lines[2] == f"the recipe's lr is 0.001; lr_find/cnn.csv and lr_find/cnn.png show {len(curve)} steps"
    assert lines[3:] == [f"to train with the first: dvc exp run -S '++recipes.cnn.lr={lowest / 10:.2g}'"]
    with Image.open(prepared_project / "lr_find/cnn.png") as picture:
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 8  # something is drawn
    assert {path.name for path in (prepared_project / "lr_find").iterdir()} == {"cnn.csv", "cnn.png"}
