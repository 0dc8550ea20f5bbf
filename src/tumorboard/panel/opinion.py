"""A panel's opinion on one image file: the crop that it sees, each member's vote, the decision, the evidence for it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tumorboard.base.errors import InputError, clip
from tumorboard.base.params import Crop, Frames
from tumorboard.data.new_files import read_and_crop
from tumorboard.images.grey import Pixels
from tumorboard.panel.deciding import Deciding
from tumorboard.panel.heat_maps import VOTE, draw_maps
from tumorboard.panel.panel import Panel
from tumorboard.panel.predict import Decisions, classify_crops, join_decisions


@dataclass(frozen=True)
class Opinion:
    """A panel's opinion on one image file."""

    decisions: Decisions  # the row that `predict_images` returns for this file
    members: Mapping[str, NDArray[np.float64]]  # [K] per model, calibrated; empty where the file cannot be used
    crop: Pixels | None  # uint8[S, S, 3], what the models see; None where the file cannot be used


def classify_file(
    panel: Panel,
    file: Path,
    *,
    name: str,
    deciding: Deciding,
    crop: Crop,
    frames: Frames,
    known: Mapping[str, str],
) -> Opinion:
    """Predicts the class of one image file as `predict_images` does, and keeps the votes and the crop.

    Args:
        panel: the models.
        file: the image file.
        name: the text in the column `path`.
        deciding: vote, temperatures, weights, threshold.
        crop: how the file is cropped, and its limits.
        frames: which frame of an image with several is used.
        known: the split of each file of the panel's own data, by the file's SHA-256.

    Raises:
        InputError: a network's output is not finite.
    """
    new = read_and_crop(file, crop, frames)
    rows = [{"path": name, "known": known.get(new.sha256, ""), "problem": new.problem}]
    if new.crop is None:
        return Opinion(join_decisions(rows, [], deciding, panel.card.classes), {}, None)
    outputs = classify_crops(panel, new.crop[None], deciding)
    members = dict(zip(deciding.fit.temperatures, outputs.members[:, 0], strict=True))
    return Opinion(join_decisions(rows, [outputs], deciding, panel.card.classes), members, new.crop)


def explain_file(
    panel: Panel, file: Path, label: str, *, deciding: Deciding, crop: Crop, frames: Frames
) -> dict[str, Pixels]:
    """Returns the crop of a file with heat maps over it: where the models see evidence for a class.

    Args:
        panel: the models.
        file: the image file.
        label: the class.
        deciding: the vote, whose weights average the models' maps into the panel's map.
        crop: how the file is cropped, and its limits.
        frames: which frame of an image with several is used.

    Returns:
        uint8[S, S, 3] by model, and the panel's as VOTE; a model or vote without a map is left out.

    Raises:
        InputError: there is no such class, the file cannot be used, or there are no maps at all.
    """
    classes = panel.card.classes
    if label not in classes:
        raise InputError(f"there is no class {clip(label)!r}; expected one of {', '.join(classes)}")
    new = read_and_crop(file, crop, frames)
    if new.crop is None:
        raise InputError(new.problem)
    try:  # here, because a panel that votes without torch has no maps
        from tumorboard.panel.explain import member_maps, vote_maps
    except ModuleNotFoundError as error:
        raise InputError(f"heat maps need the package {error.name}: pip install 'tumorboard[train]'") from None
    crops = new.crop[None]
    maps, obstacles = member_maps(panel, crops, [classes.index(label)])
    if not maps:
        raise InputError("no heat maps: " + "; ".join(obstacles.values()))
    voted = vote_maps(maps, deciding, list(panel.models))
    with_vote = maps if voted is None else {VOTE: voted} | maps
    return {name: draw_maps(crops, one)[0] for name, one in with_vote.items()}
