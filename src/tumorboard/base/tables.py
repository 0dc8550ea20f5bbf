"""The two tables that the stages exchange: Manifest (one row per image), Predictions (one row per predicted image)."""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tumorboard.base.errors import InputError
from tumorboard.base.files import read_table

# pyarrow, which pandas uses for text where it is installed, cannot hold file names that are not UTF-8.
pd.set_option("mode.string_storage", "python")

Manifest: TypeAlias = pd.DataFrame  # one row per image; `check_manifest` states the columns
Predictions: TypeAlias = pd.DataFrame  # one row per predicted image; `check_predictions` states the columns
Images: TypeAlias = pd.DataFrame  # one row per image file: id, pixels (a digest), width, height, bytes, format, ...
Members: TypeAlias = Mapping[str, Predictions]  # the Predictions of each model by its name

MANIFEST = ("id", "path", "label", "group", "split", "fold", "source_id", "sha256")
PREDICTIONS = ("id", "group", "split", "label")
SPLITS = ("train", "val", "test")
GENERATED = (
    "//generated"  # path, group, source_id and sha256 of a generated image; no path contains two slashes in a row
)


def copy_id(parent: str, number: int) -> str:
    """Returns the id of an altered copy; no image has it, since no path contains two slashes in a row.

    >>> copy_id("blast/P01_3.jpg", 2)
    'blast/P01_3.jpg//2'
    """
    return f"{parent}//{number}"


def generated_id(label: str, number: int) -> str:
    """Returns the id of a generated image of a class; no image and no copy has it.

    >>> generated_id("blast", 2)
    'blast//g2'
    """
    return f"{label}//g{number}"


def is_generated(manifest: Manifest) -> "pd.Series[bool]":
    """Returns which rows of a Manifest are generated images, which belong to no patient."""
    return manifest["source_id"] == GENERATED


def check_manifest(manifest: Manifest, where: str) -> Manifest:
    """Checks a Manifest and returns it.

    All columns but `fold` are text:
        id: unique; an original's path, `copy_id` of a copy, or `generated_id` of a generated image, whose path, group,
            source_id and sha256 are GENERATED.
        path: relative to the raw folder, with slashes.
        label: class name, not empty.
        group: patient, smear or slide, not empty.
        split: '' (not yet split), 'train', 'val' or 'test'.
        fold: Int64, the fold that validates on this 'train' row, or missing.
        source_id: id of the original; its own id for an original.
        sha256: SHA-256 of the original's file.

    Args:
        manifest: the table.
        where: its file, for the message.

    Raises:
        InputError: names the column or row that is wrong.
    """
    if tuple(manifest.columns) != MANIFEST:
        raise InputError(f"{where}: columns are {list(manifest.columns)}, expected {list(MANIFEST)}")
    if twice := manifest["id"][manifest["id"].duplicated()].tolist():
        raise InputError(f"{where}: id '{twice[0]}' is in more than one row")
    for column in ("id", "path", "label", "group", "source_id", "sha256"):
        if (empty := manifest[column].eq("")).any():
            raise InputError(f"{where}: row {int(np.argmax(empty)) + 2}: {column} is empty")
    if wrong := sorted(set(manifest["split"]) - {"", *SPLITS}):
        raise InputError(f"{where}: split is '{wrong[0]}', expected one of {', '.join(SPLITS)} or nothing")
    return manifest


def read_manifest(path: Path | str) -> Manifest:
    """Reads a Manifest and checks it; raises InputError."""
    frame = read_table(path)
    if "fold" in frame:
        frame["fold"] = pd.array([int(text) if text else None for text in frame["fold"]], dtype="Int64")
    return check_manifest(frame, str(path))


def manifest_digest(manifest: Manifest) -> str:
    """Returns 16 hexadecimal digits that identify a Manifest's rows beyond the test part, whatever their order.

    They stand for the images that a model is trained and validated on. The test part changes no model.
    """
    text = (
        manifest[manifest["split"] != "test"].sort_values("id")[list(MANIFEST)].to_csv(index=False, lineterminator="\n")
    )
    return sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def make_predictions(
    rows: Manifest, probabilities: NDArray[np.floating[Any]], classes: Sequence[str], digest: str
) -> Predictions:
    """Makes Predictions from Manifest rows and probabilities.

    Args:
        rows: N rows of a Manifest. `split` is the part that the row was in for the model: 'val' or 'test'.
        probabilities: float[N, K].
        classes: the K class names, in the order of the columns.
        digest: the Manifest's digest (`manifest_digest`).

    Returns:
        id, group, split, label of the rows, `p_<class>` (float64) per class, and `manifest`, the digest.
    """
    frame = rows[list(PREDICTIONS)].reset_index(drop=True)
    for column, name in enumerate(classes):
        frame[f"p_{name}"] = np.asarray(probabilities, dtype=np.float64)[:, column]
    frame["manifest"] = digest
    return check_predictions(frame, "predictions")


def classes_of(predictions: Predictions) -> list[str]:
    """Returns the class names of Predictions, in the order of their columns."""
    return [column[2:] for column in predictions.columns if column.startswith("p_")]


def probabilities_of(predictions: Predictions) -> NDArray[np.float64]:
    """Returns the probabilities of Predictions, float64[N, K]."""
    return predictions[[f"p_{name}" for name in classes_of(predictions)]].to_numpy(np.float64)


def check_predictions(predictions: Predictions, where: str) -> Predictions:
    """Checks Predictions and returns them.

    Columns: id, group, split, label ('' where unknown), p_<class> for each of two or more classes, manifest. Rows are
    unique by (id, split); probabilities are finite, not negative, and sum to 1; all rows have one manifest digest.

    Args:
        predictions: the table.
        where: its file, for the message.

    Raises:
        InputError: names the column or row that is wrong.
    """
    expected = [*PREDICTIONS, *(f"p_{name}" for name in classes_of(predictions)), "manifest"]
    if list(predictions.columns) != expected or len(expected) < len(PREDICTIONS) + 3:
        raise InputError(
            f"{where}: columns are {list(predictions.columns)}, expected {', '.join(PREDICTIONS)}, p_<class> for "
            "each of two or more classes, manifest"
        )
    if twice := predictions["id"][predictions.duplicated(["id", "split"])].tolist():
        raise InputError(f"{where}: id '{twice[0]}' is in more than one row")
    if unknown := sorted(set(predictions["label"]) - set(classes_of(predictions)) - {""}):
        raise InputError(f"{where}: label '{unknown[0]}' has no column p_{unknown[0]}")
    if predictions["manifest"].nunique() > 1:
        raise InputError(f"{where}: rows of several manifests: {sorted(predictions['manifest'].unique())}")
    probabilities = probabilities_of(predictions)
    off = ~(np.isfinite(probabilities).all(1) & (np.abs(probabilities.sum(1) - 1) < 1e-3) & (probabilities >= 0).all(1))
    if off.any():
        row = int(np.argmax(off))
        raise InputError(f"{where}: row {row + 2}: {probabilities[row].tolist()} are not probabilities that sum to 1")
    return predictions


def read_predictions(path: Path | str) -> Predictions:
    """Reads Predictions and checks them; raises InputError."""
    return check_predictions(read_table(path, number_prefix="p_"), str(path))
