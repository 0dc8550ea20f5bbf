"""The command `tumorboard control`: the pipeline on shuffled labels, and whether its scores are at chance."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from dvc import api
from dvc.exceptions import DvcException
from rich.console import Console
from rich.table import Table
from scipy.special import bdtrc

from tumorboard.base.errors import InputError
from tumorboard.base.params import load_params
from tumorboard.base.versioning import explain_unversioned
from tumorboard.commands.errors import reports_user_errors
from tumorboard.commands.paths import METRICS, TEST_METRICS
from tumorboard.commands.start_checks import check_commit, prepare_start

SUSPICIOUS = 0.01  # probability below which the number of intervals without 0.5 is not taken as chance
LEAKS = 1  # the exit status if the scores are not at chance

app = typer.Typer(add_completion=False)


class Outcome(NamedTuple):
    """The AUC of one control on one part of the images."""

    seed: int
    part: str  # 'validation' or 'test'
    auc: float | None  # AUC of the vote that heads the report; None: it has none
    low: float | None  # lower end of its interval; None: there is none
    high: float | None
    reason: str = ""  # why there is no interval

    @property
    def holds(self) -> bool | None:
        """Whether the interval holds 0.5, the AUC of guessing; None without an interval."""
        return None if self.low is None or self.high is None else self.low <= 0.5 <= self.high


@app.command("control", epilog="Example: tumorboard control --runs 3")
@reports_user_errors
def control(
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first control; the next one has the next number.")] = 1,
    runs: Annotated[int, typer.Option(min=1, help="Number of controls; each is a whole run of the pipeline.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else to stdout.")] = False,
) -> None:
    """Runs the pipeline on shuffled labels, and reports whether its scores are at chance.

    The labels are shuffled over whole groups (patients). Each control is an
    experiment of DVC named control-SEED, run in a copy of the project; what is in
    this folder stays as it is. An AUC whose interval lies above 0.5 means that
    something gives the labels away: copies or patients on two sides, or a choice
    made by the scores that are reported.

    Exit status 1: the scores are not at chance.
    """
    for line in prepare_start(Path()):
        print(line, file=sys.stderr)
    check_commit(Path())
    params = load_params("params.yaml")
    if unversioned := explain_unversioned(params.data.raw):
        raise InputError(unversioned)
    outcomes: list[Outcome] = []
    for number in range(seed, seed + runs):
        name = run_control(number)
        outcomes += [
            read_outcome(number, "validation", read_metrics(METRICS, name)),
            read_outcome(number, "test", read_metrics(TEST_METRICS, name)),
        ]
    conclusions = {part: conclude(outcomes, part, params.evaluate.confidence) for part in ("validation", "test")}
    if as_json:
        rows = [outcome._asdict() | {"holds": outcome.holds} for outcome in outcomes]
        typer.echo(
            json.dumps({"controls": rows, "conclusions": {part: text for part, (text, _) in conclusions.items()}})
        )
    else:
        print_outcomes(outcomes, params.evaluate.confidence, Console())
        for text, _ in conclusions.values():
            typer.echo(text)
    raise typer.Exit(LEAKS if any(suspicious for _, suspicious in conclusions.values()) else 0)


def run_control(seed: int) -> str:
    """Runs the pipeline with shuffled labels in a copy of the project.

    Args:
        seed: seed of the shuffled labels.

    Returns:
        The name of the experiment, which replaces an earlier experiment of this name.

    Raises:
        InputError: a stage failed.
    """
    name = f"control-{seed}"
    _dvc("exp", "remove", "--quiet", name, silent=True)  # fails if there is no such experiment
    status = _dvc("exp", "run", "--temp", "--name", name, "-S", f"++split.control={seed}")
    if status:
        raise InputError(
            f"the control with seed {seed} failed, see above: where a class has few groups, another --seed may help"
        )
    return name


def _dvc(*arguments: str, silent: bool = False) -> int:
    """Runs DVC, with its output on standard error, and returns its exit status; Ctrl-C at a terminal reaches it too."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    output: Any = subprocess.DEVNULL if silent else sys.stderr.fileno()
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(
        command, env=os.environ | {"PATH": path}, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False
    ).returncode


def read_metrics(path: Path, experiment: str) -> Mapping[str, Any]:
    """Returns the metrics that an experiment wrote; raises InputError where it wrote none."""
    try:
        content = json.loads(api.read(path.as_posix(), rev=experiment))
    except (DvcException, OSError, ValueError) as error:
        raise InputError(f"{experiment}: {path} cannot be read: {error}") from None
    return content if isinstance(content, dict) else {}


def read_outcome(seed: int, part: str, metrics: Mapping[str, Any]) -> Outcome:
    """Returns the AUC in the metrics of the heading vote, where the test part's is named test_auc.

    >>> read_outcome(1, "test", {"test_auc": 0.52, "test_auc_low": 0.41, "test_auc_high": 0.63}).holds
    True
    """
    name = "test_auc" if part == "test" else "auc"
    values = (metrics.get(f"{name}{end}") for end in ("", "_low", "_high"))
    auc, low, high = (float(value) if isinstance(value, int | float) else None for value in values)
    default = "it is not scored" if auc is None else "no interval"
    return Outcome(seed, part, auc, low, high, "" if low is not None else str(metrics.get(f"{name}_method", default)))


def conclude(outcomes: Sequence[Outcome], part: str, confidence: float) -> tuple[str, bool]:
    """Returns a sentence about the controls of one part, and whether their scores are not at chance.

    Args:
        outcomes: the outcomes of all controls.
        part: 'validation' or 'test'.
        confidence: confidence level of the intervals, 0 to 1.
    """
    judged = [outcome for outcome in outcomes if outcome.part == part and outcome.holds is not None]
    if not judged:
        reasons = {outcome.reason for outcome in outcomes if outcome.part == part}
        return f"{part}: no AUC with an interval ({', '.join(sorted(reasons))}), so nothing is concluded", False
    missing = sum(not outcome.holds for outcome in judged)
    begin = f"{part}: the AUC's interval holds 0.5 in {len(judged) - missing} of {len(judged)}"
    if missing == 0:
        return f"{begin}: at chance, as it must be", False
    if float(bdtrc(missing - 1, len(judged), 1 - confidence)) < SUSPICIOUS:
        return (
            f"{begin}: NOT AT CHANCE. Something gives the labels away, and the scores of this study cannot hold",
            True,
        )
    return f"{begin}: this can be chance, since {1 - confidence:.0%} of the intervals miss; try --runs 20", False


def print_outcomes(outcomes: Sequence[Outcome], confidence: float, console: Console) -> None:
    """Prints a table with one row per control and part."""
    table = Table("control", "part", "AUC", f"{confidence:.0%} interval", "holds 0.5")
    for outcome in outcomes:
        interval = f"{outcome.low:.3f} to {outcome.high:.3f}" if outcome.holds is not None else outcome.reason
        table.add_row(
            str(outcome.seed),
            outcome.part,
            "" if outcome.auc is None else f"{outcome.auc:.3f}",
            interval,
            {True: "yes", False: "NO", None: ""}[outcome.holds],
        )
    console.print(table)
