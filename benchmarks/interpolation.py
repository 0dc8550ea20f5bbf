"""What bilinear and bicubic resampling cost, and what share of the fine detail of real images each keeps.

FOLDER SIDE [COUNT] [ROUNDS]: images below FOLDER, cropped to SIDE pixels. Cost: processor time of one thread for a
batch as the recipe in params.yaml alters it, the two in turn within one run. Detail: the energy above half of Nyquist's
frequency of an image that was only rotated, over the image's own (Hann window; rotation leaves a ring of frequencies).
"""

import statistics
import time
from pathlib import Path

import cv2
import numpy as np
import torch
import typer
from torch import Tensor

from tumorboard.augment import augment_images
from tumorboard.params import Augment, load_params
from tumorboard.randomness import keys_of

BATCH = 32


def load(folder: Path, side: int, count: int) -> Tensor:
    """Images spread over all names: shorter side to `side`, central square; uint8[N, 3, side, side]."""
    crops = []
    files = sorted(folder.rglob("*.jpg"))
    for file in files[:: max(1, len(files) // count)][:count]:
        image = cv2.imread(str(file))
        scale = side / min(image.shape[:2])
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
        crops.append(image[top : top + side, left : left + side, ::-1])
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)


def detail(images: Tensor) -> Tensor:
    """Energy above half of Nyquist's frequency of each image's grey values, float64[N]."""
    side = images.shape[-1]
    window = torch.hann_window(side, periodic=False, dtype=torch.float64)
    grey = images.double().mean(1)
    spectrum = torch.fft.rfft2((grey - grey.mean((1, 2), keepdim=True)) * window * window[:, None]).abs() ** 2
    frequency = torch.hypot(torch.fft.fftfreq(side)[:, None], torch.fft.rfftfreq(side))
    return (spectrum * ((frequency > 0.25) & (frequency <= 0.5))).sum((1, 2))


def main(folder: Path, side: int, count: int = 128, rounds: int = 15) -> None:
    """Print a line an interpolation."""
    torch.set_num_threads(1)
    images = load(folder, side, count)
    keys = keys_of([str(number) for number in range(len(images))])
    recipe = load_params("params.yaml").train.augment
    still = {"hflip": 0.0, "vflip": 0.0, "zoom": (1.0, 1.0), "shift": 0.0, "brightness": 0.0, "contrast": 0.0}
    seconds: dict[str, list[float]] = {"bilinear": [], "bicubic": []}
    for turn in range(rounds):
        for name, times in seconds.items():
            settings = recipe.model_copy(update={"interpolation": name})
            start = time.process_time()
            augment_images(images[:BATCH], settings, 0, keys[:BATCH], turn)
            times.append(time.process_time() - start)
    own = detail(images)
    for name, times in seconds.items():
        turned: Augment = recipe.model_copy(update=still | {"rotate": 180.0, "interpolation": name})
        kept = torch.stack([detail(augment_images(images, turned, 0, keys, epoch)) / own for epoch in range(4)])
        low, middle, high = np.percentile([1000 * value for value in times[2:]], [25, 50, 75])
        print(
            f"{side} px, {BATCH} images, {name}: "
            f"{middle:.1f} ms (quartiles {low:.1f}, {high:.1f}; n = {len(times) - 2}), "
            f"detail kept {statistics.mean(kept.flatten().tolist()):.3f} of {len(images)} images x 4"
        )


if __name__ == "__main__":
    typer.run(main)
