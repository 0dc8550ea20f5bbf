"""The command `tumorboard new`: a study of one's own images; one environment serves all studies."""

import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console
from rich.text import Text

from tumorboard.base.data_params import UNIT
from tumorboard.base.errors import InputError, printable
from tumorboard.base.package_files import package_file
from tumorboard.base.params import Params
from tumorboard.base.presets import PRESETS, check_preset, explain_preset, fill_empty
from tumorboard.base.schema import parse, read_yaml
from tumorboard.base.short_params import DEFAULTS_OF, complete_values
from tumorboard.base.versioning import run_git
from tumorboard.commands.check import name_pattern_option, print_account
from tumorboard.commands.errors import reports_user_errors
from tumorboard.commands.new_data import Copy, plan_copy
from tumorboard.commands.new_files import StudyFacts, study_files, write_study
from tumorboard.commands.new_folder import check_can_be_made, check_empty
from tumorboard.commands.new_panel import panel_of
from tumorboard.commands.preset import as_yaml
from tumorboard.commands.project_checks import check_identity
from tumorboard.data.attributes import attribute_table, check_names
from tumorboard.data.check import OF_ONE_FOLDER, Account, check_folder
from tumorboard.data.guess_groups import Guess, guess_groups
from tumorboard.data.sources import list_images

REFUSED = 2  # the exit status if a run would refuse the data, as in `check`

DataOption = Annotated[
    Path, typer.Option(metavar="FOLDER", help="The folder of labeled images, or MedMNIST's .npz file.")
]
LabelsOption = Annotated[
    Path | None, typer.Option(metavar="CSV", help="Table with the columns path and label inside FOLDER.")
]
PatternOption = Annotated[
    str | None,
    typer.Option(metavar="RE", help="Regular expression on an image's path; its first group names the patient."),
]
PresetOption = Annotated[
    str | None, typer.Option(help="Kind of the pictures; `tumorboard preset` lists them; default: general.")
]
LinesOption = Annotated[
    Path | None,
    typer.Option(
        "--params", metavar="YAML", help="Lines for the study's params.yaml, such as those that `check` proposes."
    ),
]
AddOption = Annotated[
    bool, typer.Option("--add", help="Copy FOLDER into DIR/datasets, and put the copy under version control by DVC.")
]

app = typer.Typer(add_completion=False)


@app.command("new", epilog="Example: tumorboard new my-study --data /archive/smears --group-pattern '(p[0-9]+)_'")
@reports_user_errors
def new(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to make; it may exist if it is empty.")],
    data: DataOption,
    labels: LabelsOption = None,
    group_pattern: PatternOption = None,
    unit: Annotated[
        str | None, typer.Option(help="What a group is: patient, smear, slide …; reports use the word.")
    ] = None,
    positive: Annotated[str | None, typer.Option(help="The one of two classes that is to be detected.")] = None,
    preset: PresetOption = None,
    lines: LinesOption = None,
    add: AddOption = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing: take what is guessed from the names.")] = False,
) -> None:
    """Makes a study of the images in FOLDER: parameters, pipeline, git and DVC, first commit.

    First it checks the images as `tumorboard check` does, and shows what it assumes
    and why. FOLDER is named by its absolute path, and nothing is written there.
    With --add, the study has a copy that DVC keeps and `dvc push` would upload.
    The stages run from the installed package, so that one environment serves all
    studies. For research, not for diagnosis.

    Exit status 2: a run would refuse FOLDER.
    """
    console = Console()
    own = read_lines(lines)
    preset = preset or str(own.get("preset") or "general")
    check_start(folder, data, preset, group_pattern, unit)
    given = own.get("data", {})
    check_raw(given.get("raw"), data, lines)
    table = table_name(data, labels) or given.get("table")
    positive = positive or given.get("positive")
    pattern = group_pattern or given.get("group_pattern")
    params = params_of(params_with(own, preset, lines), data, table, pattern)
    check_columns(own, params, data, lines)
    copy = plan_copy(data, folder, params.data.table) if add else None
    survey = survey_data(data, params, positive, ask=lambda guess: wants(guess, yes, console))
    name_pattern_option(survey.account, group_pattern)
    print_account(survey.account, data, package_file("params.yaml"), console)
    stop_if_refused(survey.account, lines, console)
    facts = StudyFacts(
        name=folder.resolve().name,
        data=copy.target if copy else data.resolve(),
        table=survey.table,
        group_pattern=survey.group_pattern,
        guess=survey.guess,
        unit=unit or given.get("unit") or survey.unit,
        positive=positive,
        preset=preset,
        lines=own,
    )
    print_assumptions(facts, survey.account, console)
    write_study(folder, study_files(facts), copy)
    print_next(folder, copy, console)


def print_next(folder: Path, copy: Copy | None, console: Console) -> None:
    """Prints the copied data and the commands to run next."""
    if copy:
        console.print(Text(f"\n{copy.note}"), soft_wrap=True)
    console.print(Text(f"\nThe study is in {folder}. Look at params.yaml, then:", style="bold"), soft_wrap=True)
    console.print(Text(f"  cd {shlex.quote(str(folder))}\n  dvc repro"), soft_wrap=True)


def check_start(folder: Path, data: Path, preset: str, group_pattern: str | None, unit: str | None) -> None:
    """Raises InputError for faults that show before the images are read."""
    if unit is not None and not re.fullmatch(UNIT, unit):
        raise InputError(f"--unit {unit!r}: expected one word or a few in small letters from a to z, such as patient")
    check_preset(preset)
    check_places(folder, data)
    check_git()
    if group_pattern == "":  # it would silently mean no pattern
        raise InputError("--group-pattern is empty: name a pattern, or leave the option out")


def stop_if_refused(account: Account, lines: Path | None, console: Console) -> None:
    """Ends the command where a run would refuse the data; prints what to do with proposed lines."""
    if account.refused is None:
        return
    if "write in params.yaml" in account.refused["message"] and lines is None:
        console.print(Text("Or save these lines as a file, and add to this command: --params FILE"))
    raise typer.Exit(REFUSED)


class Survey(NamedTuple):
    """The facts about the data before the study is made."""

    account: Account
    table: str | None  # label table inside the data
    group_pattern: str | None
    unit: str | None  # what a group is, from a confirmed guess
    guess: Guess | None  # a grouping that nobody confirmed


def read_lines(file: Path | None) -> dict[str, Any]:
    """Returns a file's entries for the params.yaml of a new study; {} without a file.

    Raises:
        InputError: `data` is no mapping.
    """
    own = read_yaml(file) if file else {}
    if not isinstance(own.get("data", {}), dict):
        raise InputError(f"{file}: data: expected a mapping of keys, such as `table: labels.csv` below it")
    return own


def params_with(own: Mapping[str, Any], preset: str, file: Path | None) -> Params:
    """Returns the package's parameters under a preset, with the lines of a file.

    Raises:
        InputError: a line has an unknown key or a wrong value.
    """
    data = dict.fromkeys(OF_ONE_FOLDER) | own.get("data", {})  # the package's values describe its own data set
    return parse(
        Params, fill_empty(complete_values({**own, "data": data, "preset": preset, DEFAULTS_OF: ""})), str(file)
    )


def survey_data(data: Path, params: Params, positive: str | None, *, ask: Callable[[Guess], bool]) -> Survey:
    """Checks the data; where each image is its own group, asks about a grouping that the names suggest.

    Raises:
        InputError: a run would accept the data, but `positive` is no class of two.
    """

    def checked(group_pattern: str | None) -> Account:
        account = check_folder(data, params_of(params, data, table, group_pattern))
        if account.refused is None:
            check_positive(positive, account)
        return account

    table, group_pattern = params.data.table, params.data.group_pattern
    account = checked(group_pattern)
    if group_pattern or account.grouped or account.groups < len(account.accepted):
        return Survey(account, table, group_pattern, None, None)
    guess = guess_groups(account.accepted, len(account.classes))
    if guess is None or not ask(guess):
        return Survey(account, table, None, None, guess)
    return Survey(checked(guess.pattern), table, guess.pattern, guess.unit or None, None)


def print_assumptions(facts: StudyFacts, account: Account, console: Console) -> None:
    """Prints each assumption of the study and its reason; each is a line of its params.yaml or of the preset."""
    images = len(account.accepted)
    if facts.group_pattern:
        groups = f"{account.groups}, by data.group_pattern {facts.group_pattern}"
    else:
        known = account.grouped or account.groups < images
        given = "as the table or the files have them" if known else "one per image: no patients are known"
        groups = f"{account.groups}, {given}"
    panel, own_crop = panel_of(facts.preset), facts.lines.get("crop", {})
    models = [] if "models" in facts.lines else [("models", f"{', '.join(panel.models)}: {panel.reason}")]
    crop = [row for row in explain_preset(facts.preset) if row.key.startswith("crop.")]
    assumed = [row for row in crop if own_crop.get(row.key.removeprefix("crop.")) is None]
    rows = [
        ("classes", f"{', '.join(map(printable, account.classes))}, from {facts.table or 'the data itself'}"),
        ("groups", groups),
        ("data.unit", facts.unit or "empty: nobody said what a group is (--unit)"),
        ("data.positive", facts.positive or "empty: no class is to be detected (--positive)"),
        ("preset", f"{facts.preset}: {PRESETS[facts.preset].pictures}"),
        *models,
        *((row.key, f"{as_yaml(row.value)}: {row.reason}") for row in assumed),
    ]
    console.print()
    console.print(Text("Assumed; params.yaml changes it:", style="bold"))
    for name, text in rows:
        console.print(Text(f"  {name:<14}{text}"), soft_wrap=True)


def check_places(folder: Path, data: Path) -> None:
    """Raises InputError unless `data` is a folder and the study can be made beside it."""
    if not (data.is_dir() or (data.is_file() and data.suffix == ".npz")):
        raise InputError(
            f"--data {printable(str(data))}: is no folder: name the one that has the images, or MedMNIST's .npz file"
        )
    check_empty(folder)
    inner, outer = data.resolve(), folder.resolve()
    if inner.is_relative_to(outer):
        raise InputError(f"--data {printable(str(data))}: lies inside {printable(str(folder))}: name another folder")
    if outer.is_relative_to(inner):
        raise InputError(
            f"{printable(str(folder))}: lies inside --data {printable(str(data))}, which stays as it is: name another"
        )
    home = next((parent for parent in (outer, *outer.parents) if parent.is_dir()), outer)
    if top := (run_git(home, "rev-parse", "--show-toplevel") or "").strip():
        raise InputError(
            f"{printable(str(folder))}: lies inside the git repository {printable(top)}, and a study is a repository "
            "of its own: name a folder outside"
        )
    check_can_be_made(folder)


def check_raw(raw: object, data: Path, lines: Path | None) -> None:
    """Raises InputError where the lines of a file name other data than the option does."""
    if raw and Path(str(raw)).resolve() != data.resolve():
        raise InputError(
            f"{lines}: data.raw is {printable(str(raw))}, but --data is {printable(str(data))}, which takes its place: "
            "delete the line"
        )


def check_columns(own: Mapping[str, Any], params: Params, data: Path, lines: Path | None) -> None:
    """Raises InputError where the lines of a file name a column that the data's table does not have.

    Args:
        own: entries of the file; only names that it gives are checked, since the package's are those of its own data.
        params: the study's parameters.
        data: the folder or file of the images.
        lines: the file, for the message.
    """
    named = {
        ("evaluate", "subgroups"): params.evaluate.subgroups,
        ("ensemble", "stacking_columns"): params.ensemble.stacking_columns,
        ("split", "leave_out"): (params.split.leave_out,),
    }
    given = {f"{section}.{key}": names for (section, key), names in named.items() if own.get(section, {}).get(key)}
    if not given:
        return
    try:
        listed, _ = list_images(data, params.data)
    except InputError:
        return  # the account of the data reports the fault
    attributes = attribute_table(listed)
    for key, names in given.items():
        check_names(attributes, [name for name in names if name is not None], f"{lines}: {key}")


def check_git() -> None:
    """Raises InputError where git is missing or has no user name, since the first commit would fail."""
    try:
        subprocess.run(["git", "--version"], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        raise InputError("git is not installed, and DVC needs it: install the package git") from None
    problems = [finding for finding in check_identity(Path()) if finding.level != "ok"]
    if problems:
        raise InputError("\n".join(map(str, problems)))


def table_name(data: Path, labels: Path | None) -> str | None:
    """Returns the name of the label table relative to the data, as `data.table`; None without one."""
    if labels is None:
        return None
    for candidate in (labels, data / labels):
        if candidate.is_file() and candidate.resolve().is_relative_to(data.resolve()):
            return candidate.resolve().relative_to(data.resolve()).as_posix()
    if labels.is_file():
        raise InputError(f"--labels {printable(str(labels))}: lies outside {printable(str(data))}: put it there")
    raise InputError(f"--labels {printable(str(labels))}: there is no such file")


def params_of(defaults: Params, data: Path, table: str | None, group_pattern: str | None) -> Params:
    """Returns parameters for a folder, with a label table inside it and a pattern of groups."""
    own = {"raw": str(data), "table": table, "group_pattern": group_pattern}
    return defaults.model_copy(update={"data": defaults.data.model_copy(update=own)})


def check_positive(positive: str | None, account: Account) -> None:
    """Raises InputError unless `positive` is empty or one of two classes."""
    if positive is not None and (positive not in account.classes or len(account.classes) != 2):
        raise InputError(
            f"--positive {positive!r}: expected one of two classes; there are {', '.join(account.classes)}"
        )


def wants(guess: Guess, yes: bool, console: Console) -> bool:
    """Asks at a terminal whether a guessed grouping is right; elsewhere it is taken only with --yes."""
    console.print(Text(f"The names look like {guess.groups} groups: {guess.example}.", style="bold"), soft_wrap=True)
    if yes or not sys.stdin.isatty():
        return yes
    return typer.confirm("Are images of one group of one patient (or smear, or slide)?")
