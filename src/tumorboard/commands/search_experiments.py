"""Runs a trial of `tumorboard search` as an experiment of DVC, in a copy of the project."""

import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import psutil
from dvc import api
from dvc.exceptions import DvcException
from scipy.special import softmax

from tumorboard.base.errors import InputError
from tumorboard.base.tables import make_predictions, manifest_digest, read_manifest
from tumorboard.base.versioning import run_git
from tumorboard.commands.paths import HELD_OUT, SPLIT
from tumorboard.commands.search_space import Point, overrides_of
from tumorboard.commands.search_trials import EpochLoss
from tumorboard.commands.trainings import KILL_SECONDS, end_processes, start_process
from tumorboard.evaluation.held_out import read_held_out
from tumorboard.evaluation.metrics import scores

_EPOCH = re.compile(r"^fold (\d+)  .*?  epoch (\d+)/(\d+)  .*?  val loss (\S+) ", re.MULTILINE)
_BEGUN = re.compile(r"^(Running stage|Stage) '", re.MULTILINE)  # now the folder is restored, and the copy exists
_NOISE = ("ERROR: failed to reproduce", "WARNING", "Reproducing", "Running stage", "Updating lock file", ">")


@dataclass(frozen=True)
class ExperimentTrial:
    """One `dvc exp run`."""

    process: subprocess.Popen[bytes]
    log: Path
    folds: Sequence[int]

    def begun(self) -> bool:
        return self.process.poll() is not None or bool(_BEGUN.search(self._text()))

    def epochs(self) -> list[EpochLoss]:
        return read_epochs(self._text(), self.folds)

    def ended(self) -> str | None:
        status = self.process.poll()
        return None if status is None else "" if status == 0 else read_reason(self._text()) or f"status {status}"

    def stop(self) -> None:
        end_processes([self.process])

    def facts(self) -> Mapping[str, Any]:
        with suppress(psutil.NoSuchProcess):
            return {"process": self.process.pid, "created": psutil.Process(self.process.pid).create_time()}
        return {}

    def _text(self) -> str:
        return self.log.read_bytes().decode("utf-8", "replace")


@dataclass(frozen=True)
class Experiments:
    """Trials of one model.

    They run the stages that the model's trainings need, and these, in a copy of the project; the stages that look at
    test images are not among them.
    """

    model: str
    folds: Sequence[int]
    logs: Path  # folder with <experiment>.log of each trial
    settings: Sequence[Mapping[str, str]]  # environment of the trials in each slot

    def begin(self, experiment: str, point: Point, slot: int) -> ExperimentTrial:
        sets = [word for override in overrides_of(self.model, point) for word in ("-S", override)]
        stages = [f"train@{self.model}-{fold}" for fold in self.folds]
        command = [sys.executable, "-m", "dvc", "exp", "run", "--temp", "--name", experiment, *sets, *stages]
        self.logs.mkdir(parents=True, exist_ok=True)
        log = self.logs / f"{experiment}.log"
        with log.open("wb") as file:
            return ExperimentTrial(start_process(command, dict(self.settings[slot]), file), log, self.folds)

    def loss(self, experiment: str) -> float:
        return sum(held_out_loss(self.model, fold, experiment) for fold in self.folds) / len(self.folds)


def read_epochs(log: str, folds: Sequence[int]) -> list[EpochLoss]:
    """Returns the epochs in a log of trainings, from the line that training prints per epoch.

    >>> read_epochs("fold 3  cnn  epoch 2/8  lr 0.1  train loss 1 accuracy 0  val loss 0.5 accuracy 1 auc 1", [0, 3])
    [EpochLoss(fold=1, number=2, epochs=8, loss=0.5)]
    """
    return [
        EpochLoss(folds.index(int(fold)), int(number), int(epochs), float(loss))
        for fold, number, epochs, loss in _EPOCH.findall(log)
    ]


def read_reason(log: str) -> str:
    r"""Returns the line of a failed experiment's log that has the reason of its failure; '' without such a line.

    >>> read_reason("Running stage 'train@cnn-0':\ntrain: loss is nan\nERROR: failed to reproduce 'train@cnn-0'")
    'train: loss is nan'
    """
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    plain = [line for line in lines if not line.startswith(_NOISE)]
    return next(reversed(plain or lines), "")


def held_out_loss(model: str, fold: int, experiment: str) -> float:
    """Returns the loss of an experiment's training on its validation images.

    Each image has the output of the epoch that was chosen without it, as in the metrics of the stage `evaluate`.

    Raises:
        InputError: the experiment has no such files.
    """
    path = HELD_OUT / model / f"{fold}.safetensors"
    with TemporaryDirectory() as folder:
        try:
            for source in (path, SPLIT):
                content = api.read(source.as_posix(), rev=experiment, mode="rb")
                (Path(folder) / source.name).write_bytes(content)
        except (DvcException, OSError) as error:
            raise InputError(f"{experiment}: {source} cannot be read: {error}") from None
        split = read_manifest(Path(folder) / SPLIT.name)
        rows = split[split["fold"].eq(fold).fillna(False)].assign(split="val")
        classes = sorted(split["label"].unique())
        outputs = read_held_out(Path(folder) / path.name, len(rows), len(classes))
    probabilities = softmax(outputs.own_logits.astype(np.float64), axis=1)
    return scores(make_predictions(rows, probabilities, classes, manifest_digest(split)))["loss"]


def existing_experiments(prefix: str) -> list[str]:
    """Returns the names of DVC's experiments that begin with a prefix, from the references of git."""
    listed = run_git(Path(), "for-each-ref", "--format=%(refname:lstrip=-1)", "refs/exps") or ""
    return sorted({name for name in listed.split() if name.startswith(prefix)})


def remove_experiments(names: Iterable[str]) -> None:
    """Removes those of the named experiments that exist."""
    if found := sorted(set(names) & set(existing_experiments(""))):
        subprocess.run(
            [sys.executable, "-m", "dvc", "exp", "remove", "--quiet", *found], stdin=subprocess.DEVNULL, check=False
        )


def end_orphan(process: int, created: float) -> None:
    """Ends an experiment that outlived the search that began it.

    Args:
        process: the experiment's process number.
        created: start of the process in seconds since 1970, since the number may belong to another process by now.
    """
    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(process)
        if abs(parent.create_time() - created) > 1:
            return
        for child in parent.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                child.terminate()
        try:
            parent.wait(KILL_SECONDS)
        except psutil.TimeoutExpired:
            for child in [*parent.children(recursive=True), parent]:
                child.kill()
