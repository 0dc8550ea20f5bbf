"""Generates the images that a balanced Manifest asks for, and finds the training image that each one resembles most."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pandas as pd

from tumorboard.base.errors import InputError
from tumorboard.base.params import Balance
from tumorboard.base.tables import Manifest, is_generated
from tumorboard.data.near_duplicates import ReadCrops
from tumorboard.data.nearest import nearest_pictures
from tumorboard.data.store import CropArray, CropStore

if TYPE_CHECKING:
    from tumorboard.augment.generator import Step

Nearest: TypeAlias = pd.DataFrame  # one row per generated image, see `nearest_training_images`


def generate_images(
    manifest: Manifest,
    store: CropStore,
    balance: Balance,
    *,
    fold: int,
    seed: int,
    report: Callable[["Step"], None] = lambda _: None,
) -> tuple[list[str], Iterator[CropArray]]:
    """Fits a generator to the originals of a balanced Manifest and draws its generated images.

    Args:
        manifest: as `balance_manifest` returns it for the training rows of a fold, in any order.
        store: holds the originals.
        balance: `generate` has the settings of the fit, `augment` the alterations that keep an image's class.
        fold: number of the fold, for the message.
        seed: the seed of the fit and of the images.
        report: function that is called ten times during the fit.

    Returns:
        The ids of the generated images, and an iterator over their crops uint8[S, S, 3] in the same order. Nothing
        is fitted if there are none.

    Raises:
        InputError: a class that is to grow has fewer originals than `balance.generate.min_images`, or the crops are too
            large.
    """
    drawn = manifest[is_generated(manifest)].sort_values("id")
    if drawn.empty:
        return [], iter(())
    from tumorboard.augment.generator import draw_images, fit_generator  # here, because torch is slow to import

    rows = manifest[manifest["id"] == manifest["source_id"]].sort_values("id")
    _check(rows, drawn, store.size, balance=balance, fold=fold)
    classes = pd.Index(sorted(rows["label"].unique()), dtype=object)
    fit = fit_generator(
        store[rows["id"].tolist()],
        classes.get_indexer(rows["label"]).astype(np.int64),
        settings=balance.generate,
        augment=balance.augment,
        seed=seed,
        report=report,
    )
    ids = drawn["id"].tolist()
    return ids, draw_images(fit, ids, classes.get_indexer(drawn["label"]).astype(np.int64), seed)


def _check(rows: Manifest, drawn: Manifest, side: int, *, balance: Balance, fold: int) -> None:
    """Raises InputError if a class has too few originals to learn from, or the crops are too large."""
    from tumorboard.augment.generator import LARGEST  # here, because torch is slow to import

    if side > LARGEST:
        raise InputError(
            f"balance.strategy generate draws images of up to {LARGEST} pixels, crop.side is {side}: larger ones take "
            "too long on a CPU, and enlarged ones would be blurred, which would give their class away; lower "
            "crop.side, or set balance.strategy to augment"
        )
    least, counts = balance.generate.min_images, rows["label"].value_counts()
    for label in sorted(drawn["label"].unique()):
        if counts[label] < least:
            raise InputError(
                f"balance.strategy generate: class '{label}' has {counts[label]} training images in fold {fold}, fewer "
                f"than balance.generate.min_images, {least}: a generator would learn them by heart; set "
                "balance.strategy to augment, or lower min_images"
            )


def nearest_training_images(manifest: Manifest, read_crops: ReadCrops) -> Nearest:
    """Returns, for each generated image, the training image that it resembles most.

    Args:
        manifest: a balanced Manifest.
        read_crops: returns the crops uint8[N, S, S, 3] of its ids.

    Returns:
        id, label, and the nearest training image of any class: nearest (its id), nearest_label, turns and mirrored
        (its position), correlation and detail, as `nearest_pictures` returns them; sorted by class and number.
    """
    drawn = manifest[is_generated(manifest)].reset_index(drop=True)
    rows = manifest[manifest["id"] == manifest["source_id"]].sort_values("id").set_index("id")
    table = nearest_pictures(drawn["id"].tolist(), rows.index.tolist(), read_crops)
    labels = rows["label"].reindex(table["nearest"]).to_numpy(object)
    table.insert(1, "label", drawn["label"])
    table.insert(3, "nearest_label", labels)
    return table


def warn_of_copies(nearest: Nearest, near: float | None) -> list[str]:
    """Returns a warning if generated images nearly equal training images; `near` is `audit.near`, None for never."""
    alike = nearest if near is None else nearest[nearest["detail"] >= near]
    if near is None or alike.empty:
        return []
    most = alike.sort_values(["detail", "id"], ascending=[False, True]).iloc[0]
    return [
        f"{len(alike):,} of {len(nearest):,} generated images nearly equal a training image (their details correlate "
        f"by audit.near, {near:g}, or more), first {most['id']!r} and {most['nearest']!r}: the generator has learned "
        "images by heart; give it fewer balance.generate.steps or more images"
    ]
