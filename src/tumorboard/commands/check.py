"""The command `tumorboard check`: what a run would make of a folder, as text or as JSON."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from tempfile import gettempdir
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tumorboard.base.errors import InputError, counted, printable
from tumorboard.base.faults import PLACES
from tumorboard.base.files import side_cache
from tumorboard.base.package_files import package_file
from tumorboard.base.params import find_params, load_params
from tumorboard.base.versioning import explain_unversioned
from tumorboard.commands.errors import reports_user_errors
from tumorboard.data.check import FEW, Account, check_folder, params_for
from tumorboard.data.group_pattern import about_option
from tumorboard.data.guess_groups import describe_guess, guess_groups

REFUSED = 2  # the exit status if a run would refuse the folder
# The kinds of duplicates in an Account, each with its heading.
DUPLICATE_HEADINGS = {
    "bytes": "the same bytes",
    "pixels": "the same pixels in other bytes",
    "near": "nearly the same picture",
    "overlap": "parts of one field (audit.overlap)",
}

app = typer.Typer(add_completion=False)


@app.command("check", epilog="Example: tumorboard check path/to/images --group-pattern '(p[0-9]+)_'")
@reports_user_errors
def check(
    raw: Annotated[Path, typer.Argument(metavar="RAW", help="The folder of images, or MedMNIST's .npz file.")],
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV", help="Table with the columns path and label; default: RAW/labels.csv, else the folder names."
        ),
    ] = None,
    group_pattern: Annotated[
        str | None,
        typer.Option(metavar="RE", help="Regular expression on an image's path; its first group names the patient."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Reports what a run would make of RAW: classes, bad files, copies, label conflicts, shortcuts.

    Nothing is written to RAW. The limits come from params.yaml in this folder,
    else from the package's own.

    Exit status 2: a run would refuse RAW.
    """
    params_file = find_params()
    place = None  # None: the system's folder of temporary files
    try:
        params = params_for(load_params(params_file), raw, group_pattern)
        if params.runtime.scheduler:  # its workers see the study's folder, but not this machine's /tmp
            place = side_cache("check")
        account = check_folder(raw, params, labels, place)
    except InputError as error:
        account = Account(refused={"message": str(error)})
    except OSError as error:
        if error.errno not in PLACES:
            raise
        cure = "" if place else ", or set TMPDIR to another folder"
        raise InputError(
            f"{error}; temporary files are written to {place or gettempdir()}: free some space{cure}"
        ) from None
    name_pattern_option(account, group_pattern)
    if account.refused is None and (unversioned := explain_unversioned(str(raw))):
        account.warnings.append(unversioned)
    if account.groups == len(account.accepted):
        guess = guess_groups(account.accepted, len(account.classes))
        if guess is not None:
            account.warnings.append(describe_guess(guess, grouped=account.grouped))
    if as_json:
        typer.echo(json.dumps(asdict(account)))
    else:
        print_account(account, raw, params_file, Console())
    raise typer.Exit(0 if account.refused is None else REFUSED)


def name_pattern_option(account: Account, group_pattern: str | None) -> None:
    """Makes an error about the pattern of groups name the option, if the option set the pattern."""
    if account.refused is not None and group_pattern is not None:
        account.refused["message"] = about_option(account.refused["message"], "--group-pattern")


def print_account(account: Account, raw: Path, params_file: Path, console: Console) -> None:
    """Prints an Account for a reader at a terminal; the verdict comes last.

    Args:
        account: the account of the folder.
        raw: the folder.
        params_file: the params.yaml whose limits were used.
        console: where the account is printed.
    """
    limits = "the package's limits" if params_file == package_file("params.yaml") else f"the limits of {params_file}"
    console.print(Text(f"{printable(str(raw))}, by {limits}", style="bold"), soft_wrap=True)
    if account.classes:
        _print_classes(account, console)
        _print_by_reason("Quarantined", account.quarantined, console)
        _print_by_reason("Ignored", account.ignored, console)
        if account.left_out:
            _print_by_reason("Left out of training", account.left_out, console)
        _print_duplicates(account.duplicates, console)
        _print_sets("Label conflicts: one picture under several labels", account.label_conflicts, console)
        _print_shortcuts(account.shortcuts, console)
    for warning in account.warnings:
        console.print()
        console.print(Text(f"Warning: {_escape(warning)}", style="yellow"), soft_wrap=True)
    console.print()
    if account.refused is None:
        verdict = "A run would accept this; see the warnings." if account.warnings else "A run would accept this."
        console.print(Text(verdict, style="bold green"))
    else:
        message = _escape(account.refused["message"])
        console.print(Text(f"A run would refuse this: {message}", style="bold red"), soft_wrap=True)


def _escape(message: str) -> str:
    """Returns a message with its line breaks, and with escapes for lone surrogates, which cannot be encoded."""
    return message.encode(errors="backslashreplace").decode()


def _print_classes(account: Account, console: Console) -> None:
    images = sum(account.classes.values())
    table = Table(box=None, pad_edge=False, show_footer=True)
    table.add_column("Class", footer=Text(f"{len(account.classes)} classes"))
    table.add_column("images", footer=Text(str(images)), justify="right")
    table.add_column("share", justify="right")
    for label, count in account.classes.items():
        table.add_row(Text(printable(label)), Text(str(count)), Text(f"{count / max(images, 1):.1%}"))
    console.print()
    console.print(table)
    nature = "the images of a group stay on one side"
    if images > 0 and account.groups == images:
        unknown = "one per image: no patients are known (--group-pattern, or a column group)"
        nature = "each has one image" if account.grouped else unknown
    console.print(Text(f"{counted(account.groups, 'group')}: {nature}"), soft_wrap=True)


def _print_by_reason(heading: str, entries: Sequence[dict[str, str]], console: Console) -> None:
    _print_heading(heading, len(entries), console)
    for reason, group in groupby(sorted(entries, key=lambda entry: entry["reason"]), lambda entry: entry["reason"]):
        files = list(group)
        console.print(Text(f"  {reason}: {len(files)}"))
        details = (f": {printable(file['detail'])}" if file.get("detail") else "" for file in files)
        lines = (printable(file["path"]) + detail for file, detail in zip(files, details, strict=True))
        _print_lines(lines, console, len(files))


def _print_duplicates(duplicates: Sequence[dict[str, Any]], console: Console) -> None:
    for kind, words in DUPLICATE_HEADINGS.items():
        sets = [entry["paths"] for entry in duplicates if entry["kind"] == kind]
        if sets or kind in ("bytes", "pixels"):
            _print_sets(f"Copies that were found: {words}", sets, console)


def _print_sets(heading: str, sets: Sequence[Sequence[str]], console: Console) -> None:
    word = "set" if len(sets) == 1 else "sets"
    _print_heading(heading, len(sets), console, f" {word}, {sum(map(len, sets))} files" if sets else "")
    lines = (
        " = ".join(map(printable, paths[:FEW])) + (f" … and {len(paths) - FEW} more" if len(paths) > FEW else "")
        for paths in sets
    )
    _print_lines(lines, console, len(sets))


def _print_shortcuts(shortcuts: Sequence[dict[str, Any]], console: Console) -> None:
    heading = "Shortcuts: facts of the files that give the class away (skill: 0 is guessing, 1 perfect)"
    _print_heading(heading, len(shortcuts), console)
    for fact in shortcuts:
        scores = f"skill {fact['skill']:.2f} (p = {fact['p']:.2f}, labels permuted over groups)"
        console.print(Text(f"    {fact['facts']}: {scores}"), soft_wrap=True)


def _print_heading(heading: str, count: int, console: Console, more: str = "") -> None:
    console.print()
    console.print(Text.assemble((heading, "bold"), f": {count or 'none'}{more}"), soft_wrap=True)


def _print_lines(lines: Iterable[str], console: Console, count: int) -> None:
    """Prints the first FEW lines and how many more there are."""
    for number, line in enumerate(lines):
        if number == FEW:
            console.print(Text(f"    ... and {count - FEW} more", style="dim"))
            break
        console.print(Text(f"    {line}"), soft_wrap=True)
