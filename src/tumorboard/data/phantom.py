"""Draws the embedded data set: synthetic blood-smear cells, normal or blast, of patients who do not exist.

The pictures imitate stained smears in acute lymphoblastic leukemia: one white cell per picture, red cells and cut-off
neighbors around it, a dark frame, and patients, microscopes and sites that differ. One patient in seven is atypical,
with blasts that look mature or with reactive normal cells, so that a model's mistakes gather in a few patients.

Source: the look of C-NMC 2019 (Gupta & Gupta 2019); no picture of it is used.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from io import BytesIO

import numpy as np
from numpy.random import Generator, Philox
from numpy.typing import NDArray
from PIL import Image

from tumorboard.base.errors import InputError
from tumorboard.base.params import Phantom
from tumorboard.base.randomness import keys_of
from tumorboard.data.smear import BLAST_SHARE, Field, Microscope, Patient, between, draw_smear, photograph
from tumorboard.data.workers import ParallelMap

REPEAT_EVERY = 100  # pictures; one of them repeats an earlier one byte for byte, another one encodes it again
TABLE = "labels.csv"  # name of the label table
SOUTH_EVERY = 3  # patients; one of them is of the site south
ATYPICAL_EVERY = 7  # patients; one of them is atypical: in turn with mature blasts and with reactive normal cells
ATYPICAL_MATURITY = 0.8  # mean maturity of a patient with mature blasts; its negative with reactive normal cells
MATURITY_DEVIATION = 0.1  # standard deviation of the maturity in each kind of patients


@dataclass(frozen=True)
class Site:
    """A hospital: its staining, and its own microscopes."""

    stain: Field  # float64[3], mean strength of each stain
    microscopes: tuple[int, ...]  # numbers of the microscopes that its patients are distributed over


SITES = {
    "north": Site(np.array([1.0, 1.0, 1.0]), (0, 1, 2)),
    "south": Site(np.array([0.8, 1.45, 0.7]), (3, 4)),  # paler nuclei and red cells, bluer cytoplasm
}


def draw_phantom(phantom: Phantom, seed: int, parallel_map: ParallelMap = map) -> Iterator[tuple[str, bytes]]:
    """Draws the data set.

    A picture depends only on (seed, patient, number, phantom.side), so that a larger set contains a smaller one's
    pictures.

    Args:
        phantom: number of images and patients, and the side of the pictures.
        seed: the seed of the data set.
        parallel_map: draws the pictures; as from `open_workers`.

    Yields:
        Pairs of a path and the file's bytes: `phantom.images` JPEG files '<class>/<patient>_<number>.jpg', then the
        table TABLE with the columns path, label, group (the patient) and site, one row per picture.

    Raises:
        InputError: there are more patients than images.

    >>> path, content = next(draw_phantom(Phantom(images=40, patients=10, side=96), seed=0))
    >>> path, content[6:10]
    ('blast/P01_001.jpg', b'JFIF')
    """
    if phantom.patients > phantom.images:
        raise InputError(f"phantom.patients is {phantom.patients}: expected at most phantom.images, {phantom.images}")
    # Every patient has one image; the others are distributed by shares that differ up to fourfold.
    shares = [0.4 + 1.2 * _random_generator(seed, f"P{p:02d} share").random() for p in range(1, phantom.patients + 1)]
    ends = np.cumsum(shares)
    ends = np.rint(ends / ends[-1] * (phantom.images - phantom.patients)).astype(int)
    images_of = enumerate(1 + np.diff(ends, prepend=0), start=1)
    numbers = [(patient, number) for patient, images in images_of for number in range(1, images + 1)]
    pictures = parallel_map(partial(_draw_numbered, phantom.side, seed), numbers)
    rows = ["path,label,group,site"]
    for (patient, number), (label, content) in zip(numbers, pictures, strict=True):
        path = f"{label}/P{patient:02d}_{number:03d}.jpg"
        rows.append(f"{path},{label},P{patient:02d},{site_of(patient)}")
        yield path, content
    yield TABLE, "".join(f"{row}\n" for row in rows).encode()


def site_of(patient: int) -> str:
    """Returns the site, a key of SITES, of a patient; patients count from 1.

    >>> [site_of(patient) for patient in (1, 2, 3, 4)]
    ['north', 'north', 'south', 'north']
    """
    return "north" if patient % SOUTH_EVERY else "south"


def draw_picture(size: int, seed: int, patient: int, number: int) -> tuple[str, bytes]:
    """Draws one picture; a few repeat an earlier picture of the same patient.

    Args:
        size: approximate side of the picture in pixels, without its border.
        seed: the seed of the data set.
        patient: number of the patient, from 1.
        number: number of the picture among the patient's, from 1.

    Returns:
        The class, 'normal' or 'blast', and the bytes of the JPEG file.
    """
    rng = _random_generator(seed, f"P{patient:02d}_{number:03d}")
    position = (37 * patient + number) % REPEAT_EVERY
    if number > 1 and position in (0, REPEAT_EVERY // 2):
        label, content = draw_picture(size, seed, patient, 1 + int(rng.random() * (number - 1)))
        if position == 0:
            return label, content
        return label, _encode(np.asarray(Image.open(BytesIO(content))), quality=60 + int(20 * rng.random()))
    person = _draw_patient(seed, patient)
    label = "blast" if rng.random() < person.blast_share else "normal"
    picture = photograph(draw_smear(_draw_shape(size, rng), label, person, rng), person, rng)
    quality = np.clip(person.microscope.quality + 6 * rng.standard_normal(), 60, 97)
    return label, _encode(picture, int(quality))


def _draw_numbered(size: int, seed: int, numbers: tuple[int, int]) -> tuple[str, bytes]:
    return draw_picture(size, seed, *numbers)


def _random_generator(seed: int, name: str) -> Generator:
    """Returns the random generator of a patient, picture or microscope, which depends only on the seed and the name."""
    return Generator(Philox(key=np.array([seed % 2**64, keys_of([name])[0]], dtype=np.uint64)))


def _encode(picture: NDArray[np.uint8], quality: int) -> bytes:
    buffer = BytesIO()
    comment = "synthetic: drawn by tumorboard"
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality, subsampling="4:2:0", comment=comment)
    return buffer.getvalue()


def _draw_microscope(seed: int, number: int) -> Microscope:
    rng = _random_generator(seed, f"microscope {number}")
    return Microscope(
        light=np.array([between(rng, 224, 242), between(rng, 219, 232), between(rng, 212, 240)]),
        magnification=between(rng, 0.92, 1.08),
        blur=between(rng, 0.5, 0.9),
        noise=between(rng, 1.5, 4.5),
        vignette=between(rng, 0.05, 0.2),
        round_frame=rng.random() < 0.5,
        border=between(rng, 0.04, 0.14),
        quality=between(rng, 78, 92),
    )


def _draw_patient(seed: int, number: int) -> Patient:
    rng = _random_generator(seed, f"P{number:02d}")
    site = SITES[site_of(number)]
    return Patient(
        microscope=_draw_microscope(seed, site.microscopes[int(rng.random() * len(site.microscopes))]),
        stain=site.stain * np.exp(np.array([0.12, 0.16, 0.18]) * rng.standard_normal(3)),
        blast_share=BLAST_SHARE + between(rng, -0.2, 0.2),
        red_cells=between(rng, 0.3, 1.0),
        pallor=between(rng, 0.35, 0.75),
        maturity=_mean_maturity(number) + MATURITY_DEVIATION * float(rng.standard_normal()),
    )


def _mean_maturity(patient: int) -> float:
    """Returns the mean maturity of a patient's kind.

    >>> [_mean_maturity(patient) for patient in (6, 7, 8, 14, 21)]
    [0.0, 0.8, 0.0, -0.8, 0.8]
    """
    if patient % ATYPICAL_EVERY:
        return 0.0
    return ATYPICAL_MATURITY if patient % (2 * ATYPICAL_EVERY) else -ATYPICAL_MATURITY


def _draw_shape(size: int, rng: Generator) -> tuple[int, int]:
    """Draws the height and the width of a picture without its border."""
    shorter, longer = size * between(rng, 0.94, 1.1), size * between(rng, 1.1, 1.25)
    return (round(shorter), round(longer)) if rng.random() < 0.5 else (round(longer), round(shorter))
