"""The command `tumorboard export`: the study's panel as one file that another machine can use."""

import shlex
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer

from tumorboard.base.errors import InputError, printable
from tumorboard.base.files import read_json
from tumorboard.base.params import Params, find_params, load_params
from tumorboard.base.study import package_version
from tumorboard.base.tables import read_manifest
from tumorboard.commands.errors import reports_user_errors
from tumorboard.commands.locked_outputs import explain_other_run
from tumorboard.commands.panel_source import check_study, known_digests, naming_the_cure, study_inputs, study_models
from tumorboard.commands.paths import METRICS, PANEL, RECIPES, SPLIT, STORE, UNLIKE
from tumorboard.commands.target_file import check_target
from tumorboard.data.store import CropStore
from tumorboard.images.grey import Pixels
from tumorboard.models.study_code import is_study_code
from tumorboard.panel.onnx_model import OPSET
from tumorboard.panel.package import ModelFiles, Preprocessing, package_entries
from tumorboard.panel.package_file import write_package
from tumorboard.panel.panel import Panel, join_models
from tumorboard.panel.panel_file import PanelFile, read_panel
from tumorboard.panel.predict import limited
from tumorboard.panel.stacking_columns import columns_of_vote
from tumorboard.panel.trained_model import TrainedModel, card_text, load_trained
from tumorboard.report.model_card import Member, read_run, render_cards
from tumorboard.report.package_readme import render_readme

CHECKED = 32  # crops on which an ONNX file is compared with torch, at most

app = typer.Typer(add_completion=False)


@app.command("export", epilog="Example: tumorboard export panel.zip --onnx")
@reports_user_errors
def export(
    out: Annotated[Path, typer.Argument(metavar="FILE", help="The package to write, such as panel.zip.")],
    onnx: Annotated[
        bool, typer.Option("--onnx", help="Add each network as ONNX, so that no torch is needed to use the panel.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it exists.")] = False,
) -> None:
    """Writes the study's panel into one file, for someone who has neither the study nor its data.

    It contains the models, what was fitted on validation images, the preprocessing,
    model cards, and the SHA-256 of each image file of the study, so that files that
    the panel has seen are marked; no image, name or path. `tumorboard predict
    --panel FILE` uses it in any folder, with the results of this study.

    For research, not for diagnosis.
    """
    check_study("")
    params = load_params(find_params())
    read = [find_params(), *study_inputs(params), *RECIPES.glob("*.json"), *METRICS.parent.rglob("*.json")]
    check_target(out, force, inputs=read)
    check_split()
    if other := explain_other_run(Path(), read):
        raise InputError(f"the scores of the model cards may be another panel's: {other}")
    trained = [load_member(file) for file in study_models(params)]
    panel = join_models(trained)
    with naming_the_cure():
        content = read_panel(PANEL, list(panel.models), classes=panel.card.classes, manifest=panel.card.manifest)
    preprocessing = preprocessing_of(panel, params)
    with tempfile.TemporaryDirectory(prefix="tumorboard-") as folder:
        check = write_onnx(trained, Path(folder)) if onnx else OnnxCheck({}, {}, "")
        texts = write_texts(params, content, trained, preprocessing, check)
        entries, packed = package_entries(
            [files_of(one, check.files) for one in trained],
            panel=PANEL,
            preprocessing=preprocessing,
            known=known_digests(),
            texts=texts,
        )
        digest = write_package(out, entries, models=packed, version=package_version())
    for name, difference in check.differences.items():
        typer.echo(f"{name}: onnxruntime differs from torch by at most {difference:.1e} on {check.images}")
    typer.echo(
        f"{printable(str(out))}: {len(trained)} model files, {out.stat().st_size / 1e6:.1f} MB, SHA-256 {digest}"
    )
    for line in usage(out.name, content):
        typer.echo(line)


def usage(package: str, content: PanelFile) -> list[str]:
    """Returns lines on how a package is used.

    Args:
        package: name of its file.
        content: content of models/panel.json.
    """
    command = f"Use it anywhere: tumorboard predict --panel {shlex.quote(printable(package))} IMAGES"
    columns = columns_of_vote(content.vote, content.stacking)
    if not columns:
        return [command]
    names = ", ".join(printable(column.name) for column in columns)
    return [
        f"{command} --columns TABLE.csv",
        f"TABLE.csv needs one row per image and the columns path, {names}: the {content.vote} vote uses them",
    ]


def check_split() -> None:
    """Raises InputError without the list of the study's images, by which a package recognizes seen images."""
    if not SPLIT.is_file():
        raise InputError(
            f"{SPLIT} is not there, by which a package marks the images that the panel has seen: `dvc pull split` "
            "fetches it, `dvc repro` makes it"
        )


def load_member(file: Path) -> TrainedModel:
    """Loads a model file of the study; raises InputError where its network is code of the study."""
    with naming_the_cure():
        trained = load_trained(file, "cpu", UNLIKE)
    architecture = trained.card.recipe.architecture
    if is_study_code(architecture):
        raise InputError(
            f"{file}: its network, {printable(architecture)}, is code of this study, and a package holds no code: "
            "leave the model out of `models`, or pass on the study itself"
        )
    return trained


def preprocessing_of(panel: Panel, params: Params) -> Preprocessing:
    """Returns the preprocessing of the study's own `predict`.

    The crop is the models', whatever params.yaml has now. Its limits on bytes and pixels, the frame and the
    probability below which nothing is decided are the user's, who may change them without training.
    """
    crop = limited(panel.card.crop, params.crop)
    return Preprocessing(crop=crop, frames=params.data.frames, abstain=params.evaluate.abstain)


class OnnxCheck(NamedTuple):
    """The ONNX files, and how they compare with torch."""

    files: Mapping[Path, Path]  # ONNX file by model file
    differences: Mapping[str, float]  # largest difference of a probability, by model file
    images: str  # the images of the check, in words


def write_onnx(trained: Sequence[TrainedModel], folder: Path) -> OnnxCheck:
    """Writes an ONNX file per model file and compares each with torch.

    Raises:
        InputError: a package is missing, a network cannot be written, or differs; names the model file.
    """
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(f"--onnx needs the package {error.name}: pip install 'tumorboard[onnx]'") from None
    from tumorboard.panel.onnx_export import export_onnx, largest_difference

    files, differences = {}, {}
    images = ""
    for number, one in enumerate(trained):
        file = folder / f"{number}.onnx"
        export_onnx(one, file)
        crops, images = validation_crops(one)
        differences[f"{one.card.name}/{one.card.fold}"] = largest_difference(one, file, crops)
        files[one.file] = file
    return OnnxCheck(files, differences, images)


def validation_crops(trained: TrainedModel) -> tuple[Pixels, str]:
    """Returns at most CHECKED crops of the model's validation images, uint8[N, S, S, 3], and their description.

    Where the study's crops are not on this machine, noise takes their place.
    """
    if STORE.is_dir() and SPLIT.is_file():
        manifest = read_manifest(SPLIT)
        rows = manifest[manifest["fold"].eq(trained.card.fold).fillna(False)]
        ids = sorted(rows["id"])[:: max(1, len(rows) // CHECKED)][:CHECKED]
        if ids:
            return CropStore(STORE)[ids], f"{len(ids)} validation images"
    side = trained.card.crop.side
    noise = np.random.default_rng(0).integers(0, 256, (CHECKED, side, side, 3), dtype=np.uint8)
    return noise, f"{CHECKED} pictures of noise, since the study's crops are not here (`dvc pull`)"


def files_of(trained: TrainedModel, onnx: Mapping[Path, Path]) -> ModelFiles:
    """Returns the files of a model in the study."""
    card = trained.card
    return ModelFiles(
        name=card.name,
        fold=card.fold,
        weights=trained.file,
        unlike=UNLIKE / card.name / f"{card.fold}.safetensors",
        card=card_text(trained.file) or "",
        onnx=onnx.get(trained.file),
    )


def write_texts(
    params: Params,
    content: PanelFile,
    trained: Sequence[TrainedModel],
    preprocessing: Preprocessing,
    check: OnnxCheck,
) -> dict[str, str]:
    """Returns the README and the model cards by the name of the entry."""
    cards: dict[str, list[dict[str, Any]]] = {}
    for one in trained:
        cards.setdefault(one.card.name, []).append(one.card.model_dump(mode="json"))
    members = [Member(name, folds, read_json(RECIPES / f"{name}.json")) for name, folds in cards.items()]
    run = read_run(params, content, members, metrics=METRICS.parent, version=package_version())
    readme = render_readme(
        run.study,
        content,
        members,
        preprocessing,
        opset=OPSET if check.files else None,
        checked=check.images,
        differences=check.differences,
    )
    return render_cards(run) | {"README.md": readme}
