"""Pictures to crop and a short way to crop a folder, for the tests of crop_images."""

from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tumorboard.base.params import Crop, Data, Frames, load_params
from tumorboard.data.crop import CropJob, crop_images
from tumorboard.data.sources import list_images

Pixels = NDArray[np.uint8]
DATA = load_params(Path(__file__).parents[2] / "params.yaml").data


def data_section(**changes: Any) -> Data:
    """The section `data` of params.yaml without a pattern of groups and without quarantine, and with some changes."""
    return DATA.model_copy(update={"raw": "", "group_pattern": None, "max_quarantined": 0} | changes)


def picture(seed: int, height: int = 40, width: int = 50) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, pixels: Pixels) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def hashes(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def build(
    raw: Path,
    out: Path,
    crop: Crop,
    cache: Path,
    workers: int = 1,
    max_quarantined: int = 0,
    scheduler: str | None = None,
) -> dict[str, Any]:
    """The counts of a run over all files in `raw`, listed in a random order."""
    data = data_section(max_quarantined=max_quarantined)
    rows, ignored = list_images(raw, data)
    shuffled = rows.sample(frac=1, random_state=len(rows))
    job = CropJob(
        raw=raw,
        out=out,
        cache=cache,
        crop=crop,
        frames=data.frames,
        max_quarantined=max_quarantined,
        workers=workers,
        scheduler=scheduler,
    )
    return crop_images(shuffled, ignored, job).counts


def job_of(raw: Path, crop: Crop, folder: Path, frames: Frames = None, max_quarantined: int | None = 0) -> CropJob:
    """A job of one worker that writes to `folder`/out and keeps its crops in `folder`/cache."""
    return CropJob(
        raw=raw,
        out=folder / "out",
        cache=folder / "cache",
        crop=crop,
        frames=frames,
        max_quarantined=max_quarantined,
    )
