"""What a package of `tumorboard export` contains, and how a panel is loaded from it.

- `models/<model>/<fold>.safetensors`: the model file as the training wrote it; beside it its card as JSON.
- `unlike/<model>/<fold>.safetensors`: the statistics of its training images.
- `onnx/<model>/<fold>.onnx`: the same network for onnxruntime, where it was asked for.
- `panel.json`: what was fitted on validation images. `preprocessing.json`: how an image file becomes a crop.
- `known.csv`: the split of each image file of the study, by the file's SHA-256.
- README.md and model cards, for people.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple, TypeAlias, TypeVar

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tumorboard.base.errors import InputError, clip, printable
from tumorboard.base.files import table_bytes
from tumorboard.base.params import Crop, Frames
from tumorboard.panel.package_file import Package, PackedModel, open_package
from tumorboard.panel.panel import Panel, PanelModel, join_models
from tumorboard.panel.panel_file import PanelFile, parse_panel

PANEL = "panel.json"
PREPROCESSING = "preprocessing.json"
KNOWN = "known.csv"
_HEADER = "sha256,split"  # header line of KNOWN

Model = TypeVar("Model", bound=BaseModel)
# Loads one model of an open package; the folder is for temporary files.
LoadPacked: TypeAlias = Callable[[Package, PackedModel, Path], PanelModel]


class Preprocessing(BaseModel):
    """How an image file becomes a crop, and when an image is left undecided."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    crop: Crop
    frames: Frames
    abstain: Annotated[float, Field(ge=0, le=1)]


class ModelFiles(NamedTuple):
    """The files of one model of a panel."""

    name: str
    fold: int
    weights: Path
    unlike: Path
    card: str  # the card as JSON
    onnx: Path | None


@dataclass(frozen=True)
class PackedPanel:
    """The content of a package."""

    panel: Panel
    content: PanelFile
    preprocessing: Preprocessing
    known: Mapping[str, str]  # split of each image file of the study, by the file's SHA-256


def package_entries(
    models: Sequence[ModelFiles],
    *,
    panel: Path,
    preprocessing: Preprocessing,
    known: Mapping[str, str],
    texts: Mapping[str, str],
) -> tuple[dict[str, bytes | Path], list[PackedModel]]:
    """Returns the entries of a package and the names of each model's entries.

    Args:
        models: the files of each model, in the order of the panel.
        panel: the study's models/panel.json.
        preprocessing: the study's preprocessing.
        known: split of each image file of the study, by the file's SHA-256.
        texts: further entries by name.
    """
    table = pd.DataFrame(sorted(known.items()), columns=_HEADER.split(","), dtype=object)
    entries: dict[str, bytes | Path] = {name: text.encode() for name, text in texts.items()}
    entries |= {PANEL: panel, KNOWN: table_bytes(table)}
    entries[PREPROCESSING] = (preprocessing.model_dump_json(indent=2) + "\n").encode()
    packed = []
    for one in models:
        stem = f"{one.name}/{one.fold}"
        names = PackedModel(
            weights=f"models/{stem}.safetensors",
            card=f"models/{stem}.json",
            unlike=f"unlike/{stem}.safetensors",
            onnx=f"onnx/{stem}.onnx" if one.onnx else None,
        )
        entries |= {names.weights: one.weights, names.card: one.card.encode(), names.unlike: one.unlike}
        if names.onnx and one.onnx:
            entries[names.onnx] = one.onnx
        packed.append(names)
    return entries, packed


def load_package(path: Path, load: LoadPacked) -> PackedPanel:
    """Loads a package.

    Args:
        path: the package.
        load: loads one model, with torch or onnxruntime.

    Raises:
        InputError: the package or an entry of it is missing, damaged, altered, or does not belong to the others.
    """
    with open_package(path) as package, tempfile.TemporaryDirectory(prefix="tumorboard-") as folder:
        for name in (PANEL, PREPROCESSING, KNOWN):
            if name not in package.manifest.entries:
                raise InputError(f"{package.where(name)}: is missing from the package: get it again")
        panel = join_models(load(package, packed, Path(folder)) for packed in package.manifest.models)
        card = panel.card
        content = parse_panel(
            _text(package, PANEL),
            package.where(PANEL),
            list(panel.models),
            classes=card.classes,
            manifest=card.manifest,
        )
        return PackedPanel(panel, content, read_preprocessing(package), _read_known(package))


def read_preprocessing(package: Package) -> Preprocessing:
    """Returns the preprocessing of a package; raises InputError where it cannot be read."""
    return parse_json(Preprocessing, package, PREPROCESSING)


def parse_json(kind: type[Model], package: Package, name: str) -> Model:
    """Returns an entry of JSON as a pydantic model; raises InputError with the field that is wrong."""
    try:
        return kind.model_validate_json(package.read(name))
    except ValidationError as error:
        fault = error.errors()[0]
        field = printable(clip(".".join(map(str, fault["loc"])))) or "the whole"
        raise InputError(f"{package.where(name)}: {field}: {printable(clip(fault['msg'], 300))}") from None


def _text(package: Package, name: str) -> str:
    try:
        return package.read(name).decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{package.where(name)}: is no text: {error}") from None


def _read_known(package: Package) -> dict[str, str]:
    header, *lines = _text(package, KNOWN).splitlines() or [""]
    rows = [tuple(line.split(",")) for line in lines]
    if header != _HEADER or any(len(row) != len(_HEADER.split(",")) for row in rows):
        raise InputError(f"{package.where(KNOWN)}: is not a table with the columns {_HEADER}")
    return {digest: printable(clip(split)) for digest, split in rows}
