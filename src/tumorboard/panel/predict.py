"""Predicts the classes of new image files with a panel: decode, crop, classify with each model, vote."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tumorboard.base.errors import InputError, clip, printable
from tumorboard.base.params import Crop, Frames
from tumorboard.base.progress import Progress
from tumorboard.data.new_files import Decoders, crop_new_files
from tumorboard.evaluation.temperature import apply_temperature, softmax
from tumorboard.images.grey import Pixels
from tumorboard.panel.deciding import Deciding
from tumorboard.panel.fitted import apply_vote
from tumorboard.panel.panel import Panel
from tumorboard.panel.panel_file import DISCLAIMER
from tumorboard.panel.unlike import panel_scores, unlike_scores

Decisions: TypeAlias = pd.DataFrame  # one row per image file; `predict_images` states the columns
NewFiles: TypeAlias = pd.DataFrame  # one row per image file: path, known, problem
Probabilities: TypeAlias = NDArray[np.float64]  # [N, K]

HERE = Decoders()  # this process decodes
SHOWN_PROBLEMS = 10  # the most files that `summarize_decisions` lists


def check_writable(out: Path) -> None:
    """Checks that a table can be written to `out`, so that a mistake is reported before any image is classified.

    Raises:
        InputError: where `out` is a folder or cannot be created.
    """
    if out.is_dir():
        raise InputError(f"{out}: is a folder: name a file in it")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"{out}: cannot be written: {out.parent} is no folder") from None
    except OSError as error:
        raise InputError(f"{out}: cannot be written: {error.strerror}") from None


def predict_images(
    panel: Panel,
    files: Sequence[Path],
    *,
    deciding: Deciding,
    frames: Frames,
    known: Mapping[str, str],
    decoders: Decoders = HERE,
    limits: Crop | None = None,
) -> Decisions:
    """Predicts the class of each image file by the vote of a panel.

    Args:
        panel: a model's probabilities are the mean over its folds, each after the model's temperature.
        files: the image files.
        deciding: vote, temperatures, weights, threshold.
        frames: which frame of an image with several is used, as `data.frames` in params.yaml.
        known: the split of each file of the panel's own data, by the file's SHA-256.
        decoders: where the files are decoded and cropped.
        limits: its max_bytes and max_pixels apply beside those of the models, whose files may be untrusted.

    Returns:
        One row per file, in the order of `files`, with the columns

        - `path`: the file as given.
        - `decided`: the predicted class; empty where its probability is below `deciding.abstain`.
        - `probability`: the vote's probability of that class, or of the class that `deciding.abstain` left undecided.
        - `agreeing`: how many models predict that class by themselves, as in '3 of 4'.
        - `p_<class>`: the probability of each class, from the vote.
        - `threshold`: the probability of `deciding.positive` from which this class is decided; missing where the vote
          has none and the most probable class is decided.
        - `unlike`: how unlike the training images it is; from 1 on it is called unlike; missing where it is not scored.
        - `known`: the split in which the panel's own data has this very file, else empty.
        - `problem`: why the file has no prediction, else empty.

    Raises:
        InputError: where no file can be used, a network's output is not finite, the vote lacks its fitted numbers or
            columns, or a machine of a cluster cannot decode as this one.
    """
    deciding.check_vote()
    rows, outputs = _crop_and_classify(
        panel,
        files,
        deciding=deciding,
        crop=limited(panel.card.crop, limits),
        frames=frames,
        known=known,
        decoders=decoders,
    )
    if not outputs:
        raise InputError(
            f"none of {len(files)} files can be used; the first is {rows[0]['path']}: {rows[0]['problem']}"
        )
    return join_decisions(rows, outputs, deciding, panel.card.classes)


def _crop_and_classify(
    panel: Panel,
    files: Sequence[Path],
    *,
    deciding: Deciding,
    crop: Crop,
    frames: Frames,
    known: Mapping[str, str],
    decoders: Decoders,
) -> tuple[list[dict[str, str]], list["Outputs"]]:
    """Returns one row per file (path, known, problem), and the panel's outputs for the usable files by chunk."""
    rows: list[dict[str, str]] = []
    outputs: list[Outputs] = []
    with Progress("predict", len(files), "image") as bar:
        for chunk, cropped in crop_new_files(files, crop, frames, decoders):
            rows += [
                {"path": str(file), "known": known.get(new.sha256, ""), "problem": new.problem}
                for file, new in zip(chunk, cropped, strict=True)
            ]
            if crops := [new.crop for new in cropped if new.crop is not None]:
                outputs.append(classify_crops(panel, np.stack(crops), deciding))
            bar.update(len(chunk))
    return rows, outputs


class Outputs(NamedTuple):
    """The outputs of a panel's models for N images."""

    members: Probabilities  # [M, N, K], calibrated probabilities
    unlike: NDArray[np.float64]  # [N], the panel's score; nan where it is not wanted


def classify_crops(panel: Panel, crops: Pixels, deciding: Deciding) -> Outputs:
    """Runs all models on crops uint8[N, S, S, 3].

    Raises:
        InputError: a network's output is not finite.
    """
    members, unlike = [], []
    for model, temperature in deciding.fit.temperatures.items():
        by_fold = []
        for trained in panel.models[model]:
            logits, features = trained.outputs(crops)
            if not np.isfinite(logits).all():
                raise InputError(
                    f"{trained.file}: the network's outputs are not finite: check whether its weights are damaged"
                )
            by_fold.append(apply_temperature(softmax(logits.astype(np.float64)), temperature))
            if deciding.unlike is not None and trained.unlike is not None:
                unlike.append(unlike_scores(trained.unlike, features, crops))
        members.append(np.mean(by_fold, axis=0))
    return Outputs(np.stack(members), panel_scores(unlike) if unlike else np.full(len(crops), np.nan))


def limited(crop: Crop, limits: Crop | None) -> Crop:
    """Returns a crop whose max_bytes and max_pixels do not exceed those of `limits`."""
    if limits is None:
        return crop
    lower = {key: min(getattr(crop, key), getattr(limits, key)) for key in ("max_bytes", "max_pixels")}
    return crop.model_copy(update=lower)


def join_decisions(
    rows: Sequence[Mapping[str, str]], outputs: Sequence[Outputs], deciding: Deciding, classes: Sequence[str]
) -> Decisions:
    """Returns the table of `predict_images`.

    Args:
        rows: path, known and problem of each file.
        outputs: outputs for the files without a problem, in their order.
        deciding: vote and threshold.
        classes: names of the K classes.
    """
    table: NewFiles = pd.DataFrame(rows, dtype=object)
    order = [
        "path",
        "decided",
        "probability",
        "agreeing",
        *(f"p_{name}" for name in classes),
        "threshold",
        "unlike",
        "known",
        "problem",
    ]
    if not outputs:
        return table.reindex(columns=order)
    usable = table["problem"] == ""
    columns = _decide(table["path"][usable].tolist(), outputs, deciding, classes)
    return table.join(columns.set_index(table.index[usable]))[order]


def _decide(
    paths: Sequence[str], outputs: Sequence[Outputs], deciding: Deciding, classes: Sequence[str]
) -> pd.DataFrame:
    """Returns the columns of the vote for the files that were classified."""
    names = np.array(classes, dtype=object)
    members = np.concatenate([output.members for output in outputs], axis=1)
    probabilities = apply_vote(deciding.fit, deciding.vote, members, deciding.cells_of(paths))
    choice = probabilities.argmax(1)
    if deciding.threshold is not None and deciding.positive is not None:
        positive = list(classes).index(deciding.positive)
        choice = np.where(probabilities[:, positive] >= deciding.threshold, positive, 1 - positive)
    stated = probabilities[np.arange(len(choice)), choice]
    agreeing = (members.argmax(2) == choice).sum(0)
    columns = pd.DataFrame({"decided": names[choice], "probability": stated})
    columns.loc[stated < deciding.abstain, "decided"] = ""
    columns["agreeing"] = [f"{count} of {len(members)}" for count in agreeing]
    for column, name in enumerate(names):
        columns[f"p_{name}"] = probabilities[:, column]
    columns["threshold"] = np.nan if deciding.threshold is None else deciding.threshold
    columns["unlike"] = np.nan
    if deciding.unlike is not None:
        columns["unlike"] = 1 + np.concatenate([output.unlike for output in outputs]) - deciding.unlike
    return columns


def summarize_decisions(decisions: Decisions, panel: Panel, deciding: Deciding) -> list[str]:
    """Returns lines of text for the reader of a table: counts, files of the panel's own data, problems, intended use.

    Args:
        decisions: as `predict_images` returns them.
        panel: the panel that made them.
        deciding: the vote and the threshold that made them.
    """
    predicted = decisions[decisions["problem"] == ""]
    counts = predicted["decided"].value_counts().to_dict()
    lines = [
        f"{len(predicted)} of {len(decisions)} files classified by {len(panel.models)} models, {deciding.vote} vote: "
        + ", ".join(f"{name or 'undecided'} {count}" for name, count in sorted(counts.items()))
    ]
    if deciding.threshold is not None:
        lines.append(
            f"{deciding.positive} is decided from a probability of {deciding.threshold:.4f} on, a threshold chosen on "
            "validation images"
        )
    if deciding.unlike is not None and (count := int((predicted["unlike"] >= 1).sum())):
        lines.append(
            f"unlike the training images (column unlike, 1 and above), so that the class is not to be trusted: {count}"
        )
    if (decisions["known"] != "").any():
        lines.append(f"in the panel's own data (column known): {int((decisions['known'] != '').sum())}")
    problems = decisions[decisions["problem"] != ""][["path", "problem"]].head(SHOWN_PROBLEMS)
    lines += [f"not classified: {printable(path)}: {problem}" for path, problem in problems.to_numpy()]
    if (use := panel.card.intended_use) != DISCLAIMER:
        lines.append(f"the model file says of its use: {clip(use, 300)!r}")
    return [*lines, DISCLAIMER]
