"""Writes the learning curves, metrics and timings of a training while it runs."""

import time
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from tumorboard.base.files import write_json
from tumorboard.base.params import Recipe
from tumorboard.training.job import Epoch, kept_epoch

if TYPE_CHECKING:
    from dvclive.live import Live
    from torch.utils.tensorboard import SummaryWriter


MINUTE = 60.0  # seconds between two lines within an epoch


class MinuteLines:
    """Prints a line per minute within an epoch, where no terminal shows a progress bar."""

    def __init__(self, title: str, steps: int) -> None:
        """Begins the first minute.

        Args:
            title: begins each line.
            steps: number of steps in the epoch.
        """
        self.title = title
        self.steps = steps
        self.began = time.monotonic()

    def after_step(self, step: int, loss: float, accuracy: float) -> None:
        """Prints a line if a minute has passed since the last one.

        Args:
            step: number of the finished step, from 1.
            loss: mean over the epoch until now.
            accuracy: mean over the epoch until now.
        """
        if step < self.steps and time.monotonic() - self.began >= MINUTE:
            self.began = time.monotonic()
            scores = f"train loss {loss:.4f} accuracy {accuracy:.4f}"
            print(f"{self.title}  step {step}/{self.steps}  {scores}", flush=True)


class Journal:
    """Writes each epoch of a training to files.

    The curves go to <out>/dvclive and, if the recipe has `tensorboard: true`, to <out>/tensorboard. `metrics` is a
    JSON file with the last epoch's number (`epoch`), the kept epoch's number (`kept_epoch`) and the kept epoch's scores
    on the training images (`train`); those on the validation images, which chose the epoch, are in the curves alone.
    <out>/timings.json has the `seconds` of all epochs and the last epoch's `images_per_second`. Nothing is opened
    before the first epoch: under torchrun all ranks have a Journal, and only rank 0 adds epochs.
    """

    def __init__(self, out: Path, metrics: Path, recipe: Recipe) -> None:
        self._out, self._metrics, self._recipe = out, metrics, recipe
        self._history: list[Epoch] = []

    @cached_property
    def _live(self) -> "Live":
        from dvclive.live import Live

        return Live(str(self._out / "dvclive"), dvcyaml=None, save_dvc_exp=False, report=None, monitor_system=False)

    @cached_property
    def _board(self) -> "SummaryWriter":
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and seldom needed

        return SummaryWriter(self._out / "tensorboard")

    def add(self, epoch: Epoch) -> None:
        """Writes one epoch; a resumed training adds its past epochs first."""
        self._history.append(epoch)
        scores = {f"{part}/{name}": value for part in ("train", "val") for name, value in getattr(epoch, part).items()}
        for name, value in ({"lr": epoch.lr} | scores).items():
            self._live.log_metric(name, value)
            if self._recipe.tensorboard:
                self._board.add_scalar(name, value, epoch.number)
        self._live.next_step()  # type: ignore[no-untyped-call]
        if self._recipe.tensorboard:
            self._board.flush()
        kept = kept_epoch(self._history, self._recipe.keep)
        write_json({"epoch": epoch.number, "kept_epoch": kept.number, "train": kept.train}, self._metrics)
        seconds = sum(past.seconds for past in self._history)
        timings = {"seconds": round(seconds, 3), "images_per_second": round(epoch.images_per_second, 1)}
        write_json(timings, self._out / "timings.json")
