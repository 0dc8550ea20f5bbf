"""The account of `tumorboard check`, for a reader at a terminal."""

from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tumorboard.check import FEW, Account
from tumorboard.errors import printable

KINDS = {"bytes": "the same bytes", "pixels": "the same pixels in other bytes", "near": "nearly the same picture"}


def print_account(account: Account, raw: Path, params_file: Path, console: Console) -> None:
    """Print classes, files that are not trained on by reason, copies, conflicts, shortcuts; last, the verdict."""
    console.print(Text(f"{printable(str(raw))}, by the numbers of {params_file}", style="bold"), soft_wrap=True)
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
        console.print(Text(f"Mind: {_escape(warning)}", style="yellow"), soft_wrap=True)
    console.print()
    if account.refused is None:
        verdict = "A run would accept this; mind the above." if account.warnings else "A run would accept this."
        console.print(Text(verdict, style="bold green"))
    else:
        console.print(
            Text(f"A run would refuse this: {_escape(account.refused['message'])}", style="bold red"), soft_wrap=True
        )


def _escape(message: str) -> str:
    """A message with its line breaks, and with escapes for what no terminal can show."""
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
    alone = images > 0 and account.groups == images
    known = "each image is its own: no patients are known (--group-pattern, or a column group)" if alone else "patients"
    console.print(Text(f"{account.groups} groups: {known}"), soft_wrap=True)


def _print_by_reason(heading: str, entries: Sequence[dict[str, str]], console: Console) -> None:
    _print_heading(heading, len(entries), console)
    for reason, group in groupby(sorted(entries, key=lambda entry: entry["reason"]), lambda entry: entry["reason"]):
        files = list(group)
        console.print(Text(f"  {reason}: {len(files)}"))
        details = (f": {printable(file['detail'])}" if file.get("detail") else "" for file in files)
        lines = (printable(file["path"]) + detail for file, detail in zip(files, details, strict=True))
        _print_lines(lines, console, len(files))


def _print_duplicates(duplicates: Sequence[dict[str, Any]], console: Console) -> None:
    for kind, words in KINDS.items():
        sets = [entry["paths"] for entry in duplicates if entry["kind"] == kind]
        if sets or kind != "near":
            _print_sets(f"Copies: {words}", sets, console)


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
        parts = {"": "", "test_": " on the test part"}
        known = [
            f"skill {fact[f'{part}skill']:.2f}, accuracy {fact[f'{part}accuracy']:.1%}{where} "
            f"(commonest class: {fact[f'{part}majority']:.1%})"
            for part, where in parts.items()
            if fact[f"{part}accuracy"] is not None
        ]
        console.print(Text(f"    {fact['facts']}: {'; '.join(known)}"), soft_wrap=True)


def _print_heading(heading: str, count: int, console: Console, more: str = "") -> None:
    console.print()
    console.print(Text.assemble((heading, "bold"), f": {count or 'none'}{more}"), soft_wrap=True)


def _print_lines(lines: Iterable[str], console: Console, count: int = 0) -> None:
    """The first few lines, and how many there are more."""
    for number, line in enumerate(lines):
        if number == FEW:
            console.print(Text(f"    ... and {count - FEW} more", style="dim"))
            break
        console.print(Text(f"    {line}"), soft_wrap=True)
