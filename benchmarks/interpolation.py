"""Measures what bilinear and bicubic resampling cost, and how much fine detail of real images each keeps.

Cost: CPU time of one thread that augments a batch of 32 images as params.yaml states (train.augment); the two
interpolations take turns. Detail: energy above half the Nyquist frequency of an image that was only rotated, divided by
that of the image itself (with a Hann window; a rotation does not change the frequencies' distance from zero).

Example:
    python -m benchmarks.interpolation --data ../shared/data/brain_mri_small --side 64
"""

import time
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from benchmarks import ROOT, argument_parser, machine
from tumorboard.augment.alterations import augment_images
from tumorboard.base.params import load_params
from tumorboard.base.randomness import keys_of

# Images per timed batch.
BATCH = 32
# Repetitions before those that count.
WARM_UP = 2
# Random rotations of each image.
ROTATIONS = 4


def load_images(folder: Path, side: int, count: int) -> Tensor:
    """Returns the central squares, scaled to `side` pixels, of JPEGs spread evenly over the sorted paths.

    Args:
        folder: searched with all its subfolders.
        side: side of the squares in pixels.
        count: largest number of images.

    Returns:
        uint8[N, 3, side, side], RGB.
    """
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
    """Returns the energy float64[N] of each image's grey values above half the Nyquist frequency.

    Args:
        images: [N, 3, S, S], uint8 or float.
    """
    side = images.shape[-1]
    window = torch.hann_window(side, periodic=False, dtype=torch.float64)
    grey = images.double().mean(1)
    spectrum = torch.fft.rfft2((grey - grey.mean((1, 2), keepdim=True)) * window * window[:, None]).abs() ** 2
    frequency = torch.hypot(torch.fft.fftfreq(side)[:, None], torch.fft.rfftfreq(side))  # cycles per pixel
    return (spectrum * ((frequency > 0.25) & (frequency <= 0.5))).sum((1, 2))


def measure(images: Tensor, repetitions: int) -> None:
    """Prints one line per interpolation: milliseconds per batch, and the share of detail kept."""
    side = images.shape[-1]
    keys = keys_of([str(number) for number in range(len(images))])
    augment = load_params(ROOT / "params.yaml").train.augment
    rotate_only = {
        "hflip": 0.0,
        "vflip": 0.0,
        "rotate": 180.0,
        "zoom": (1.0, 1.0),
        "shift": 0.0,
        "brightness": 0.0,
        "contrast": 0.0,
    }
    milliseconds: dict[str, list[float]] = {"bilinear": [], "bicubic": []}
    for repetition in range(WARM_UP + repetitions):
        for name, times in milliseconds.items():
            settings = augment.model_copy(update={"interpolation": name})
            start = time.process_time()
            augment_images(images[:BATCH], settings, seed=0, keys=keys[:BATCH], counter=repetition)
            if repetition >= WARM_UP:
                times.append(1000 * (time.process_time() - start))
    original = detail(images)
    for name, times in milliseconds.items():
        settings = augment.model_copy(update=rotate_only | {"interpolation": name})
        rotated = [augment_images(images, settings, seed=0, keys=keys, counter=epoch) for epoch in range(ROTATIONS)]
        kept = float(torch.stack([detail(batch) / original for batch in rotated]).mean())
        low, middle, high = np.percentile(times, [25, 50, 75])
        print(
            f"{side} pixels, {min(BATCH, len(images))} images, {name}: "
            f"{middle:.1f} ms (quartiles {low:.1f} and {high:.1f}, n = {len(times)}), "
            f"detail kept {kept:.3f} ({len(images)} images, {ROTATIONS} rotations each)"
        )


def main() -> None:
    """Reads the options and measures."""
    parser = argument_parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of JPEGs")
    parser.add_argument("--side", type=int, nargs="+", default=[64, 160], help="pixels (default: 64 160)")
    parser.add_argument("--images", type=int, default=128, help="images rotated (default: %(default)s)")
    parser.add_argument("--repetitions", type=int, default=13, help="timed batches (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(machine())
    for side in options.side:
        measure(load_images(options.data, side, options.images), options.repetitions)


if __name__ == "__main__":
    main()
