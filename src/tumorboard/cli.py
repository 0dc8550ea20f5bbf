"""The command `tumorboard`: what one does beside the pipeline. Each command imports what it needs when it runs."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tumorboard.params import Params
    from tumorboard.training.state import Job

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


Model = Annotated[str, typer.Argument(metavar="MODEL", help="An entry under `recipes` in params.yaml.")]
Fold = Annotated[int, typer.Option(min=0, help="The validation fold, whose other images are trained on.")]

# As in dvc.yaml, which alone decides where the stages write.
STORE, SPLIT, BALANCE = Path("data/crop/store"), Path("data/split/manifest.csv"), Path("data/balance")
MODELS, JOINED = Path("models"), Path("predictions/joined")


@app.callback()
def main() -> None:
    """A panel of models that vote on medical images. For research, not for diagnosis.

    The pipeline itself runs by `dvc repro`.
    """


@app.command()
def check(
    raw: Annotated[Path, typer.Argument(metavar="RAW", help="The folder of images, or MedMNIST's .npz file.")],
    labels: Annotated[
        Path | None, typer.Option(metavar="CSV", help="A table of path and label; else RAW/labels.csv or the folders.")
    ] = None,
    group_pattern: Annotated[
        str | None, typer.Option(metavar="RE", help="On an image's path; its first group names the patient.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Tell what a run would make of RAW: classes, bad files, copies, label conflicts; nothing is written there.

    The numbers come from params.yaml in this folder, else from the package. Exit status 2: a run would refuse RAW.
    """
    import signal
    from dataclasses import asdict
    from json import dumps
    from tempfile import gettempdir

    from rich.console import Console

    from tumorboard.account import print_account
    from tumorboard.check import Account, check_folder, params_for
    from tumorboard.door import find_params
    from tumorboard.errors import InputError
    from tumorboard.params import load_params

    file = find_params()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that what it wrote is removed
    try:
        account = check_folder(raw, params_for(load_params(file), raw, group_pattern), labels)
    except InputError as error:
        account = Account(refused={"message": str(error)})
    except OSError as error:
        typer.echo(f"check: {error}; it works in {gettempdir()}, for which TMPDIR may name another place", err=True)
        raise typer.Exit(1) from None
    if json:
        typer.echo(dumps(asdict(account)))
    else:
        print_account(account, raw, file, Console())
    raise typer.Exit(0 if account.refused is None else 2)


@app.command()
def predict(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files, and folders of them.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="CSV", help="Where the table goes; default: standard output.")
    ] = None,
    model: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Model files instead of the project's panel; may be given several times."),
    ] = None,
    vote: Annotated[
        str | None,
        typer.Option(help="hard, soft, product or weighted; default: `ensemble.vote`; with --model: soft."),
    ] = None,
) -> None:
    """Have the panel judge new images: a table with a row a file. For research, not for diagnosis.

    Columns: path, decided (the class), probability, agreeing (models that decide so), p_<class>, known (the very file
    was in the panel's own data), problem (why a file was not judged). Exit status 1: there are such files.
    """
    from tumorboard import predict as road
    from tumorboard.data.crop import worker_count
    from tumorboard.door import find_params
    from tumorboard.errors import InputError
    from tumorboard.evaluation.vote import VOTES
    from tumorboard.models.inference import choose_device
    from tumorboard.params import load_params
    from tumorboard.tables import read_manifest, write_table

    try:
        params = load_params(find_params())
        chosen = vote or ("soft" if model else params.ensemble.vote)
        if chosen not in VOTES:
            raise InputError(f"--vote is '{chosen}', expected one of {', '.join(VOTES)}")
        if out:
            road.check_writable(out)
        files = road.list_new(images)
        panel = road.load_panel(model or _panel_files(params), choose_device(params.runtime))
        known = {}
        if not model and SPLIT.is_file():
            manifest = read_manifest(SPLIT)
            known = dict(zip(manifest["sha256"], manifest["split"], strict=True))
        joined = None if model else JOINED
        workers = worker_count(params.runtime.workers)
        table = road.judge_images(panel, files, params.data.frames, chosen, joined, known, workers)
        if out:
            write_table(table, out)
    except InputError as error:
        typer.echo(f"predict: {error}", err=True)
        raise typer.Exit(1) from None
    if not out:
        typer.echo(table.to_csv(index=False), nl=False)
    for line in road.summarise(table, panel, chosen):
        typer.echo(line, err=True)
    raise typer.Exit(int((table["problem"] != "").any()))


def _panel_files(params: "Params") -> list[Path]:
    """The model files of the project's panel; raises InputError where one is not there."""
    from tumorboard.errors import InputError

    files = [MODELS / name / f"{fold}.safetensors" for name in params.models for fold in params.folds]
    if missing := [file for file in files if not file.is_file()]:
        raise InputError(
            f"{missing[0]} is not there: `dvc repro` trains it, `dvc pull` fetches it; or name --model FILE"
        )
    return files


@app.command()
def run(
    targets: Annotated[
        list[str] | None, typer.Argument(help="Stages or outputs, as dvc repro takes; default: all.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", min=1, help="Trainings at a time; default: one a GPU, 1 without.")
    ] = None,
    gpus: Annotated[
        str | None, typer.Option(help="GPUs to share out, as in 0,1; default: all visible.", show_default=False)
    ] = None,
) -> None:
    """Bring the project up to date as `dvc repro` would, with its trainings side by side, one a GPU."""
    from tumorboard import parallel
    from tumorboard.door import side_cache
    from tumorboard.errors import InputError
    from tumorboard.params import load_params

    try:
        chosen = parallel.choose_gpus(gpus, load_params("params.yaml").runtime)
        status = parallel.run(targets or [], jobs or len(chosen) or 1, chosen, side_cache("logs"))
    except InputError as error:
        typer.echo(f"run: {error}", err=True)
        raise typer.Exit(1) from None
    raise typer.Exit(status)


@app.command("lr-find")
def lr_find(model: Model, fold: Fold = 0) -> None:
    """Draw the loss of MODEL over a rising learning rate and suggest one: lr_find/MODEL.csv and .png."""
    from tumorboard.errors import InputError
    from tumorboard.evaluation.plots import learning_rate_curve, png
    from tumorboard.params import load_params
    from tumorboard.tables import replacing, write_table
    from tumorboard.training.search import find_lr, suggest_lr

    try:
        params = load_params("params.yaml")
        job = _job(params, model, fold)
        curve = find_lr(job, params.runtime, params.lr_find)
        table, picture = Path(f"lr_find/{model}.csv"), Path(f"lr_find/{model}.png")
        write_table(curve, table)
        suggested = suggest_lr(curve)
        with replacing(picture) as temporary:
            temporary.write_bytes(png(learning_rate_curve(curve, suggested, f"{model}, fold {fold}")))
    except InputError as error:
        typer.echo(f"lr-find: {error}", err=True)
        raise typer.Exit(1) from None
    for name, lr in suggested.items():
        typer.echo(f"{name}: {lr:.2g}")
    typer.echo(f"the recipe's lr is {job.recipe.lr:g}; {table} and {picture} show {len(curve)} steps")


@app.command("batch-size")
def batch_size(
    model: Model,
    fold: Fold = 0,
    memory: Annotated[
        float | None, typer.Option(min=0, metavar="GIB", help="Of a CPU's memory; default: what is free now.")
    ] = None,
) -> None:
    """Tell how many images of MODEL fit in memory at once, and the `accumulate` that keeps its batch_size."""
    from tumorboard.errors import InputError
    from tumorboard.params import load_params
    from tumorboard.training.search import accumulate_for, probe_batch_size, processes_of

    try:
        params = load_params("params.yaml")
        job = _job(params, model, fold)
        size, processes = job.recipe.batch_size, processes_of(params.runtime)
        probe = probe_batch_size(job, params.runtime, memory)
        typer.echo(f"{probe.images} images at a time ({probe.how})")
        accumulate = accumulate_for(job, processes, probe)
    except InputError as error:
        typer.echo(f"batch-size: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(f"accumulate: {accumulate} keeps batch_size {size} with {processes} process{'es' * (processes > 1)}")


def _job(params: "Params", model: str, fold: int) -> "Job":
    """The job that the stage `train` would carry out; raises InputError where its data are not there."""
    from tumorboard.errors import InputError
    from tumorboard.params import resolve_recipe
    from tumorboard.training.state import read_job

    recipe = resolve_recipe(params, model)
    for path in (STORE, SPLIT, BALANCE / str(fold)):
        if not path.exists():
            raise InputError(f"{path} is not there: `dvc repro balance@{fold}` prepares the images of fold {fold}")
    return read_job(model, fold, recipe, params.crop, (STORE, SPLIT, BALANCE / str(fold)), Path(), Path())


if __name__ == "__main__":
    app()
