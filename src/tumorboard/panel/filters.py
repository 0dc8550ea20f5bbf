"""The filters of first layers before and after training, and their file. Needs no torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from tumorboard.base.errors import InputError
from tumorboard.base.files import replacing
from tumorboard.panel.heat_maps import read_named_arrays


class FirstLayer(NamedTuple):
    """Filters of a network's first layer, the ones that training changed most first."""

    after: NDArray[np.float32]  # [C, h, w, 3]
    before: NDArray[np.float32]  # the same filters before training; no rows where the initial weights are missing
    change: NDArray[np.float32]  # [1], norm of the whole layer's change over the norm of its initial weights, or nan


def write_filters(layers: Mapping[str, FirstLayer], file: Path) -> None:
    """Writes the first layers of models by their names."""
    arrays = {f"{name}/{field}": value for name, layer in layers.items() for field, value in layer._asdict().items()}
    with replacing(file) as temporary:
        temporary.write_bytes(save(arrays))


def read_filters(file: Path, models: tuple[str, ...]) -> dict[str, FirstLayer]:
    """Reads what `write_filters` wrote, in the order of these models; models without a layer are left out.

    Raises:
        InputError: the file is missing or damaged.
    """
    arrays = read_named_arrays(file)
    layers = {}
    for name in models:
        if f"{name}/after" in arrays:
            try:
                layers[name] = FirstLayer(
                    *(arrays[f"{name}/{field}"].astype(np.float32) for field in FirstLayer._fields)
                )
            except KeyError as error:
                raise InputError(f"{file}: has no array {error}: run `dvc repro explain`") from None
    return layers
