"""The command `tumorboard compare`: whether two revisions, experiments or tables of predictions differ beyond noise."""

import json
import math
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

import numpy as np
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tumorboard.base.errors import InputError, printable
from tumorboard.base.params import load_params
from tumorboard.base.tables import Predictions, probabilities_of, read_predictions
from tumorboard.base.versioning import run_git
from tumorboard.commands.errors import reports_user_errors
from tumorboard.commands.locked_outputs import explain_other_run
from tumorboard.commands.start_checks import check_commit
from tumorboard.evaluation.comparisons import PanelComparison, compare_pair
from tumorboard.evaluation.paired import DIFFERENCE_COLUMNS, FIRST, NOISE, SECOND, SHARES, UNDEFINED
from tumorboard.evaluation.subgroups import p_text

WORKSPACE = "workspace"  # DVC's name for the files in the project's folder
HEADING = "heading"  # the vote that heads the report
HARD = "hard"  # the vote whose table holds shares of votes, which are no probabilities
FOLDERS = {"test": Path("predictions/test"), "validation": Path("predictions")}  # folders that have votes/ and joined/
SPLIT_OF_PART = {"test": "test", "validation": "val"}
WIDTH = 140  # columns that the longest verdict needs
PRIMARY, EXPLORATORY = "primary", "exploratory"  # kinds of scores
_NO_STUDY = ": change into the folder of a study (`tumorboard new` makes one), or name two files"
COLORS = {NOISE: "", FIRST: "green", SECOND: "red"}

app = typer.Typer(add_completion=False)


@dataclass(frozen=True)
class Settings:
    """How two tables are compared; from params.yaml in the current folder, if there is one."""

    confidence: float = 0.95
    seed: int = 0
    unit: str | None = None  # what a group is, such as 'patient'


# Click joins the lines of each paragraph. The last one has to be one command that works.
EPILOG = """Example: tumorboard compare main workspace

Example: tumorboard compare exp-1 exp-2 --part validation --name cnn

Example: tumorboard compare HEAD workspace --json
"""


@app.command("compare", epilog=EPILOG)
@reports_user_errors
def compare(
    first: Annotated[
        str, typer.Argument(metavar="A", help="Git revision, experiment, 'workspace', or file of predictions.")
    ],
    second: Annotated[str, typer.Argument(metavar="B", help="The other one, in the same forms.")],
    name: Annotated[
        str, typer.Option("--name", help="Member or vote to compare; default: the vote that heads the report.")
    ] = HEADING,
    part: Annotated[
        Literal["test", "validation"], typer.Option("--part", help="Images to compare on; choose by validation.")
    ] = "test",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Compares A with B on the same images: each difference, its interval, and what is within noise.

    Accuracy is the one score that is no exploration; the p of all others is
    corrected for their number by Holm's method. Whole groups (patients) are
    compared, since images of one patient are not independent. Nothing is
    checked out, run or changed: predictions of a revision or experiment come
    from DVC's cache or remote.

    To choose between experiments, use --part validation: who chooses by the
    test part has no test part left.
    """
    settings = read_settings(Path("params.yaml"))
    tables = [read_side(side, name, part) for side in (first, second)]
    if WORKSPACE in (first, second) and (other := explain_other_run(Path(), _folders_of(part))):
        typer.echo(f"warning: {WORKSPACE} is not the run of this commit: {other}", err=True)
    names = (first, second) if first != second else (f"A ({first})", f"B ({second})")
    comparison = compare_pair(
        dict(zip(names, tables, strict=True)),
        confidence=settings.confidence,
        seed=settings.seed,
        unit=settings.unit,
        without_probabilities=[
            named
            for named, side, table in zip(names, (first, second), tables, strict=True)
            if holds_shares(side, name, part, table)
        ],
    )
    groups = tables[0]["group"].nunique()
    facts = {"first": first, "second": second, "name": name, "part": part, "images": len(tables[0]), "groups": groups}
    if as_json:
        typer.echo(json.dumps(to_json(comparison, facts, settings), allow_nan=False))
    else:
        # A narrower terminal wraps the long verdicts of a few rows; the table of all others has 80 columns.
        print_comparison(comparison, facts, settings, Console(width=max(Console().width, WIDTH)))


def read_settings(params_file: Path) -> Settings:
    """Reads confidence, seed and unit from params.yaml; returns the defaults where there is no such file."""
    if not params_file.is_file():
        return Settings()
    params = load_params(params_file)
    return Settings(params.evaluate.confidence, params.seed, params.data.unit)


def read_side(side: str, name: str, part: Literal["test", "validation"]) -> Predictions:
    """Reads the Predictions that one side of a comparison stands for.

    Args:
        side: a file of Predictions, 'workspace', a git revision or the name of an experiment.
        name: name of a member or vote; not used for a file.
        part: the part whose rows are kept.

    Raises:
        InputError: there are no such predictions, or none of this part.
    """
    if not side:  # DVC would take the files in this folder
        raise InputError(f"a name is empty: name a git revision, an experiment, a file or '{WORKSPACE}'")
    if name in ("", "..") or Path(name).name != name:
        raise InputError(f"--name '{printable(name)}': is no name of a member or a vote, such as {HEADING}")
    if Path(side).is_file():
        where, table = side, read_predictions(side)
    elif side == WORKSPACE:
        where, table = _read_workspace(name, part)
    else:
        where, table = _read_revision(side, name, part)
    rows = table[table["split"] == SPLIT_OF_PART[part]].reset_index(drop=True)
    if len(rows):
        return rows
    if len(table):
        other = "validation" if part == "test" else "test"
        raise InputError(f"{where} has no {part} images: --part {other} compares those that it has")
    raise InputError(
        f"{where} has no rows: the {part} part was not scored, as evaluate.test was false; --part validation compares "
        "the held-out predictions"
    )


def holds_shares(side: str, name: str, part: Literal["test", "validation"], table: Predictions) -> bool:
    """Returns whether a side of a comparison is a hard vote, whose table has shares of votes and no probabilities.

    It is the vote 'hard' by its name, or the vote that heads the report where the two are equal.

    Args:
        side: as in `read_side`; a file's name is the name of its vote.
        name: name of a member or vote.
        part: the part whose rows were read.
        table: the Predictions that `read_side` returned.
    """
    file = Path(side)
    if file.is_file():
        name, side = file.stem, str(file.with_name(f"{HARD}.csv"))
        if name == HEADING and not Path(side).is_file():
            return False
    if name != HEADING:
        return name == HARD
    try:
        hard = read_side(side, HARD, part)
    except InputError:
        return False
    return hard["id"].equals(table["id"]) and np.array_equal(probabilities_of(hard), probabilities_of(table))


def _candidates(name: str, part: Literal["test", "validation"]) -> list[Path]:
    """Returns the files that may hold the Predictions of a member or vote."""
    return [folder / f"{name}.csv" for folder in _folders_of(part)]


def _folders_of(part: Literal["test", "validation"]) -> list[Path]:
    return [FOLDERS[part] / folder for folder in ("votes", "joined")]


def _read_workspace(name: str, part: Literal["test", "validation"]) -> tuple[str, Predictions]:
    files = _candidates(name, part)
    for file in files:
        if file.is_file():
            return str(file), read_predictions(file)
    if not Path("params.yaml").is_file():
        raise InputError(f"{Path.cwd()} is no study: it has no params.yaml{_NO_STUDY}")
    names = sorted({file.stem for folder in _folders_of(part) for file in folder.glob("*.csv")})
    raise InputError(_explain_absent(WORKSPACE, files[0], name, names, "`dvc repro` writes it, `dvc pull` fetches it"))


def _explain_absent(side: str, file: Path, name: str, names: list[str], cure: str) -> str:
    if names and name not in names:
        return f"{side} has no member or vote '{printable(name)}'; there are {', '.join(map(printable, names))}"
    return f"{side} has no {file}: {cure}"


def _read_revision(side: str, name: str, part: Literal["test", "validation"]) -> tuple[str, Predictions]:
    """Reads from the files and DVC outputs of a revision, which DVC takes from its cache or fetches."""
    from dvc.api import DVCFileSystem  # takes a second, and two files need no DVC
    from dvc.exceptions import DvcException
    from dvc.scm import RevError
    from dvc_data.index import DataIndexError

    if not Path(".dvc").is_dir():
        raise InputError(
            f"'{printable(side)}' is no file, and {Path.cwd()} is no DVC project, so it has no revisions{_NO_STUDY}"
        )
    check_commit(Path())
    try:
        files = DVCFileSystem(rev=side)
        present = [path for path in _candidates(name, part) if files.exists(path.as_posix())]
        if present:
            content = files.read_bytes(present[0].as_posix())
            return _parse(content, f"{present[0]} of {side}")
        folders = [folder.as_posix() for folder in _folders_of(part)]
        names = sorted(
            {Path(file).stem for folder in folders if files.isdir(folder) for file in files.ls(folder, False)}
        )
    except (DvcException, DataIndexError, OSError) as error:
        if isinstance(error, RevError):
            raise InputError(
                f"'{printable(side)}' is no file, git revision or experiment; `dvc exp show` and `git log` list them"
            ) from None
        raise InputError(f"the predictions of {side} are not in DVC's cache ({error}): {_cure_of(side)}") from None
    raise InputError(_explain_absent(side, _candidates(name, part)[0], name, names, _cure_of(side)))


def _cure_of(side: str) -> str:
    """Returns the commands that make the predictions of a revision, or of an experiment, which git does not know."""
    commit, head = (
        run_git(Path(), "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}") for name in (side, "HEAD")
    )
    if commit == head:
        return "`dvc pull` fetches what was pushed; else `dvc repro`, then commit"
    first = f"git checkout {side}" if commit else f"dvc exp apply {side}"
    return f"`dvc pull` fetches what was pushed; else `{first}`, then `dvc repro`"


def _parse(content: bytes, where: str) -> tuple[str, Predictions]:
    """Reads Predictions from the bytes of a file."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "predictions.csv"
        file.write_bytes(content)
        try:
            return where, read_predictions(file)
        except InputError as error:
            raise InputError(str(error).replace(str(file), where)) from None


def to_json(comparison: PanelComparison, facts: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """Returns a comparison as plain values, the primary score first; null where something is undefined.

    Each score has its `kind`, PRIMARY or EXPLORATORY. `p` is not corrected; an exploratory score's verdict is the one
    by `p_holm`.
    """
    keys = [*DIFFERENCE_COLUMNS[:-1], "p_holm", "verdict"]
    rows = [
        {"score": row["score"], "kind": kind} | {key: _plain(row.get(key)) for key in keys[1:]}
        for kind, table in ((PRIMARY, comparison.primary), (EXPLORATORY, comparison.exploratory))
        for row in table.to_dict("records")
    ]
    return {**facts, "unit": settings.unit, "confidence": settings.confidence, "scores": rows}


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_comparison(comparison: PanelComparison, facts: dict[str, Any], settings: Settings, console: Console) -> None:
    """Prints a comparison for a reader at a terminal.

    Args:
        comparison: the comparison of two tables.
        facts: first, second, name, part, images, groups.
        settings: how the tables were compared.
        console: where the comparison is printed.
    """
    unit = settings.unit or "group"
    first, second = (printable(str(facts[side])) for side in ("first", "second"))
    what = "the vote that heads the report" if facts["name"] == HEADING else printable(str(facts["name"]))
    if Path(str(facts["first"])).is_file() and Path(str(facts["second"])).is_file():
        what = "these tables"
    heading = (
        f"{first} against {second}: {what} on {facts['images']:,} {facts['part']} images of {facts['groups']:,} {unit}s"
    )
    console.print(Text(heading, style="bold"), soft_wrap=True)
    rows, others = (table.to_dict("records") for table in comparison)
    width = max(len(printable(str(row["score"]))) for row in [*rows, *others])
    console.print(_table_of(rows, "p", width, settings))
    console.print(Text("Exploratory:", style="bold"), soft_wrap=True)
    console.print(_table_of(others, "p_holm", width, settings))
    note = (
        f"p and intervals are by {unit}. The p of exploratory scores is corrected for their number by Holm's method, "
        "intervals are not. Of brier less is better."
    )
    console.print(Text(note, style="dim"), soft_wrap=True)


def _table_of(rows: list[dict[Hashable, Any]], p_column: str, width: int, settings: Settings) -> Table:
    """Returns rows of a comparison as a table.

    Args:
        rows: rows of `PanelComparison.primary` or `exploratory`.
        p_column: column of the p that is shown, 'p' or 'p_holm'.
        width: width of the column of scores in characters, so that two tables have the same columns.
        settings: how the tables were compared.
    """
    table = Table(box=None, pad_edge=False)
    table.add_column("score", min_width=width)
    p_title = "p Holm" if p_column == "p_holm" else "p"
    columns = {"A": 5, "B": 5, "A - B": 6, f"{100 * settings.confidence:g} % interval": 16, p_title: 7}
    for column, least in columns.items():
        table.add_column(column, justify="right", no_wrap=True, min_width=least)
    table.add_column("", no_wrap=True)
    for row in rows:
        verdict = {FIRST: "A is ahead", SECOND: "B is ahead"}.get(row["verdict"], row["verdict"])
        values = [f"{row['first']:.3f}", f"{row['second']:.3f}", f"{row['difference']:+z.3f}"]
        if row["verdict"] in (SHARES, UNDEFINED):  # no number, else nan
            values = ["", "", ""]
        value = row[p_column]
        interval = "" if math.isnan(value) else f"{row['low']:+z.3f} to {row['high']:+z.3f}"
        cells = [printable(str(row["score"])), *values, interval, p_text(value)]
        table.add_row(*map(Text, cells), Text(verdict, style=COLORS.get(row["verdict"], "yellow")))
    return table
