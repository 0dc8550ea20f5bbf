"""Train one model on one fold: MODEL FOLD STORE SPLIT_MANIFEST BALANCE RECIPE WEIGHTS OUT METRICS."""

import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from dvclive.live import Live

from tumorboard.door import run, side_cache
from tumorboard.errors import InputError
from tumorboard.models.pretrained import file_digest
from tumorboard.params import Params, Recipe
from tumorboard.sections import parse
from tumorboard.tables import write_json
from tumorboard.training.loop import train_model
from tumorboard.training.state import Epoch, read_job

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Journal:
    """Writes curves for dvclive and, if the recipe says so, TensorBoard; and the metrics, those of the epoch kept."""

    def __init__(self, out: Path, metrics: Path, recipe: Recipe) -> None:
        self._out, self._metrics, self._tensorboard, self._keep = out, metrics, recipe.tensorboard, recipe.keep
        self._kept: Epoch | None = None
        self._seconds = 0.0

    @cached_property
    def _live(self) -> Live:
        # Opened by the first epoch: under torchrun, ranks without one must not touch the files.
        return Live(str(self._out / "dvclive"), dvcyaml=None, save_dvc_exp=False, report=None, monitor_system=False)

    @cached_property
    def _board(self) -> "SummaryWriter":
        from torch.utils.tensorboard import SummaryWriter  # slow, and seldom asked for

        return SummaryWriter(self._out / "tensorboard")

    def add(self, epoch: Epoch) -> None:
        """Log one epoch."""
        found = {f"{part}/{name}": value for part in ("train", "val") for name, value in getattr(epoch, part).items()}
        for name, value in ({"lr": epoch.lr} | found).items():
            self._live.log_metric(name, value)
            if self._tensorboard:
                self._board.add_scalar(name, value, epoch.number)
        self._live.next_step()  # type: ignore[no-untyped-call]
        if self._tensorboard:
            self._board.flush()
        if self._keep == "last" or epoch.best or self._kept is None or not self._kept.best:
            self._kept = epoch
        self._seconds += epoch.seconds
        kept = {"kept_epoch": self._kept.number, "train": self._kept.train, "val": self._kept.val}
        speed = {"seconds": round(self._seconds, 3), "images_per_second": round(epoch.images_per_second, 1)}
        write_json({"epoch": epoch.number} | kept | speed, self._metrics)


def main(
    params: Params,
    model: str,
    fold: str,
    store: str,
    split: str,
    balance: str,
    recipe: str,
    weights: str,
    out: str,
    metrics: str,
) -> None:
    """Write the file `weights`, the folder `out` (history.csv, dvclive/, tensorboard/) and `metrics`."""
    tree = json.loads(Path(recipe).read_text(encoding="utf-8"))
    digest = tree.pop("pretrained_sha256", None)
    resolved = parse(Recipe, tree, recipe)
    if digest and file_digest(Path(resolved.pretrained)) != digest:
        raise InputError(f"{resolved.pretrained}: is not the file that {recipe} was written for: run `dvc repro`")
    data = (Path(store), Path(split), Path(balance))
    job = read_job(model, int(fold), resolved, params.crop, data, Path(weights), Path(out))
    journal = Journal(job.out, Path(metrics), job.recipe)
    train_model(job, params.runtime, journal.add, side_cache("checkpoints"))


if __name__ == "__main__":
    run(main)
