"""The two tables that everything speaks: Manifest (one row an image) and Predictions (one row a judged image)."""

import csv
import io
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tumorboard.errors import InputError

MANIFEST = ("id", "path", "label", "group", "split", "fold", "source_id", "sha256")
PREDICTIONS = ("id", "group", "split", "label")
SPLITS = ("train", "val", "test")


def copy_id(parent: str, number: int) -> str:
    """The id of an altered copy. No path holds two slashes in a row, so that it cannot be an image's own id."""
    return f"{parent}//{number}"


def check_manifest(manifest: pd.DataFrame, where: str) -> pd.DataFrame:
    """Check a Manifest and return it; raises InputError.

    Columns, all text but the fold: `id` unique (the path of an original, `copy_id` of a copy); `path` relative to the
    raw folder, POSIX; `label`, `group` not empty; `split` '' (not yet split), 'train', 'val' or 'test'; `fold` Int64,
    the fold in which a 'train' row is validation, or missing; `source_id` the id of the original (its own id for one);
    `sha256` of the original's file.
    """
    if tuple(manifest.columns) != MANIFEST:
        raise InputError(f"{where}: columns are {list(manifest.columns)}, expected {list(MANIFEST)}")
    if twice := manifest["id"][manifest["id"].duplicated()].tolist():
        raise InputError(f"{where}: id '{twice[0]}' stands in more than one row")
    for column in ("id", "path", "label", "group", "source_id", "sha256"):
        if (empty := manifest[column].eq("")).any():
            raise InputError(f"{where}: row {int(np.argmax(empty)) + 2}: {column} is empty")
    if wrong := sorted(set(manifest["split"]) - {"", *SPLITS}):
        raise InputError(f"{where}: split is '{wrong[0]}', expected one of {', '.join(SPLITS)} or nothing")
    return manifest


def read_manifest(path: Path | str) -> pd.DataFrame:
    """Read and check a Manifest; raises InputError."""
    frame = read_table(path)
    if "fold" in frame:
        frame["fold"] = pd.array([int(text) if text else None for text in frame["fold"]], dtype="Int64")
    return check_manifest(frame, str(path))


def manifest_digest(manifest: pd.DataFrame) -> str:
    """16 hexadecimal digits that name a Manifest's content, whatever the order of its rows."""
    text = manifest.sort_values("id")[list(MANIFEST)].to_csv(index=False, lineterminator="\n")
    return sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def make_predictions(
    rows: pd.DataFrame, probabilities: NDArray[np.floating[Any]], classes: Sequence[str], digest: str
) -> pd.DataFrame:
    """Predictions for Manifest rows: a column `p_<class>` (float64) for each class, and the manifest's digest.

    `probabilities` is float[N, K]; `split` says what the row was to the model that judged it: 'val' or 'test'.
    """
    frame = rows[list(PREDICTIONS)].reset_index(drop=True)
    for column, name in enumerate(classes):
        frame[f"p_{name}"] = np.asarray(probabilities, dtype=np.float64)[:, column]
    frame["manifest"] = digest
    return check_predictions(frame, "predictions")


def classes_of(predictions: pd.DataFrame) -> list[str]:
    """The class names of Predictions, in the order of their columns."""
    return [column[2:] for column in predictions.columns if column.startswith("p_")]


def probabilities_of(predictions: pd.DataFrame) -> NDArray[np.float64]:
    """The probabilities of Predictions, float64[N, K]."""
    return predictions[[f"p_{name}" for name in classes_of(predictions)]].to_numpy(np.float64)


def check_predictions(predictions: pd.DataFrame, where: str) -> pd.DataFrame:
    """Check Predictions and return them; raises InputError."""
    expected = [*PREDICTIONS, *(f"p_{name}" for name in classes_of(predictions)), "manifest"]
    if list(predictions.columns) != expected or len(expected) < len(PREDICTIONS) + 3:
        raise InputError(
            f"{where}: columns are {list(predictions.columns)}, expected {', '.join(PREDICTIONS)}, a p_<class> for "
            "each of two or more classes, manifest"
        )
    if twice := predictions["id"][predictions.duplicated(["id", "split"])].tolist():
        raise InputError(f"{where}: id '{twice[0]}' stands in more than one row")
    if unknown := sorted(set(predictions["label"]) - set(classes_of(predictions)) - {""}):
        raise InputError(f"{where}: label '{unknown[0]}' has no column p_{unknown[0]}")
    if predictions["manifest"].nunique() > 1:
        raise InputError(f"{where}: rows of several manifests: {sorted(predictions['manifest'].unique())}")
    probabilities = probabilities_of(predictions)
    off = ~(np.isfinite(probabilities).all(1) & (np.abs(probabilities.sum(1) - 1) < 1e-3) & (probabilities >= 0).all(1))
    if off.any():
        row = int(np.argmax(off))
        raise InputError(f"{where}: row {row + 2}: {probabilities[row].tolist()} are no probabilities that add up to 1")
    return predictions


def read_predictions(path: Path | str) -> pd.DataFrame:
    """Read and check Predictions; raises InputError."""
    frame = read_table(path)
    for name in classes_of(frame):
        try:
            frame[f"p_{name}"] = frame[f"p_{name}"].astype(np.float64)
        except ValueError as error:
            raise InputError(f"{path}: column p_{name}: {error}") from None
    return check_predictions(frame, str(path))


def read_table(path: Path | str) -> pd.DataFrame:
    """Read a CSV of this project: every value as it is written, an empty one as ''; raises InputError."""
    try:
        return pd.read_csv(path, dtype=object, na_filter=False, encoding="utf-8", encoding_errors="surrogateescape")
    except FileNotFoundError:
        raise InputError(f"{path}: no such table") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise InputError(f"{path}: not a table: {error}") from None


def write_table(table: pd.DataFrame, path: Path | str) -> None:
    """Write a table as CSV: to a temporary name first, so that no half of one is ever seen."""
    buffer = _Lines()
    table.to_csv(buffer, index=False, lineterminator="\r\n", quoting=csv.QUOTE_MINIMAL)
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getvalue().encode("utf-8", "surrogateescape"))


class _Lines(io.StringIO):
    """Takes the rows of a csv.writer, each ended by \\r\\n, so that it quotes both in a cell, and ends them by \\n."""

    def write(self, row: str) -> int:
        return super().write(row.removesuffix("\r\n") + "\n")


def write_json(tree: Mapping[str, Any], path: Path | str) -> None:
    """Write strict JSON, to a temporary name first: what is undefined (NaN) becomes null."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(_strict(tree), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _strict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _strict(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """A temporary name beside `path`, renamed to it on success and removed on failure; makes missing folders."""
    path = Path(path)
    if not path.parent.is_dir():  # a tenth of what mkdir costs to find that out
        path.parent.mkdir(parents=True, exist_ok=True)
    # Not the process's number alone: threads share it, and so may machines that share the folder.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
