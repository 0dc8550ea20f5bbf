"""Writes and reads a dataclass of NumPy arrays as safetensors, which holds no code."""

from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from tumorboard.base.errors import InputError
from tumorboard.base.files import replacing

Arrays = TypeVar("Arrays")


def write_arrays(arrays: Any, path: Path) -> None:
    """Writes the fields of a dataclass, all of them arrays; equal arrays give equal bytes."""
    with replacing(path) as temporary:
        temporary.write_bytes(save({name: np.ascontiguousarray(array) for name, array in vars(arrays).items()}))


def read_arrays(kind: type[Arrays], path: Path) -> Arrays:
    """Reads what `write_arrays` wrote.

    Args:
        kind: the dataclass.
        path: the file.

    Raises:
        InputError: the file is missing, or damaged, or has other fields.
    """
    try:
        return kind(**load(path.read_bytes()))
    except FileNotFoundError:
        raise InputError(f"{path}: is not there: `dvc repro` writes it, `dvc pull` fetches it") from None
    except (SafetensorError, TypeError, OSError) as error:
        raise InputError(f"{path}: is damaged: {error}") from None
