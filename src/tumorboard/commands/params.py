"""The command `tumorboard params`: the reference of all parameters."""

from pathlib import Path
from typing import Annotated

import typer
import yaml

from tumorboard.base.errors import InputError
from tumorboard.base.package_files import package_file
from tumorboard.base.params import load_params, read_values
from tumorboard.base.schema import nearest
from tumorboard.commands.errors import reports_user_errors

app = typer.Typer(add_completion=False)


@app.command("params", epilog="Example: tumorboard params --resolved train")
@reports_user_errors
def params(
    key: Annotated[
        str | None, typer.Argument(metavar="[KEY]", help="With --resolved: a section or key, such as train.lr.")
    ] = None,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="Print the values of the study in this folder instead.")
    ] = False,
) -> None:
    """Prints every parameter with its explanation and the package's default value."""
    if not resolved:
        if key is not None:
            raise InputError(f"{key}: is printed with --resolved")
        typer.echo(package_file("params.yaml").read_text(encoding="utf-8"), nl=False)
        return
    file = Path("params.yaml")
    load_params(file)
    values = read_values(file)
    for step in key.split(".") if key else ():
        if not isinstance(values, dict) or step not in values:
            raise InputError(f"there is no {key}{nearest(step, values if isinstance(values, dict) else ())}")
        values = values[step]
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120)
    typer.echo(text.removesuffix("...\n"), nl=False)
