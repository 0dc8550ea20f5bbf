"""Arrays in files: what is written is read, and a missing, damaged or foreign file is one message."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tumorboard.base.arrays import read_arrays, write_arrays
from tumorboard.base.errors import InputError


@dataclass(frozen=True)
class Pair:
    weights: np.ndarray
    parts: np.ndarray


@dataclass(frozen=True)
class Other:
    weights: np.ndarray


def test_what_is_written_is_read_with_type_and_shape_and_equal_bytes(tmp_path: Path) -> None:
    # A transposed array is no contiguous one: its bytes alone would be read in another order.
    pair = Pair(np.arange(6, dtype=np.float32).reshape(2, 3).T, np.array([], dtype=np.int64))
    for name in ("first", "second"):
        write_arrays(pair, tmp_path / name)
    read = read_arrays(Pair, tmp_path / "first")
    assert read.weights.tolist() == [[0, 3], [1, 4], [2, 5]]
    assert (read.weights.dtype, read.parts.dtype, read.parts.shape) == (np.float32, np.int64, (0,))
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


def test_a_missing_damaged_or_foreign_file_is_one_message(tmp_path: Path) -> None:
    file = tmp_path / "arrays"
    with pytest.raises(InputError, match="arrays: is not there: `dvc repro` writes it"):
        read_arrays(Pair, file)
    write_arrays(Pair(np.zeros(9), np.zeros(9)), file)
    with pytest.raises(InputError, match="arrays: is damaged"):
        read_arrays(Other, file)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InputError, match="arrays: is damaged"):
        read_arrays(Pair, file)
