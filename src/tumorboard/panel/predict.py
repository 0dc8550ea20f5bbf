"""Predicts the classes of new image files with a panel: decode, crop, classify with each model, vote."""

import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from tumorboard.base.errors import ImageError, InputError, clip, printable
from tumorboard.base.faults import is_shortage
from tumorboard.base.params import Crop, Frames
from tumorboard.base.tables import (
    Members,
    Predictions,
    classes_of,
    make_predictions,
    probabilities_of,
    read_predictions,
)
from tumorboard.data import sources
from tumorboard.data.workers import LARGE_MEMORY, limit_workers, open_workers
from tumorboard.images.crop import crop_file
from tumorboard.images.grey import Pixels, three_channels
from tumorboard.models.inference import crop_logits, softmax
from tumorboard.models.model_file import DISCLAIMER, ModelCard
from tumorboard.panel.panel import Panel, TrainedModel
from tumorboard.panel.votes import VOTES

Decisions: TypeAlias = pd.DataFrame  # one row per image file; `predict_images` states the columns
NewFiles: TypeAlias = pd.DataFrame  # one row per image file: path, known, problem
Probabilities: TypeAlias = NDArray[np.float64]  # [N, K]

CHUNK = 32  # image files that are decoded, and then classified, at a time
_WHOLE_CHUNK_SIDE = 512  # pixels; of larger crops fewer are classified at a time, so that memory stays bounded
NEW = "new"  # the split of the rows of new images in Predictions
SHOWN_PROBLEMS = 10  # files that `summarize_decisions` lists at most


def check_writable(out: Path) -> None:
    """Checks that a table can be written to `out`, so that a mistake is reported before any image is classified.

    Raises:
        InputError: where `out` is a folder or cannot be created.
    """
    if out.is_dir():
        raise InputError(f"{out}: is a folder: name a file, such as {out / 'new.csv'}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise InputError(f"{out}: cannot be written: {error.strerror}") from None


def list_new_files(paths: Sequence[Path]) -> list[Path]:
    """Returns the given files and all files below the given folders, each once.

    Raises:
        InputError: where a path does not exist, or there is no file.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            files += [path / name for name in sources.list_files(path)]
        elif path.exists() or path.is_symlink():
            files.append(path)
        else:
            raise InputError(f"{path}: no such file or folder")
    if not files:
        raise InputError(f"no files in {', '.join(map(str, paths))}")
    return list(dict.fromkeys(files))


def predict_images(
    panel: Panel,
    files: Sequence[Path],
    *,
    frames: Frames,
    vote: str,
    joined: Path | None,
    known: Mapping[str, str],
    workers: int,
    limits: Crop | None = None,
) -> Decisions:
    """Predicts the class of each image file by the vote of a panel.

    Args:
        panel: a model's probabilities are the mean over its folds.
        files: of the images.
        frames: the frame to use of an image with several, as `data.frames` in params.yaml.
        vote: a name in `VOTES`.
        joined: the folder of the models' joined Predictions; only the weighted vote reads it, for the validation rows
            on which its weights are fitted.
        known: the split of each file of the panel's own data, by the file's SHA-256.
        workers: processes that decode and crop.
        limits: its max_bytes and max_pixels hold beside those of the models, whose file may be somebody else's.

    Returns:
        One row per file, in the order of `files`, with the columns

        - `path`: as given.
        - `decided`: the predicted class.
        - `probability`: of that class, from the vote.
        - `agreeing`: how many models predict that class by themselves, as in '3 of 4'.
        - `p_<class>`: the probability of each class, from the vote.
        - `known`: the split in which the panel's own data has this very file, else empty.
        - `problem`: why the file has no prediction, else empty.

    Raises:
        InputError: where no file can be used, a network's output is not finite, or the weighted vote lacks its rows.
    """
    validation = _read_validation(panel, joined) if vote == "weighted" else {}
    rows, probabilities = _crop_and_classify(
        panel, files, crop=_limited(panel.card.crop, limits), frames=frames, known=known, workers=workers
    )
    table = pd.DataFrame(rows, dtype=object)
    usable = table["problem"] == ""
    if not usable.any():
        raise InputError(
            f"none of {len(files)} files can be used; the first is {rows[0]['path']}: {rows[0]['problem']}"
        )
    members = {
        model: _new_predictions(table["path"][usable], np.concatenate(chunks_of_model), panel.card)
        for model, chunks_of_model in probabilities.items()
    }
    return _join_decisions(table, usable, members, _vote_on_new(members, validation, vote))


def _crop_and_classify(
    panel: Panel, files: Sequence[Path], *, crop: Crop, frames: Frames, known: Mapping[str, str], workers: int
) -> tuple[list[dict[str, str]], dict[str, list[Probabilities]]]:
    """Returns one row per file (path, known, problem), and per model the probabilities of the usable files by chunk."""
    rows: list[dict[str, str]] = []
    probabilities: dict[str, list[Probabilities]] = {model: [] for model in panel.models}
    chunks = [files[start : start + CHUNK] for start in range(0, len(files), CHUNK)]
    crop_chunk = partial(_crop_new_files, crop=crop, frames=frames)
    # The bar comes first: beside its thread open_workers spawns processes, which is safe where torch has threads too.
    bar = tqdm(desc="predict", total=len(files), unit="image", disable=None)
    with bar, open_workers(limit_workers(min(workers, len(chunks)), LARGE_MEMORY), None) as parallel_map:
        for chunk in parallel_map(crop_chunk, chunks):
            rows += [
                {"path": str(new.file), "known": known.get(new.sha256, ""), "problem": new.problem} for new in chunk
            ]
            if crops := [new.crop for new in chunk if new.crop is not None]:
                for model, folds in panel.models.items():
                    probabilities[model].append(_mean_probabilities(folds, np.stack(crops)))
            bar.update(len(chunk))
    return rows, probabilities


def _limited(crop: Crop, limits: Crop | None) -> Crop:
    if limits is None:
        return crop
    lower = {key: min(getattr(crop, key), getattr(limits, key)) for key in ("max_bytes", "max_pixels")}
    return crop.model_copy(update=lower)


class _NewFile(NamedTuple):
    """What was read and cropped of one image file."""

    file: Path
    sha256: str  # empty where the file cannot be read
    crop: Pixels | None  # uint8[S, S, 3], or None where there is a problem
    problem: str  # empty where there is none


def _crop_new_files(files: Sequence[Path], crop: Crop, frames: Frames) -> list[_NewFile]:
    return [_read_and_crop(file, crop, frames) for file in files]


def _read_and_crop(file: Path, crop: Crop, frames: Frames) -> _NewFile:
    if not file.is_file():
        return _NewFile(file, "", None, "unreadable: not a regular file" if file.exists() else "broken or outward link")
    digest = ""
    try:
        content = sources.read_image_bytes(file, crop.max_bytes)
        digest = sha256(content).hexdigest()
        return _NewFile(file, digest, three_channels(crop_file(content, crop, frames).square), "")
    except ImageError as error:
        return _NewFile(file, digest, None, str(error))
    except OSError as error:
        if is_shortage(error):
            raise
        return _NewFile(file, digest, None, f"unreadable: {error.strerror}")


def _mean_probabilities(folds: Sequence[TrainedModel], crops: Pixels) -> Probabilities:
    """Returns the mean over a model's folds of the class probabilities, float64[N, K], of crops uint8[N, S, S, 3]."""
    by_fold = []
    for file, network, card in folds:
        device = network.mean.device
        # fp16 needs CUDA; on a CPU float32 is used instead, which fp16 only approximates.
        precision = "off" if card.recipe.precision == "fp16" and device.type == "cpu" else card.recipe.precision
        batch = max(1, CHUNK * _WHOLE_CHUNK_SIDE**2 // crops[0].shape[0] ** 2)
        parts = [
            crop_logits(
                network,
                crops[start : start + batch],
                precision=precision,
                channels_last=card.recipe.channels_last,
                device=device,
            )
            for start in range(0, len(crops), batch)
        ]
        logits = np.concatenate(parts)
        if not np.isfinite(logits).all():
            raise InputError(f"{file}: the network's outputs are not finite: check whether its weights are damaged")
        by_fold.append(softmax(logits))
    return np.asarray(np.mean(by_fold, axis=0))


def _new_predictions(paths: pd.Series, probabilities: Probabilities, card: ModelCard) -> Predictions:
    rows = pd.DataFrame({"id": paths, "group": paths, "split": NEW, "label": ""}, dtype=object)
    return make_predictions(rows, probabilities, card.classes, card.manifest)


def _read_validation(panel: Panel, joined: Path | None) -> dict[str, Predictions]:
    """Reads each model's validation rows; raises InputError where they are of another manifest or of other classes."""
    if joined is None:
        raise InputError("the weighted vote needs a run's validation rows: choose hard, soft or product")
    validation = {}
    for model in panel.models:
        table = read_predictions(joined / f"{model}.csv")
        if table["manifest"].iloc[0] != panel.card.manifest or tuple(classes_of(table)) != panel.card.classes:
            raise InputError(
                f"{joined / model}.csv: is of manifest {table['manifest'].iloc[0]}, but the models were trained on "
                f"{panel.card.manifest}: bring both up to date (dvc repro), or choose another vote"
            )
        validation[model] = table[table["split"] == "val"]
    return validation


def _vote_on_new(members: Members, validation: Members, vote: str) -> Predictions:
    """Applies a vote to new rows; the validation rows are only there for a vote that is fitted on them."""
    with_validation = {
        model: pd.concat([validation[model], table], ignore_index=True) if validation else table
        for model, table in members.items()
    }
    voted = VOTES[vote](with_validation)
    return voted[voted["split"] == NEW].reset_index(drop=True)


def _join_decisions(table: NewFiles, usable: pd.Series, members: Members, voted: Predictions) -> Decisions:
    """Adds the columns of the vote to the rows of the usable files; the other rows get missing values."""
    names = np.array(classes_of(voted), dtype=object)
    probabilities = probabilities_of(voted)
    choice = probabilities.argmax(1)
    agreeing = sum((probabilities_of(member).argmax(1) == choice).astype(int) for member in members.values())
    columns = pd.DataFrame({"decided": names[choice], "probability": probabilities.max(1)}, index=table.index[usable])
    columns["agreeing"] = [f"{count} of {len(members)}" for count in agreeing]
    for column, name in enumerate(names):
        columns[f"p_{name}"] = probabilities[:, column]
    order = ["path", "decided", "probability", "agreeing", *(f"p_{name}" for name in names), "known", "problem"]
    return table.join(columns)[order]


def summarize_decisions(decisions: Decisions, panel: Panel, vote: str) -> list[str]:
    """Returns lines of text for the reader of a table: counts, files of the panel's own data, problems, intended use.

    Args:
        decisions: as `predict_images` returns them.
        panel: the panel that made them.
        vote: the vote that made them.
    """
    predicted = decisions[decisions["problem"] == ""]
    counts = predicted["decided"].value_counts().to_dict()
    lines = [
        f"{len(predicted)} of {len(decisions)} files classified by {len(panel.models)} models, {vote} vote: "
        + ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    ]
    if (decisions["known"] != "").any():
        lines.append(f"{int((decisions['known'] != '').sum())} files are in the panel's own data (column known)")
    problems = decisions[decisions["problem"] != ""][["path", "problem"]].head(SHOWN_PROBLEMS)
    lines += [f"not classified: {printable(path)}: {problem}" for path, problem in problems.to_numpy()]
    if (use := panel.card.intended_use) != DISCLAIMER:
        lines.append(f"the model file says of its use: {clip(use, 300)!r}")
    return [*lines, DISCLAIMER]
