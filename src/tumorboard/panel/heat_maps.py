"""Maps of the evidence that networks see in crops: their file, and how they are drawn. Needs no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from tumorboard.base.errors import InputError
from tumorboard.base.files import read_table, replacing, write_table
from tumorboard.data.store import CropBatch
from tumorboard.panel.examples import EXAMPLES, Examples

Maps: TypeAlias = NDArray[np.float32]  # [N, S, S], 0 to 1

VOTE = "vote"  # the name of the panel's map, beside those of its models
STRENGTH = 0.65  # the largest opacity of the colors over the picture
_WARMEST = 0.82  # upper end on the color scale; a bright picture hides the colors beyond
LEVELS = 255  # levels of a map in a file, besides 0
_MEMBER = "member/"  # prefix of a model's name, so that no model is taken for the vote


@dataclass(frozen=True)
class ExplainedExamples:
    """Images of one part of the data, and where the panel sees the evidence for the class that it decided for."""

    examples: Examples  # N rows
    members: Mapping[str, Maps]  # maps by model; a model without any map, such as `linear`, is left out
    vote: Maps | None  # None: no model that the vote counts has a map


def write_explained(explained: ExplainedExamples, folder: Path) -> None:
    """Writes examples.csv and maps.safetensors, in which a map has 256 levels."""
    maps = {_MEMBER + name: one for name, one in explained.members.items()}
    maps |= {} if explained.vote is None else {VOTE: explained.vote}
    write_table(explained.examples, folder / "examples.csv")
    with replacing(folder / "maps.safetensors") as temporary:
        temporary.write_bytes(save({name: np.rint(LEVELS * one).astype(np.uint8) for name, one in maps.items()}))


def read_explained(folder: Path) -> ExplainedExamples:
    """Reads what `write_explained` wrote.

    Raises:
        InputError: a file is missing or damaged, or has maps of other images.
    """
    table = read_table(folder / "examples.csv")
    if list(table.columns) != list(EXAMPLES):
        raise InputError(f"{folder / 'examples.csv'}: columns are {list(table.columns)}, expected {list(EXAMPLES)}")
    examples = table.astype({"probability": np.float64})
    arrays = read_named_arrays(folder / "maps.safetensors")
    if any(one.dtype != np.uint8 or one.ndim != 3 or len(one) != len(examples) for one in arrays.values()):
        raise InputError(f"{folder / 'maps.safetensors'}: has no map per row of examples.csv: run `dvc repro explain`")
    # safetensors returns them in an order that differs from process to process.
    maps = {name: arrays[name].astype(np.float32) / np.float32(LEVELS) for name in sorted(arrays)}
    members = {name.removeprefix(_MEMBER): one for name, one in maps.items() if name.startswith(_MEMBER)}
    return ExplainedExamples(examples, members, maps.get(VOTE))


def read_named_arrays(file: Path) -> dict[str, NDArray[np.generic]]:
    """Reads a safetensors file of arrays by name.

    Raises:
        InputError: the file is missing or damaged.
    """
    try:
        arrays: dict[str, NDArray[np.generic]] = load(file.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{file}: is not there: `dvc repro` writes it, `dvc pull` fetches it") from None
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file}: is damaged: {error}") from None
    return arrays


def draw_maps(crops: CropBatch, maps: Maps) -> CropBatch:
    """Returns crops uint8[N, S, S, 3] in grey with their maps in colors over them: the warmer, the more evidence.

    A place without evidence shows the grey picture alone. It is grey since stains have the colors of the scale.
    """
    grey = np.stack([cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY) for crop in crops])[..., None]
    levels = (255 * _WARMEST * maps).astype(np.uint8)
    colors = np.stack([cv2.applyColorMap(one, cv2.COLORMAP_INFERNO)[:, :, ::-1] for one in levels])
    strength = STRENGTH * maps[..., None]
    drawn: CropBatch = np.rint((1 - strength) * grey + strength * colors).astype(np.uint8)
    return drawn
