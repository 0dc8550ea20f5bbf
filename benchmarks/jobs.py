"""Makes a Job from a folder of images, and a DataLoader over the same images; for the benchmarks that train."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, Subset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from tumorboard.base.params import Augment, Crop, Recipe
from tumorboard.data.store import CropStore, write_store
from tumorboard.images.crop import crop_file
from tumorboard.images.grey import three_channels
from tumorboard.training.job import Job


def class_folders(data: Path) -> Path:
    """Returns the folder that has one folder per class: `data`, or its folder Training."""
    return data / "Training" if (data / "Training").is_dir() else data


def make_job(data: Path, count: int, *, side: int, recipe: Recipe, crop: Crop, folder: Path) -> Job:
    """Crops images to a store and returns a Job that trains on them.

    Args:
        data: has one folder per class, or a folder Training that has them.
        count: number of images, spread evenly over the sorted paths.
        side: side of the crops in pixels.
        recipe: the model's recipe.
        crop: the other parameters of the crop; borders stay.
        folder: to write the store to.

    Returns:
        A Job without validation rows and outputs; the images' ids are their paths.
    """
    classes = class_folders(data)
    files = sorted(path for path in classes.rglob("*") if path.suffix.lower() in (".jpg", ".png"))
    if len(files) < count:
        raise SystemExit(f"{classes}: has {len(files)} images, fewer than --images {count}")
    files = [files[place] for place in np.linspace(0, len(files) - 1, count).astype(int)]
    crop = crop.model_copy(update={"side": side, "border": False})
    ids = [path.as_posix() for path in files]
    write_store(folder, ids, [three_channels(crop_file(file.read_bytes(), crop, None).square) for file in files], 8)
    labels = [path.relative_to(classes).parts[0] for path in files]
    rows = pd.DataFrame({"id": ids, "group": ids, "split": "train", "label": labels})
    return Job(
        name=recipe.architecture,
        fold=0,
        recipe=recipe,
        rows=rows,
        val_rows=rows,
        store=CropStore(folder),
        classes=tuple(sorted(set(labels))),
        crop=crop,
        digest="",
        weights=Path(),
        held_out=Path(),
        out=Path(),
    )


def data_loader(data: Path, job: Job, workers: int, device: str) -> DataLoader[Any]:
    """Returns a DataLoader over the job's files that crops and alters them in PIL."""
    images = ImageFolder(str(class_folders(data)), torchvision_transform(job.recipe.augment, job.store.size))
    place_of = {path: place for place, (path, _) in enumerate(images.samples)}
    return DataLoader(
        Subset(images, [place_of[path] for path in job.rows["id"]]),
        batch_size=job.recipe.batch_size,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device == "cuda",
    )


def torchvision_transform(augment: Augment, side: int) -> v2.Compose:
    """Returns a crop and the recipe's alterations as most scripts write them; float32[3, side, side], 0 to 255."""
    return v2.Compose(
        [
            v2.Resize(side),
            v2.CenterCrop(side),
            v2.RandomHorizontalFlip(augment.hflip),
            v2.RandomVerticalFlip(augment.vflip),
            v2.RandomAffine(
                augment.rotate,
                translate=(augment.shift, augment.shift),
                scale=augment.zoom,
                interpolation=v2.InterpolationMode.BILINEAR,
            ),
            v2.ColorJitter(augment.brightness, augment.contrast, augment.saturation),
            v2.ToImage(),
            v2.ToDtype(torch.float32),
        ]
    )
