"""Describes the training images of a model by its network's features and by image statistics: `panel/unlike.py`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tumorboard.base.randomness import keys_of, order
from tumorboard.base.tables import Manifest
from tumorboard.data.store import CropBatch, CropStore
from tumorboard.models.inference import crop_logits
from tumorboard.models.model_file import ModelCard
from tumorboard.models.registry import Classifier
from tumorboard.panel.unlike import SHRINKAGE, Array, UnlikeStatistics, image_statistics, log_distances

MAX_IMAGES = 1000  # training images, and held-out images, that are embedded per model file
MAX_FEATURES = 8_000_000  # numbers in memory; for networks with more than 8,000 features fewer images are embedded
MIN_IMAGES = 200  # training images that are embedded however many features there are
MAX_COMPONENTS = 64  # principal directions of the features that are kept
MAX_STORED = 500_000  # numbers of these directions in the file: 2 MB
SMALLEST_DEVIATION = 0.01  # least deviation of a statistic: a grey data set must not call a JPEG file's tint unlike
SMALLEST_SPREAD = 0.01  # least spread of the held-out log distances
UPPER = 0.95  # quantile of the held-out log distances that gets the score 1
BATCH = 32  # images per forward pass
STREAM = "unlike//"  # prefix of the ids, so that no other draw has these keys


def fit_unlike(
    network: Classifier, card: ModelCard, *, train: Manifest, held_out: Manifest, crops: CropStore
) -> UnlikeStatistics:
    """Describes the training images of a model, so that unlike images can be recognized.

    At most MAX_IMAGES of each table are embedded; which ones depends on their ids alone.

    Args:
        network: the trained network, on its device.
        card: the model's card, whose `recipe.channels_last` is used.
        train: rows of the images that the network was trained on.
        held_out: the validation rows of its fold, with their groups; at least one.
        crops: crops of the images of both tables.
    """
    from tumorboard.data.grouping import factorize  # prediction imports this module, and needs no scipy

    held_out = _draw(held_out, MAX_IMAGES)
    first = _embed(network, card, crops[held_out["id"].tolist()[:1]])[0]
    train = _draw(train, min(MAX_IMAGES, max(MIN_IMAGES, MAX_FEATURES // first.shape[1])))
    features, images = _embed_stored(network, card, train["id"].tolist(), crops)
    mean, directions, variances, residual = _principal_directions(features)
    image_mean, image_precision = _normal_distribution(images)
    start = UnlikeStatistics(
        feature_mean=mean.astype(np.float32),
        directions=directions.astype(np.float32),
        variances=variances,
        residual=np.array([residual]),
        image_mean=image_mean,
        image_precision=image_precision,
        center=np.zeros(2),
        spread=np.ones(2),
        held_out=np.zeros(0),
        held_out_groups=factorize(held_out["group"])[1],
    )
    ids = held_out["id"].tolist()
    distances = np.concatenate(
        [
            log_distances(start, *_embed(network, card, crops[ids[first : first + BATCH]]))
            for first in range(0, len(ids), BATCH)
        ]
    )
    center = np.median(distances, axis=0)
    spread = np.maximum(np.quantile(distances, UPPER, axis=0) - center, SMALLEST_SPREAD)
    held_out_scores = ((distances - center) / spread).mean(1)
    return replace(start, center=center, spread=spread, held_out=held_out_scores)


@contextmanager
def collected_features(network: Classifier) -> Iterator[list[NDArray[np.float32]]]:
    """Collects what the head of a network reads, float32[N, F] per forward pass, while the body of the `with` runs."""
    batches: list[NDArray[np.float32]] = []

    def collect(_: Any, inputs: tuple[Tensor, ...]) -> None:
        batches.append(inputs[0].detach().float().flatten(1).cpu().numpy())

    handle = network.head.register_forward_pre_hook(collect)
    try:
        yield batches
    finally:
        handle.remove()


def _draw(rows: Manifest, count: int) -> Manifest:
    """Returns at most `count` rows, sorted by id; the same ones for all models."""
    ordered = rows.sort_values("id", ignore_index=True)
    keys = keys_of([STREAM + name for name in ordered["id"]])
    return ordered.iloc[np.sort(order(0, keys, 0)[:count])]


def _embed(network: Classifier, card: ModelCard, batch: CropBatch) -> tuple[NDArray[np.float32], Array]:
    """Returns features float32[N, F] and image statistics float64[N, T] of one batch."""
    device: torch.device = network.mean.device
    with collected_features(network) as batches:
        crop_logits(network, batch, precision="off", channels_last=card.recipe.channels_last, device=device)
    return batches[0], image_statistics(batch)


def _embed_stored(
    network: Classifier, card: ModelCard, ids: Sequence[str], crops: CropStore
) -> tuple[NDArray[np.float32], Array]:
    parts = [_embed(network, card, crops[ids[first : first + BATCH]]) for first in range(0, len(ids), BATCH)]
    features, images = zip(*parts, strict=True)
    return np.concatenate(features), np.concatenate(images)


def _principal_directions(features: NDArray[np.float32]) -> tuple[Array, Array, Array, float]:
    """Returns mean [F], directions [C, F], variances [C] and the mean squared rest of features [N, F]."""
    mean = features.mean(0, dtype=np.float64).astype(np.float32).astype(np.float64)  # rounded as it is stored
    centered = features - mean
    number, width = centered.shape
    count = max(1, min(MAX_COMPONENTS, MAX_STORED // width, number - 1, width))
    # The smaller of the two Gram matrices has the same largest eigenvalues.
    wide = width > number
    gram = centered @ centered.T if wide else centered.T @ centered
    from scipy.linalg import eigh  # prediction imports this module, and needs no scipy

    values, vectors = eigh(gram, subset_by_index=[len(gram) - count, len(gram) - 1])
    usable = values > max(values[-1], 0) * 1e-12
    directions = (vectors.T @ centered if wide else vectors.T)[usable]
    directions = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    largest = directions[np.arange(len(directions)), np.abs(directions).argmax(1)]
    directions = directions * np.sign(largest)[:, None]  # else the sign would depend on the library
    variances = values[usable] / number
    rest = float((centered**2).sum() / number - variances.sum())
    return (
        mean,
        directions,
        variances,
        rest if rest > SHRINKAGE * float(variances.mean() if usable.any() else 1) else 0.0,
    )


def _normal_distribution(statistics: Array) -> tuple[Array, Array]:
    """Returns mean [T] and precision [T, T] of image statistics [N, T]."""
    covariance = np.cov(statistics.T, bias=True) + SMALLEST_DEVIATION**2 * np.eye(statistics.shape[1])
    return statistics.mean(0), np.asarray(np.linalg.inv(covariance), dtype=np.float64)
