"""Compares maps of evidence with boxes around lesions: the pointing game, and the box of the map itself."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from tumorboard.evaluation.clustered import estimate_proportion, estimate_share
from tumorboard.evaluation.intervals import interval_of
from tumorboard.evaluation.sign_flip import flip_signs

Map: TypeAlias = NDArray[np.float32]  # [S, S], 0 to 1
Box: TypeAlias = tuple[float, float, float, float]  # left, top, right, bottom in pixels of the map

CENTER = "center"  # name of the baseline, which always points at the middle of the picture
WARM = 0.5  # share of a map's maximum from which a place belongs to the map's box
PRIOR_SPREAD = 0.25  # standard deviation of the baseline's map, as a share of its side
POINTING, OVERLAP = "pointing", "iou"


class PlaceScores(NamedTuple):
    """The scores of one map against its image's boxes."""

    pointing: bool  # whether the map's maximum is in a box
    iou: float  # intersection over union of the map's box and the box that fits best, 0 to 1


def score_map(values: Map, boxes: Sequence[Box]) -> PlaceScores:
    """Compares a map with the boxes of its image; a map without any evidence points nowhere.

    Args:
        values: the map.
        boxes: one or more, within the map.

    Source:
        Zhang et al. 2018, Top-Down Neural Attention by Excitation Backprop, for the pointing game, here without its
        tolerance around a box; Choe et al. 2020, Evaluating Weakly Supervised Object Localization Methods Right, for
        boxes of maps, here at one level.
    """
    if values.max() <= 0:
        return PlaceScores(False, 0.0)
    y, x = np.argwhere(values == values.max()).mean(0) + 0.5  # the middle of equal maxima
    inside = any(left <= x <= right and top <= y <= bottom for left, top, right, bottom in boxes)
    own = box_of_map(values)
    return PlaceScores(inside, max(overlap(own, box) for box in boxes))


def box_of_map(values: Map) -> Box:
    """Returns the box around the largest connected part of a map that reaches WARM of its maximum.

    >>> values = np.zeros((4, 6), np.float32)
    >>> values[1:3, 2:5] = 0.8
    >>> values[1, 4] = 0.3
    >>> box_of_map(values)
    (2.0, 1.0, 5.0, 3.0)
    """
    warm = (values >= WARM * values.max()).astype(np.uint8)
    _, _, parts, _ = cv2.connectedComponentsWithStats(warm, connectivity=8)
    left, top, width, height, _ = parts[1:][int(parts[1:, cv2.CC_STAT_AREA].argmax())].tolist()
    return float(left), float(top), float(left + width), float(top + height)


def overlap(box: Box, other: Box) -> float:
    """Returns the area of the intersection of two boxes over that of their union.

    >>> overlap((0, 0, 2, 2), (1, 0, 3, 2))  # 2 of 6
    0.3333333333333333
    """
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    common = max(0.0, width) * max(0.0, height)
    areas = sum((right - left) * (bottom - top) for left, top, right, bottom in (box, other))
    return common / (areas - common)


def center_prior(side: int) -> Map:
    """Returns the baseline's map float32[side, side]: a Gaussian around the middle of the picture."""
    distance = (np.arange(side) + 0.5) / side - 0.5
    profile = np.exp(-np.square(distance / PRIOR_SPREAD) / 2)
    prior: Map = np.outer(profile, profile).astype(np.float32)
    return prior


def judge_places(
    scores: Mapping[str, Sequence[PlaceScores]],
    groups: Sequence[str],
    *,
    confidence: float,
    seed: int,
    flips: int,
    unit: str | None,
) -> dict[str, dict[str, Any]]:
    """Returns the scores of maps over N images, with intervals that count groups, and their gain over CENTER.

    Args:
        scores: the N images' scores by name of the map; CENTER is one of the names.
        groups: the name of each of the N images' groups.
        confidence: confidence level of the intervals.
        seed: seed of the test's draws.
        flips: the most draws of the test.
        unit: the noun for a group, such as 'patient'; None: 'group'.

    Returns:
        By name: `pointing`, the share of images whose maximum is in a box, and `iou`, the mean; each with `_low`,
        `_high` and `_method`; all names but CENTER also have the difference from CENTER as `<score>_gain`, `_gain_low`,
        `_gain_high` and `_gain_p`.
    """
    names = np.array(groups, dtype=object)
    columns = {name: np.array(rows, dtype=np.float64).reshape(-1, 2) for name, rows in scores.items()}
    judged: dict[str, dict[str, Any]] = {}
    for name, values in columns.items():
        entries: dict[str, Any] = {}
        for column, score in enumerate((POINTING, OVERLAP)):
            one = values[:, column]
            estimate = estimate_proportion(one > 0, names) if score == POINTING else estimate_share(one, names)
            interval = interval_of(estimate, confidence, unit)
            entries |= {score: estimate.value, f"{score}_low": interval.low, f"{score}_high": interval.high}
            entries[f"{score}_method"] = interval.method
            if name != CENTER:
                gain = one - columns[CENTER][:, column]
                entries |= _gain(score, gain, names, confidence=confidence, seed=seed, flips=flips)
        judged[name] = entries
    return judged


def _gain(
    score: str,
    gain: NDArray[np.float64],
    groups: NDArray[np.object_],
    *,
    confidence: float,
    seed: int,
    flips: int,
) -> dict[str, float | None]:
    """Returns the entries of the mean of N images' gains float64[N], tested by flips of whole groups."""
    names, codes = np.unique(groups, return_inverse=True)
    sums, images = np.bincount(codes, gain), np.bincount(codes)
    test = flip_signs(
        sums / len(gain), images / len(gain), names.tolist(), confidence=confidence, seed=seed, permutations=flips
    )
    values = {"": test.difference, "_low": test.low, "_high": test.high, "_p": test.p}
    return {f"{score}_gain{end}": None if np.isnan(value) else float(value) for end, value in values.items()}
