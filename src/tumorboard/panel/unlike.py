"""Scores how unlike a model's training images a picture is, by the network's features and by simple image statistics.

`fit_unlike` describes the training images of one model file by two normal distributions: one of the features that the
network's head reads, one of `image_statistics`. A picture's score is the mean of its two log distances, each shifted
and scaled by those of held-out validation images: 0 is a typical new image of the same source, 1 is as far away in both
as the farthest twentieth. A panel's score is the mean over its model files; `panel_threshold` returns the score beyond
which a picture is called unlike. No label and no test image is used.

Source:
    Mahalanobis distance of features: Lee et al. 2018; here without classes, along principal directions, and with the
    squared rest beyond them, as in Wang et al. 2022 (ViM).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tumorboard.base.arrays import read_arrays, write_arrays
from tumorboard.base.errors import InputError
from tumorboard.data.store import CropBatch
from tumorboard.evaluation.tolerance import tolerance_limit

Array: TypeAlias = NDArray[np.float64]

SHRINKAGE = 0.01  # share of the mean variance that is added to each variance
STATISTICS = 15  # numbers that `image_statistics` returns per image
SIDE = 128  # pixels; larger crops are thinned to less than twice this side


@dataclass(frozen=True)
class UnlikeStatistics:
    """What `fit_unlike` learned of the training images of one model file. F features, C directions, T statistics."""

    feature_mean: NDArray[np.float32]  # [F]
    directions: NDArray[np.float32]  # [C, F], orthonormal
    variances: NDArray[np.float64]  # [C], along the directions
    residual: NDArray[np.float64]  # [1], mean squared distance from the space of the directions; 0: none is left
    image_mean: NDArray[np.float64]  # [T]
    image_precision: NDArray[np.float64]  # [T, T], inverse of the covariance
    center: NDArray[np.float64]  # [2], median held-out log distance of features and of image statistics
    spread: NDArray[np.float64]  # [2], distance from the median to the quantile UPPER
    held_out: NDArray[np.float64]  # [M], the scores of the held-out images
    held_out_groups: NDArray[np.int64]  # [M], number of each image's group


def unlike_scores(statistics: UnlikeStatistics, features: NDArray[np.float32], crops: CropBatch) -> Array:
    """Returns the score float64[N] of images by one model file.

    Args:
        statistics: the model file's statistics.
        features: float32[N, F], what the network's head reads of these images; `collected_features` collects it.
        crops: uint8[N, S, S, 3].
    """
    distances = log_distances(statistics, features, image_statistics(crops))
    return np.asarray(((distances - statistics.center) / statistics.spread).mean(1))


def image_statistics(crops: CropBatch) -> Array:
    """Returns statistics float64[N, 15] of crops uint8[N, S, S, 3], whose values are scaled to 0 to 1.

    Mean and deviation of each channel; logarithms of the mean gradient and of the mean Laplacian; mean and deviation of
    the brightness along the edge of the crop; mean brightness of its middle half; mean saturation; the 5, 50 and 95 %
    quantiles of the brightness. In crops of twice SIDE and more, only every second row and column counts, and so on.
    """
    return np.array([_statistics_of(crop) for crop in crops], dtype=np.float64).reshape(len(crops), STATISTICS)


def _statistics_of(crop: NDArray[np.uint8]) -> list[float]:
    step = max(1, len(crop) // SIDE)
    picture = crop[::step, ::step].astype(np.float32) / 255
    grey = picture.mean(2)
    edge = np.concatenate([grey[0], grey[-1], grey[1:-1, 0], grey[1:-1, -1]])
    quarter = len(grey) // 4
    gradient = np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey, axis=1)).mean()
    inner = 4 * grey[1:-1, 1:-1]
    laplacian = np.abs(inner - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]).mean()
    statistics = [
        *picture.mean((0, 1)),
        *picture.std((0, 1)),
        np.log(gradient + 1e-3),
        np.log(laplacian + 1e-3),
        edge.mean(),
        edge.std(),
        grey[quarter:-quarter, quarter:-quarter].mean(),
        (picture.max(2) - picture.min(2)).mean(),
        *np.quantile(grey, [0.05, 0.5, 0.95]),
    ]
    return [float(value) for value in statistics]


def panel_scores(by_file: Sequence[Array]) -> Array:
    """Returns the score float64[N] of a panel: the mean of the scores float64[N] of its model files."""
    return np.asarray(np.mean(by_file, axis=0))


def panel_threshold(by_fold: Mapping[int, Sequence[UnlikeStatistics]], share: float) -> float:
    """Returns the score from which on a panel calls a picture unlike its training images.

    A held-out image has the mean score of the models of its own fold, which were trained without it.

    Args:
        by_fold: the statistics of all models of each fold.
        share: the share of new images that may exceed the score, `evaluate.unlike`.

    Raises:
        InputError: where the models of a fold differ in their held-out images.
    """
    scores: list[Array] = []
    groups: list[NDArray[np.int64]] = []
    for fold, files in by_fold.items():
        if any(not np.array_equal(files[0].held_out_groups, other.held_out_groups) for other in files):
            raise InputError(f"fold {fold}: the models have other validation images: run `dvc repro`")
        scores.append(panel_scores([file.held_out for file in files]))
        groups.append(files[0].held_out_groups + sum(map(len, groups)))  # no fold shares a group with another
    return tolerance_limit(np.concatenate(scores), np.concatenate(groups), share=share)


def read_threshold(files: Mapping[tuple[str, int], Path], share: float) -> float:
    """Returns `panel_threshold` of the statistics in one file per model and fold."""
    by_fold: dict[int, list[UnlikeStatistics]] = {}
    for (_, fold), file in files.items():
        by_fold.setdefault(fold, []).append(load_unlike(file))
    return panel_threshold(by_fold, share)


def save_unlike(statistics: UnlikeStatistics, path: Path) -> None:
    """Writes statistics as safetensors; equal statistics give equal bytes."""
    write_arrays(statistics, path)


def load_unlike(path: Path, features: int | None = None) -> UnlikeStatistics:
    """Reads what `save_unlike` wrote.

    Args:
        path: the file.
        features: width F that the network's features have; None: any.

    Raises:
        InputError: the file is missing, damaged or for another network.
    """
    statistics = read_arrays(UnlikeStatistics, path)
    width, count = len(statistics.feature_mean), len(statistics.variances)
    shapes = {
        "feature_mean": (features or width,),
        "directions": (count, width),
        "variances": (count,),
        "residual": (1,),
        "image_mean": (STATISTICS,),
        "image_precision": (STATISTICS, STATISTICS),
        "center": (2,),
        "spread": (2,),
        "held_out_groups": statistics.held_out.shape,
    }
    for name, shape in shapes.items():
        if (actual := getattr(statistics, name).shape) != shape:
            raise InputError(f"{path}: {name} has the shape {list(actual)}, expected {list(shape)}: run `dvc repro`")
    return statistics


def log_distances(statistics: UnlikeStatistics, features: NDArray[np.float32], images: Array) -> Array:
    """Returns the logarithms float64[N, 2] of the squared Mahalanobis distances of features and image statistics."""
    centered = features.astype(np.float64) - statistics.feature_mean
    along = centered @ statistics.directions.astype(np.float64).T
    shrunken = (
        statistics.variances + SHRINKAGE * statistics.variances.mean() if along.shape[1] else statistics.variances
    )
    squared = (along**2 / shrunken).sum(1)
    if statistics.residual[0] > 0:
        rest = np.maximum((centered**2).sum(1) - (along**2).sum(1), 0)
        squared = squared + rest / statistics.residual[0]
    offset = images - statistics.image_mean
    by_image = np.einsum("nt,tu,nu->n", offset, statistics.image_precision, offset)
    return np.log(np.stack([squared, by_image], axis=1) + 1e-9)
