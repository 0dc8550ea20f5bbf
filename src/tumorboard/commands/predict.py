"""The command `tumorboard predict`: the panel's vote on new images."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from tumorboard.base.errors import InputError
from tumorboard.base.files import replacing, safe_cell, table_bytes
from tumorboard.base.params import Params, find_params, load_params
from tumorboard.base.tables import read_manifest
from tumorboard.commands.errors import reports_user_errors
from tumorboard.commands.paths import MODELS, PANEL, SPLIT, UNLIKE
from tumorboard.data.workers import worker_count
from tumorboard.models.device import choose_device
from tumorboard.panel.deciding import Deciding, unfitted
from tumorboard.panel.panel import Panel, load_panel
from tumorboard.panel.panel_file import read_panel
from tumorboard.panel.predict import (
    Decisions,
    check_writable,
    list_new_files,
    predict_images,
    summarize_decisions,
)
from tumorboard.panel.stacking_columns import read_cells
from tumorboard.panel.votes import VOTES

app = typer.Typer(add_completion=False)


@app.command("predict", epilog="Example: tumorboard predict path/to/new_images --out new.csv")
@reports_user_errors
def predict(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files, and folders of them.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="CSV", help="File for the table; default: standard output.")
    ] = None,
    model: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Model file instead of the project's panel; may be given several times."),
    ] = None,
    vote: Annotated[
        str | None,
        typer.Option(help=f"One of {', '.join(VOTES)}; default: the vote that heads the report; with --model: soft."),
    ] = None,
    columns: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV", help="Table with path and the columns of ensemble.stacking_columns, for the stacking vote."
        ),
    ] = None,
) -> None:
    """Classifies new images by the panel's vote: one row per file. For research, not for diagnosis.

    Columns: path; decided (the class); probability (the vote's, of that class);
    agreeing (how many models choose that class); p_<class> for each class; unlike
    (1 and above: unlike the training images, do not trust its class); known
    (the split of the panel's own data that has this very file); problem (why the
    file was not classified). In UTF-8. A path that begins with = + - @ is
    written as ./=..., such a class in `decided` as '=..., so that no
    spreadsheet computes it.

    Exit status 1: a file was not classified.
    """
    if not model:
        check_study()
    params = load_params(find_params())
    if vote is not None and vote not in VOTES:
        raise InputError(f"--vote is '{vote}', expected one of {', '.join(VOTES)}")
    if out:
        check_writable(out)
    files = list_new_files(images)
    panel = load_panel(model or project_models(params), choose_device(params.runtime), unlike=None if model else UNLIKE)
    deciding = read_deciding(panel, vote, params.evaluate.abstain, PANEL if not model else None)
    if columns:
        deciding = with_columns(deciding, columns, files)
    table = predict_images(
        panel,
        files,
        deciding=deciding,
        frames=params.data.frames,
        known={} if model else known_digests(),
        workers=worker_count(params.runtime.workers),
        limits=params.crop,
    )
    _write(table_bytes(for_spreadsheet(table)), out)
    for line in summarize_decisions(table, panel, deciding):
        typer.echo(line, err=True)
    raise typer.Exit(int((table["problem"] != "").any()))


def _write(content: bytes, out: Path | None) -> None:
    """Writes to a file, atomically, or to standard output."""
    if out:
        with replacing(out) as temporary:
            temporary.write_bytes(content)
    else:
        typer.echo(content, nl=False)  # bytes, since the terminal's encoding need not have all characters


def read_deciding(panel: Panel, vote: str | None, abstain: float, file: Path | None) -> Deciding:
    """Returns how the panel decides.

    Args:
        panel: the loaded models.
        vote: a name in VOTES; None: the vote that heads the report, or the soft one without a file.
        abstain: probability below which an image is left undecided.
        file: of the study's panel; None: the models are from elsewhere, and nothing was fitted for them.

    Raises:
        InputError: the file is missing, damaged or belongs to other models.
    """
    if file is None:
        fit = unfitted(list(panel.models))
        return Deciding(fit=fit, vote=vote or fit.vote, positive=None, abstain=abstain)
    content = read_panel(file, list(panel.models), classes=panel.card.classes, manifest=panel.card.manifest)
    return Deciding(
        fit=content.fit, vote=vote or content.vote, positive=content.positive, abstain=abstain, unlike=content.unlike
    )


def with_columns(deciding: Deciding, table: Path, files: Sequence[Path]) -> Deciding:
    """Adds what a table says of the images that are to be predicted.

    Raises:
        InputError: the vote uses no columns, or the table does not have what it needs.
    """
    if not deciding.columns or deciding.fit.stacking is None:
        raise InputError(f"--columns: the {deciding.vote} vote uses no columns of a table: leave the option out")
    return replace(deciding, cells=read_cells(table, deciding.fit.stacking.columns, files))


def check_study() -> None:
    """Raises InputError in a folder that is no study: the package's own params.yaml names models of nobody."""
    if not Path("params.yaml").is_file():
        raise InputError(
            f"{Path.cwd()} is no study: it has no params.yaml, and thus no panel. Change into the folder of a trained "
            "study, or name model files: --model FILE (repeatable)"
        )


def for_spreadsheet(decisions: Decisions) -> Decisions:
    """Returns the table with names that no spreadsheet takes for a formula.

    A path such as =1.png becomes ./=1.png, which is the same file; a class such as +1 becomes '+1.
    """
    return decisions.assign(
        path=[safe_cell(path, "./") for path in decisions["path"]],
        decided=[safe_cell(name) if isinstance(name, str) else name for name in decisions["decided"]],
    )


def project_models(params: Params) -> list[Path]:
    """Returns the model files of the project's panel, each listed model by each listed fold.

    Raises:
        InputError: if one is not there.
    """
    files = [MODELS / name / f"{fold}.safetensors" for name in params.models for fold in params.folds]
    if missing := [file for file in files if not file.is_file()]:
        raise InputError(
            f"{missing[0]} is not there: `dvc repro` trains it, `dvc pull` fetches it; or name --model FILE"
        )
    return files


def known_digests() -> dict[str, str]:
    """Returns the split ('train' or 'test') of each file of the project's data by SHA-256; empty before a first run."""
    if not SPLIT.is_file():
        return {}
    manifest = read_manifest(SPLIT)
    return dict(zip(manifest["sha256"], manifest["split"], strict=True))
