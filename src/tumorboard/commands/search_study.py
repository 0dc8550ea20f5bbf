"""The memory of `tumorboard search`: past trials, their losses, and the point to try next, by Optuna.

The trials are in one file per search below `.cache`. A trial that was running when the search was killed is found there
as running; it is marked failed, and its values are tried again.
"""

import json
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tumorboard.base.errors import InputError
from tumorboard.base.params import Params
from tumorboard.base.search_params import Dimension, Value
from tumorboard.commands.search_space import Point, is_whole

if TYPE_CHECKING:
    import optuna

State = Literal["complete", "pruned", "failed", "killed", "running"]
STEP = 100_000  # distance between the folds of a trial in Optuna's count of epochs
_UNUSED = ("study", "models", "medmnist", "evaluate", "ensemble", "lr_find", "runtime", "recipes", "search")


@dataclass(frozen=True)
class TrialRecord:
    """One trial, as the file has it."""

    number: int  # number of the trial, from 0
    experiment: str  # its name in DVC; '' before it began
    state: State
    point: Point
    loss: float | None  # mean held-out loss over the folds; for a pruned trial the last loss before its end
    epochs: int  # number of reported epochs, over all folds
    seconds: float | None  # duration; None while the trial runs
    reason: str  # why it failed; '' otherwise


def search_key(params: Params, model: str, commit: str) -> str:
    """Returns eight digits that change with everything that makes trials comparable.

    Args:
        params: the study's parameters. The number of trials does not count, nor do parameters that train no model.
        model: the model whose recipe is searched.
        commit: the commit from which the experiments start.
    """
    tree = params.model_dump(mode="json", exclude=set(_UNUSED))
    recipe = params.recipes[model].model_dump(mode="json", exclude_none=True)  # type: ignore[attr-defined]
    settings = params.search.model_dump(mode="json", exclude={"trials"})
    # The space keeps its order: the draws follow it.
    text = json.dumps([commit, model, recipe, list(settings["space"].items()), settings, tree])
    return sha256(text.encode()).hexdigest()[:8]


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Holds a lock while a search runs; it ends with the process, however that ends.

    Raises:
        InputError: another process holds it.
    """
    import fcntl  # here, because Windows lacks it and needs --help all the same

    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"{file.stem}: another `tumorboard search` of this model runs in this project") from None
        yield


class Study:
    """The trials of one search.

    Args:
        file: the file that stores the trials; it is created if missing.
        params: the space, the seed and the settings of pruning are used.
        present: the point of the present recipe, which the first trial tries; None where the space lacks it.
    """

    def __init__(self, file: Path, params: Params, present: Point | None) -> None:
        import_optuna()
        from optuna import create_study
        from optuna.pruners import MedianPruner
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        self._dimensions = params.search.dimensions
        self._startup = params.search.startup
        self._warmup = params.search.warmup
        self._seed = params.seed
        file.parent.mkdir(parents=True, exist_ok=True)
        _mend(file)
        self.is_new = not file.exists()
        pruner = MedianPruner(n_startup_trials=max(1, params.search.startup), n_warmup_steps=0)
        storage = JournalStorage(JournalFileBackend(str(file)))
        self.optuna = create_study(
            storage=storage, study_name="search", direction="minimize", pruner=pruner, load_if_exists=True
        )
        if present is not None and not self.optuna.trials:
            self.optuna.enqueue_trial(self._encoded(present))
        self._open: dict[int, optuna.Trial] = {}

    def ask(self) -> tuple[int, Point]:
        """Begins a trial; returns its number and its point, a function of the seed and the trials before it."""
        from optuna.samplers import TPESampler

        # The sampler is new for each trial, so that a resumed search draws what it would have drawn.
        count = sum(record.state != "killed" for record in self.records())
        with warnings.catch_warnings(action="ignore"):  # Optuna calls constant_liar experimental
            self.optuna.sampler = TPESampler(
                n_startup_trials=self._startup, seed=(self._seed + count) % 2**32, constant_liar=True
            )
        trial = self.optuna.ask(self._distributions())
        self._open[trial.number] = trial
        return trial.number, self._decoded(trial.params)

    def note(self, number: int, **values: Any) -> None:
        """Keeps facts of a running trial, such as its experiment."""
        for name, value in values.items():
            self._open[number].set_user_attr(name, value)

    def report(self, number: int, fold: int, epoch: int, loss: float) -> bool:
        """Keeps the loss after an epoch and returns whether the trial is to be stopped.

        Args:
            number: number of the trial.
            fold: position of the fold among those that the trial trains, from 0.
            epoch: number of the epoch, from 1.
            loss: the best loss so far in this fold, averaged with the earlier folds' best.
        """
        trial = self._open[number]
        if math.isfinite(loss):
            trial.report(loss, fold * STEP + epoch)
        return epoch > self._warmup and trial.should_prune()

    def complete(self, number: int, loss: float, seconds: float) -> None:
        """Ends a trial with its objective."""
        self.note(number, seconds=seconds)
        self.optuna.tell(self._open.pop(number), loss)

    def prune(self, number: int, seconds: float) -> None:
        """Ends a trial that was stopped because it was worse than the median."""
        from optuna.trial import TrialState

        self.note(number, seconds=seconds)
        self.optuna.tell(self._open.pop(number), state=TrialState.PRUNED)

    def fail(self, number: int, reason: str, seconds: float) -> None:
        """Ends a trial without a result, which is not tried again."""
        from optuna.trial import TrialState

        self.note(number, seconds=seconds, reason=reason)
        self.optuna.tell(self._open.pop(number), state=TrialState.FAIL)

    def release(self, number: int) -> None:
        """Ends a trial that this process stops itself, as at a signal; its values are tried again."""
        self._kill(number, dict(self._open.pop(number).params))

    def recover(self) -> list[dict[str, Any]]:
        """Marks the trials that a killed search left running as failed, and has their values tried again.

        Returns:
            The facts that `note` stored about each trial, its number included.
        """
        from optuna.trial import TrialState

        left = self.optuna.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        for trial in left:
            self._kill(trial.number, dict(trial.params))
        return [{"number": trial.number} | trial.user_attrs for trial in left]

    def _kill(self, number: int, values: dict[str, Any]) -> None:
        from optuna.trial import TrialState

        self.optuna.tell(number, state=TrialState.FAIL)
        if values.keys() == self._dimensions.keys():  # otherwise it was killed while its values were drawn
            self.optuna.enqueue_trial(values, user_attrs={"again": number})

    def records(self) -> list[TrialRecord]:
        """Returns all trials that have begun, by number."""
        from optuna.trial import TrialState

        names: Mapping[TrialState, State] = {
            TrialState.COMPLETE: "complete",
            TrialState.PRUNED: "pruned",
            TrialState.FAIL: "killed",
            TrialState.RUNNING: "running",
        }
        return [
            TrialRecord(
                number=trial.number,
                experiment=trial.user_attrs.get("experiment", ""),
                state="failed" if trial.user_attrs.get("reason") else names[trial.state],
                point=self._decoded(trial.params),
                loss=trial.value if trial.state == TrialState.COMPLETE else _last(trial.intermediate_values),
                epochs=len(trial.intermediate_values),
                seconds=trial.user_attrs.get("seconds"),
                reason=trial.user_attrs.get("reason", ""),
            )
            for trial in self.optuna.get_trials(deepcopy=False)
            if trial.state in names
        ]

    def _distributions(self) -> dict[str, Any]:
        return {key: _distribution(key, dimension) for key, dimension in self._dimensions.items()}

    def _encoded(self, point: Point) -> dict[str, Any]:
        return {key: _encode(self._dimensions[key], value) for key, value in point.items()}

    def _decoded(self, values: Mapping[str, Any]) -> Point:
        """Returns a point in the order of the space."""
        return {key: _decode(dimension, values[key]) for key, dimension in self._dimensions.items() if key in values}


def import_optuna() -> None:
    """Imports Optuna and silences its log.

    Raises:
        InputError: it is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise InputError("Optuna is not installed: pip install 'tumorboard[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def _mend(file: Path) -> None:
    """Removes a killed process's leftovers: Optuna's own lock, and a partial line, after which nothing is read."""
    file.with_name(f"{file.name}.lock").unlink(missing_ok=True)
    if file.exists() and (content := file.read_bytes()) and not content.endswith(b"\n"):
        with file.open("r+b") as opened:
            opened.truncate(content.rfind(b"\n") + 1)


def _distribution(key: str, dimension: Dimension) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if dimension.choices is not None:
        return CategoricalDistribution([_encode(dimension, choice) for choice in dimension.choices])
    assert dimension.low is not None
    assert dimension.high is not None
    if is_whole(key, dimension):
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    return FloatDistribution(float(dimension.low), float(dimension.high), log=dimension.log)


def _encode(dimension: Dimension, value: Value) -> Any:
    """Returns a value as Optuna takes it: its choices are plain scalars, so that lists become JSON."""
    return json.dumps(value) if dimension.choices is not None else value


def _decode(dimension: Dimension, value: Any) -> Value:
    if dimension.choices is None:
        return value  # type: ignore[no-any-return]
    return next(choice for choice in dimension.choices if json.dumps(choice) == value)


def _last(values: Mapping[int, float]) -> float | None:
    return values[max(values)] if values else None
