"""The command `tumorboard`. It imports the module of a subcommand only when that subcommand is called."""

import gc
import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

from tumorboard.base.cores import let_threads_sleep
from tumorboard.base.faults import report_uncaught_faults, reported_errors
from tumorboard.base.interrupts import handle_signals

if __name__ == "__main__" or Path(sys.argv[0]).stem == "tumorboard":  # not where another program imports this module
    report_uncaught_faults("tumorboard")
    handle_signals("tumorboard")
    let_threads_sleep()
    # Python looks for reference cycles at every 700 new objects, which takes some per cent of the time while torch is
    # imported.
    gc.set_threshold(20_000)

import typer
from typer.core import TyperCommand, TyperGroup

from tumorboard.base.errors import escape_unprintable

# The subcommands in the order of `tumorboard --help`, each with the first line of its own help. The module of
# `lr-find` is tumorboard.commands.lr_find, and so on; each has a typer.Typer named `app` with one command.
SUMMARIES = {
    "new": "Makes a study of the images in FOLDER: parameters, pipeline, git and DVC, first commit.",
    "practice": "Draws a small folder of synthetic blood cells, to learn the other commands with.",
    "check": "Reports what a run would make of RAW: classes, bad files, copies, label conflicts, shortcuts.",
    "preset": "Prints what a preset sets in params.yaml, with a reason per value.",
    "params": "Prints every parameter with its explanation and the package's default value.",
    "predict": "Classifies new images by the panel's vote: one row per file. For research, not for diagnosis.",
    "serve": "Shows a page that classifies dropped images by the panel's vote. For research, not for diagnosis.",
    "export": "Writes the study's panel into one file, for someone who has neither the study nor its data.",
    "compare": "Compares A with B on the same images: each difference, its interval, and what is within noise.",
    "run": "Brings the project up to date like `dvc repro`, with trainings and evaluations side by side.",
    "doctor": "Looks at this machine and project, and names the one command that cures each problem.",
    "control": "Runs the pipeline on shuffled labels, and reports whether its scores are at chance.",
    "lr-find": "Trains MODEL at a rising learning rate and suggests one; writes lr_find/MODEL.csv and .png.",
    "search": "Searches hyper-parameters of MODEL: the space `search` in params.yaml, judged by held-out loss.",
    "batch-size": "Finds how many images of MODEL fit in memory at once, and the `accumulate` for its batch_size.",
}


class LazyGroup(TyperGroup):
    """A group whose commands are stubs with a name and a summary until one of them is called."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for name, summary in SUMMARIES.items():
            self.add_command(TyperCommand(name, help=summary))

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Returns the name, the command itself in place of its stub, and the arguments that remain for it."""
        name, stub, rest = super().resolve_command(ctx, args)
        return name, load_command(name) if name else stub, rest


def load_command(name: str) -> Any:
    """Imports the module of a subcommand and returns its command."""
    from tumorboard.commands.extras import naming_extras  # here, since `tumorboard --help` needs no more modules

    with reported_errors("tumorboard", before=""), naming_extras():
        module = import_module("tumorboard.commands." + name.replace("-", "_"))
    return typer.main.get_command(module.app)


def print_version(wanted: bool) -> None:
    """Prints the version of the installed package and exits, if wanted."""
    if not wanted:
        return
    try:
        typer.echo(f"tumorboard {version('tumorboard')}")
    except PackageNotFoundError:
        typer.echo("tumorboard, version unknown: the package is not installed here, so it has no metadata")
    raise typer.Exit


app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback(epilog="Example: tumorboard check path/to/images")
def main(
    show_version: Annotated[  # noqa: ARG001 - its callback uses it
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """A panel of models that vote on medical images. For research, not for diagnosis.

    The pipeline itself is run by `dvc repro`.
    """
    escape_unprintable()


if __name__ == "__main__":
    app()
