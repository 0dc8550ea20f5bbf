"""The command `tumorboard preset`: what a preset sets, and why."""

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tumorboard.base.params import find_params, load_params
from tumorboard.base.presets import PRESETS, Explained, explain_preset, explain_study
from tumorboard.base.schema import read_yaml
from tumorboard.commands.errors import reports_user_errors
from tumorboard.commands.new_panel import panel_of

app = typer.Typer(add_completion=False)


@app.command("preset", epilog="Example: tumorboard preset mri")
@reports_user_errors
def preset(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help=f"One of {', '.join(PRESETS)}; default: the preset of this study."),
    ] = None,
) -> None:
    """Prints what a preset sets in params.yaml, with a reason per value.

    Without NAME: all presets, and the values in effect in this study, of which
    explicit ones are marked. A recipe may still override `train` for one model.
    """
    console = Console()
    if name is not None:
        rows = explain_preset(name)
        print_heading(name, console)
    else:
        file = find_params()
        name = load_params(file).preset  # reports wrong keys
        rows = explain_study(read_yaml(file))
        for each in PRESETS:
            console.print(Text(f"{each:<10} {PRESETS[each].pictures}"), soft_wrap=True)
        console.print()
        print_heading(name, console, f", as {file} has it")
    print_rows(rows, console)


def print_heading(name: str, console: Console, more: str = "") -> None:
    """Prints what a preset is for and where it was measured."""
    console.print(Text(f"preset: {name}{more}", style="bold"), soft_wrap=True)
    console.print(Text(f"For {PRESETS[name].pictures}. Evidence: {PRESETS[name].evidence}."), soft_wrap=True)
    panel = panel_of(name)
    console.print(Text(f"A new study begins with {', '.join(panel.models)}: {panel.reason}."), soft_wrap=True)


def print_rows(rows: list[Explained], console: Console) -> None:
    """Prints one line per key: the key, its value as params.yaml has it, and the reason."""
    table = Table(box=None, pad_edge=False)
    for heading in ("key", "value", "reason"):
        table.add_column(heading, no_wrap=heading != "reason")
    for row in rows:
        table.add_row(Text(row.key), Text(as_yaml(row.value)), Text(row.reason))
    console.print(table)


def as_yaml(value: Any) -> str:
    """Returns a value as params.yaml has it, on one line.

    >>> as_yaml((0.9, 1.1)), as_yaml(True), as_yaml("black"), as_yaml(("hflip", "vflip")), as_yaml(())
    ('[0.9, 1.1]', 'true', 'black', '[hflip, vflip]', '[]')
    """
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(as_yaml, value))}]"
    return value if isinstance(value, str) else json.dumps(value)
