"""The command `tumorboard search`: trials of a model's hyper-parameters as experiments of DVC, by Optuna."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tumorboard.base.errors import InputError
from tumorboard.base.files import replacing, side_cache, write_table
from tumorboard.base.params import Params, load_params
from tumorboard.base.schema import nearest
from tumorboard.base.versioning import explain_unversioned, run_git
from tumorboard.commands.errors import reports_user_errors
from tumorboard.commands.paths import BALANCE, PANEL
from tumorboard.commands.run import choose_gpus, collected_signals
from tumorboard.commands.search_experiments import (
    Experiments,
    end_orphan,
    existing_experiments,
    remove_experiments,
)
from tumorboard.commands.search_results import advise, best_record, draw_trials, print_trials, trials_table
from tumorboard.commands.search_space import check_space, overrides_of, present_point
from tumorboard.commands.search_study import Study, import_optuna, locked, search_key
from tumorboard.commands.search_trials import Plan, Scheduler
from tumorboard.commands.start_checks import check_commit, prepare_start
from tumorboard.commands.trainings import thread_settings

RESULTS = Path("search")  # <model>/trials.csv and trials.png

app = typer.Typer(add_completion=False)


@app.command("search", epilog="Example: tumorboard search cnn --trials 30")
@reports_user_errors
def search(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="An entry of `models` in params.yaml.")],
    trials: Annotated[
        int | None,
        typer.Option(
            min=1, help="Trials of the search, earlier calls included; default: search.trials.", show_default=False
        ),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0.0, help="Begin no trial after this time; those that run go on to their end.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", min=1, help="Trials at a time; default: one per GPU, 1 without.")
    ] = None,
    gpus: Annotated[
        str | None, typer.Option(help="GPUs to use, as in 0,1; default: all visible ones.", show_default=False)
    ] = None,
) -> None:
    """Searches hyper-parameters of MODEL: the space `search` in params.yaml, judged by held-out loss.

    Each finished trial is an experiment of DVC, run in a copy of the project that
    trains MODEL on the listed folds and nothing else; no test image is looked at.
    A trial that is worse than the median of the earlier ones at the same epoch is
    stopped. Called again, a search goes on where it was. A new commit, space or
    parameter begins a new one. Writes search/MODEL/trials.csv and trials.png.
    """
    import_optuna()
    params = load_params("params.yaml")
    check_model(params, model)
    chosen = choose_gpus(gpus, params.runtime)
    for line in prepare_start(Path()):
        print(line, file=sys.stderr)
    commit = check_start(params)
    jobs = jobs or len(chosen) or 1
    key = search_key(params, model, commit)
    folder = side_cache("search")
    with locked(folder / f"{model}.lock"), collected_signals() as received:
        study = Study(folder / f"{model}-{key}.log", params, present_point(params, model))
        prefix = f"{model.replace('.', '-').lstrip('-')}-search-{key[:4]}"
        clean_up(study, prefix)
        plan = Plan(
            trials=trials or params.search.trials,
            jobs=jobs,
            folds=len(params.folds),
            prefix=prefix,
            seconds=None if minutes is None else 60 * minutes,
        )
        run_trials(study, plan, received, model=model, params=params, gpus=chosen)
        report(study, params, model, stopped=bool(received))
    if received:
        typer.echo(f"Stopped. `tumorboard search {model}` goes on where it was.", err=True)
        raise typer.Exit(128 + received[0])


def run_trials(
    study: Study, plan: Plan, received: list[int], *, model: str, params: Params, gpus: Sequence[str]
) -> None:
    """Runs trials side by side until the plan is done or a signal arrives.

    Args:
        study: stores the trials.
        plan: how many trials, and how many at a time.
        received: received signals, to which a handler adds.
        model: the model that the trials train.
        params: its folds are used.
        gpus: GPUs on which the trials take turns; empty: the CPU.
    """
    console = Console(stderr=True)
    shared = thread_settings(plan.jobs)
    settings = [
        shared | ({"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)]} if gpus else {}) for slot in range(plan.jobs)
    ]
    with console.status("") as status:
        Scheduler(
            study,
            Experiments(model, params.folds, side_cache("logs"), settings),
            plan,
            received,
            say=lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True),
            status=lambda line: status.update(line),
        ).run()


def check_model(params: Params, model: str) -> None:
    """Checks that params.yaml has the model and a space that its recipe takes.

    Raises:
        InputError: one of them is missing or wrong; the message has the cure.
    """
    if model not in params.recipes:
        raise InputError(f"model '{model}' has no entry under recipes{nearest(model, params.recipes)}")
    if model not in params.models:
        raise InputError(
            f"models in params.yaml lists {', '.join(params.models)}: add {model}, so that it has trainings"
        )
    check_space(params, model)


def check_start(params: Params) -> str:
    """Returns the last commit, from which the experiments start.

    Raises:
        InputError: the project is not ready for a search; the message has the cure.
    """
    if unversioned := explain_unversioned(params.data.raw):
        raise InputError(unversioned)
    for fold in params.folds:
        if not (BALANCE / str(fold)).exists():
            raise InputError(f"{BALANCE / str(fold)} is not there: `dvc repro balance@{fold}` prepares fold {fold}")
    check_commit(Path())
    return (run_git(Path(), "rev-parse", "HEAD") or "").strip()


def clean_up(study: Study, prefix: str) -> None:
    """Ends and removes the leftovers of a killed search, and the experiments of a search whose trials were deleted."""
    left = study.recover()
    for facts in left:
        if "process" in facts:
            end_orphan(facts["process"], facts["created"])
    names = {facts["experiment"] for facts in left if "experiment" in facts}
    remove_experiments(existing_experiments(f"{prefix}-") if study.is_new else names)
    if left:
        typer.echo(f"{len(left)} trials of a killed search are run again", err=True)


def report(study: Study, params: Params, model: str, *, stopped: bool = False) -> None:
    """Prints the best trials, writes the table and the picture, and names the experiment to apply.

    Args:
        study: stores the trials.
        params: the study's parameters.
        model: the model that the trials trained.
        stopped: whether a signal ended the search, so that a search without a finished trial did not fail.

    Raises:
        InputError: no trial was finished.
    """
    records = study.records()
    write_table(trials_table(records, params.search.dimensions), RESULTS / model / "trials.csv")
    best = best_record(records)
    if best is None and stopped:
        return
    if best is None and not records:
        raise InputError("no trial was begun: --minutes leaves no time for one")
    if best is None:
        raise InputError(f"no trial was finished; {RESULTS / model / 'trials.csv'} lists those that failed")
    with replacing(RESULTS / model / "trials.png") as temporary:
        temporary.write_bytes(draw_trials(records, params, model))
    print_trials(records, params, model, Console())
    for line in advise(records, params):
        typer.echo(line)
    typer.echo(f"{RESULTS / model / 'trials.png'} and trials.csv show all {len(records)} trials")
    if best.experiment in existing_experiments(best.experiment):
        typer.echo(f"to use the best: {apply_command(best.experiment, finished=PANEL.exists())}")
    else:  # the user may have removed or renamed it
        sets = " ".join(f"-S {shlex.quote(override)}" for override in overrides_of(model, best.point))
        typer.echo(f"the experiment of the best is no longer there; to run its values again: dvc exp run {sets}")


def apply_command(experiment: str, *, finished: bool) -> str:
    """Returns the command that makes an experiment the workspace.

    Args:
        experiment: name of the experiment.
        finished: whether the study has run to its end. Otherwise `dvc exp apply` applies everything and then fails on
            the outputs that no run has made.

    >>> apply_command("cnn-search-1", finished=False)
    'dvc exp apply cnn-search-1; dvc repro'
    """
    return f"dvc exp apply {experiment}{' &&' if finished else ';'} dvc repro"
