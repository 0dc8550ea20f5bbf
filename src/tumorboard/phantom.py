"""The embedded data set: synthetic blood-smear cells, normal or blast, drawn by this code and owed to no patient.

Modelled after the look of stained smears in acute lymphoblastic leukaemia, as in C-NMC 2019 (Gupta & Gupta 2019): one
white cell a picture, red cells and neighbours cut off around it, a dark frame, patients and microscopes that differ.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.random import Generator, Philox
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from tumorboard.errors import InputError
from tumorboard.params import Phantom
from tumorboard.randomness import keys_of

Field = NDArray[np.float64]
Plane = NDArray[np.complex128]  # x + iy of each pixel from a center

# Each cue's mean in normal cells, its mean in blasts and its standard deviation in both. They are what haematologists
# look at. Each overlaps between the classes so far that alone it sorts three or four cells in five; seen all at once
# and without error they would sort about 97 in 100, a bound to every model. Lengths are shares of the cell's radius.
CUES = {
    "nucleus_share": (0.545, 0.665, 0.08),  # area of the nucleus to that of the cell
    "basophilia": (0.35, 0.55, 0.15),  # blue of the cytoplasm
    "clump_size": (0.095, 0.050, 0.024),  # of the chromatin: coarse in normal cells, fine in blasts
    "clump_contrast": (0.28, 0.24, 0.06),
    "indentation": (0.06, 0.30, 0.14),  # depth of the nuclear cleft
    "nucleoli": (0.3, 2.0, 0.9),  # how many
    "granules": (6.0, 2.0, 2.5),  # how many, in the cytoplasm
}
BLAST_SHARE = 0.75  # on the average of the patients
REPEATS = 100  # of so many pictures one is an earlier one byte for byte, and one an earlier one encoded anew
MICROSCOPES = 5

# Optical density of each stain in red, green and blue light.
STAINS = np.array(
    [
        [0.95, 1.45, 0.38],  # azure bound to chromatin: purple
        [0.62, 0.40, 0.10],  # azure bound to ribosomes: blue
        [0.08, 0.42, 0.34],  # eosin: pink
    ]
)
CHROMATIN, BLUE, EOSIN = range(3)


@dataclass(frozen=True)
class Microscope:
    """What a microscope and its camera do to every picture."""

    light: Field  # float64[3], what bare glass reads, 0 to 255
    magnification: float
    blur: float  # standard deviation in pixels
    noise: float  # standard deviation in grey values
    vignette: float  # loss of light in the corners
    round_frame: bool
    border: float  # mean width of the dark border as a share of the field
    quality: float  # mean JPEG quality


@dataclass(frozen=True)
class Patient:
    """What the pictures of a patient have in common: microscope, staining and blood."""

    microscope: Microscope
    stain: Field  # float64[3], strength of each stain
    blast_share: float
    red_cells: float  # how crowded
    pallor: float  # of the red cells' centers


def draw_phantom(phantom: Phantom, seed: int) -> Iterator[tuple[str, bytes]]:
    """Draw the data set: `phantom.images` pairs of relative path '<class>/<patient>_<number>.jpg' and JPEG bytes.

    A picture depends on (seed, patient, number, phantom.side) alone, so that a larger set repeats the smaller one's.
    Raises InputError where there are more patients than images.
    """
    if phantom.patients > phantom.images:
        raise InputError(f"phantom.patients is {phantom.patients}: expected at most phantom.images, {phantom.images}")
    # Every patient has one image; the others are dealt out in shares that differ up to fourfold.
    shares = np.cumsum([0.4 + 1.2 * _stream(seed, f"P{p:02d} share").random() for p in range(1, phantom.patients + 1)])
    dealt = np.rint(shares / shares[-1] * (phantom.images - phantom.patients)).astype(int)
    for patient, images in enumerate(1 + np.diff(dealt, prepend=0), start=1):
        for number in range(1, images + 1):
            label, content = draw_picture(phantom.side, seed, patient, number)
            yield f"{label}/P{patient:02d}_{number:03d}.jpg", content


def draw_picture(size: int, seed: int, patient: int, number: int) -> tuple[str, bytes]:
    """A patient's picture as (class, JPEG bytes); a few repeat an earlier picture of the patient's."""
    rng = _stream(seed, f"P{patient:02d}_{number:03d}")
    turn = (37 * patient + number) % REPEATS
    if number > 1 and turn in (0, REPEATS // 2):
        label, content = draw_picture(size, seed, patient, 1 + int(rng.random() * (number - 1)))
        if turn == 0:
            return label, content
        return label, _encode(np.asarray(Image.open(BytesIO(content))), quality=60 + int(20 * rng.random()))
    person = _patient(seed, patient)
    label = "blast" if rng.random() < person.blast_share else "normal"
    picture = _photograph(_smear(_field_shape(size, rng), label, person, rng), person, rng)
    quality = np.clip(person.microscope.quality + 4 * rng.standard_normal(), 60, 97)
    return label, _encode(picture, int(quality))


def _stream(seed: int, name: str) -> Generator:
    return Generator(Philox(key=np.array([seed % 2**64, keys_of([name])[0]], dtype=np.uint64)))


def _encode(picture: NDArray[np.uint8], quality: int) -> bytes:
    buffer = BytesIO()
    says = "synthetic: drawn by tumorboard"
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality, subsampling="4:2:0", comment=says)
    return buffer.getvalue()


def _between(rng: Generator, low: float, high: float) -> float:
    return low + (high - low) * float(rng.random())


def _microscope(seed: int, number: int) -> Microscope:
    rng = _stream(seed, f"microscope {number}")
    return Microscope(
        light=np.array([_between(rng, 224, 242), _between(rng, 219, 232), _between(rng, 212, 240)]),
        magnification=_between(rng, 0.92, 1.08),
        blur=_between(rng, 0.5, 0.9),
        noise=_between(rng, 1.5, 4.5),
        vignette=_between(rng, 0.05, 0.2),
        round_frame=rng.random() < 0.5,
        border=_between(rng, 0.04, 0.14),
        quality=_between(rng, 78, 92),
    )


def _patient(seed: int, number: int) -> Patient:
    rng = _stream(seed, f"P{number:02d}")
    return Patient(
        microscope=_microscope(seed, int(rng.random() * MICROSCOPES)),
        stain=np.exp(np.array([0.12, 0.16, 0.18]) * rng.standard_normal(3)),
        blast_share=BLAST_SHARE + _between(rng, -0.2, 0.2),
        red_cells=_between(rng, 0.3, 1.0),
        pallor=_between(rng, 0.35, 0.75),
    )


def _field_shape(size: int, rng: Generator) -> tuple[int, int]:
    shorter, longer = size * _between(rng, 0.94, 1.1), size * _between(rng, 1.1, 1.25)
    return (round(shorter), round(longer)) if rng.random() < 0.5 else (round(longer), round(shorter))


def _smear(shape: tuple[int, int], label: str, person: Patient, rng: Generator) -> Field:
    """The stains of a cell and of what lies around it, float64[3, H, W]."""
    layers = np.zeros((3, *shape))
    scale = min(shape) * person.microscope.magnification
    radius = scale * _between(rng, 0.31, 0.39)
    center = np.array(shape) / 2 + 0.045 * scale * rng.standard_normal(2)
    taken = [(center, radius)]
    if rng.random() < 0.3:  # a second white cell, of either class, mostly beyond the edge
        angle = 2 * np.pi * rng.random()
        other = center + np.array([np.sin(angle), np.cos(angle)]) * scale * _between(rng, 0.62, 0.75)
        taken.append((other, scale * _between(rng, 0.24, 0.34)))
        _draw_white_cell(layers, *taken[1], _cues("blast" if rng.random() < BLAST_SHARE else "normal", rng), rng)
    _draw_red_cells(layers, taken, scale, person, rng)
    _draw_white_cell(layers, center, radius, _cues(label, rng), rng)
    return layers


def _cues(label: str, rng: Generator) -> dict[str, float]:
    means = {name: blast if label == "blast" else normal for name, (normal, blast, _) in CUES.items()}
    return {name: means[name] + CUES[name][2] * float(rng.standard_normal()) for name in CUES}


def _window(shape: Sequence[int], center: Field, reach: float) -> tuple[slice, slice]:
    """The part of a field within `reach` of a center, maybe empty."""
    low = np.clip(np.floor(center - reach), 0, shape).astype(int)
    high = np.clip(np.ceil(center + reach) + 1, 0, shape).astype(int)
    return slice(low[0], high[0]), slice(low[1], high[1])


def _plane(window: tuple[slice, slice], center: Field) -> Plane:
    """The pixels of a window."""
    rows, columns = np.ogrid[window]
    plane: Plane = (columns - center[1]) + 1j * (rows - center[0])
    return plane


def _depth(plane: Plane, radius: float, bumps: Plane) -> Field:
    """How far each pixel lies inside an outline radius * (1 + sum of bumps[k] * exp(i (k + 2) angle))."""
    distance = np.abs(plane)
    direction: Plane = plane / np.maximum(distance, 1e-9)
    wave = np.zeros_like(plane)
    for bump in bumps[::-1]:
        wave = (wave + bump) * direction
    return radius * (1 + (wave * direction).real) - distance


def _inside(depth: Field, softness: float) -> Field:
    """1 inside an outline, 0 outside, a smooth step of 4 * softness pixels between."""
    step = np.clip(depth / (4 * softness) + 0.5, 0, 1)
    return step * step * (3 - 2 * step)


def _soft_minimum(a: Field, b: Field, reach: float) -> Field:
    """The smaller of two depths, rounded off where they differ by less than `reach`: shapes meet without a corner."""
    rounding: Field = np.maximum(reach - np.abs(a - b), 0) ** 2 / (4 * reach)
    return np.minimum(a, b) - rounding


def _bumps(rng: Generator, amplitude: float, count: int) -> Plane:
    phases = np.exp(2j * np.pi * rng.random(count))
    bumps: Plane = amplitude * rng.random(count) / (1 + np.arange(count)) * phases
    return bumps


def _grain(rng: Generator, shape: tuple[int, ...], size: float) -> Field:
    """Smooth noise of unit variance whose clumps are about `size` pixels wide."""
    smooth = gaussian_filter(rng.standard_normal(shape), size, mode="wrap", truncate=3)
    # Smoothing white noise by a Gaussian of width s divides its deviation by 2 s sqrt(pi).
    grain: Field = smooth * 2 * size * np.sqrt(np.pi)
    return grain


def _draw_red_cells(
    layers: Field, taken: list[tuple[Field, float]], scale: float, person: Patient, rng: Generator
) -> None:
    shape = layers.shape[1:]
    for _ in range(int(22 * person.red_cells)):
        radius = scale * _between(rng, 0.15, 0.19)
        center = rng.random(2) * (np.array(shape) + 2 * radius) - radius
        if any(np.hypot(*(center - place)) < 0.93 * (radius + reach) for place, reach in taken):
            continue
        taken.append((center, radius))
        window = _window(shape, center, 1.3 * radius)
        plane = _plane(window, center)
        dent = np.exp(-(np.abs(plane) ** 2) / (0.22 * radius**2))
        disc = _inside(_depth(plane, radius, _bumps(rng, 0.12, 3)), 0.025 * radius)
        layers[(EOSIN, *window)] += disc * (1.1 - person.pallor * dent) * _between(rng, 0.85, 1.15)


def _draw_white_cell(layers: Field, center: Field, radius: float, cues: dict[str, float], rng: Generator) -> None:
    window = _window(layers.shape[1:], center, 1.35 * radius)
    plane = _plane(window, center)
    cell = _inside(_depth(plane, radius, _bumps(rng, 0.09, 4)), 0.022 * radius)
    nucleus_radius = radius * np.sqrt(np.clip(cues["nucleus_share"], 0.3, 0.86))
    offset = (radius - nucleus_radius) * 0.7 * rng.random() * np.exp(2j * np.pi * rng.random())
    nucleus, chromatin = _nucleus(plane - offset, nucleus_radius, radius, cues, rng)
    nucleus *= cell
    cytoplasm = cell * (1 - nucleus)
    # The white cell hides the red ones beneath it.
    layers[(slice(None), *window)] *= 1 - cell
    mottle = 1 + 0.22 * _grain(rng, plane.shape, 0.05 * radius)
    layers[(BLUE, *window)] += cytoplasm * mottle * max(cues["basophilia"], 0.05)
    layers[(EOSIN, *window)] += cytoplasm * 0.22
    layers[(CHROMATIN, *window)] += nucleus * chromatin + cytoplasm * 0.06 * mottle
    layers[(CHROMATIN, *window)] += cytoplasm * _granules(plane, nucleus_radius, radius, cues["granules"], rng)


def _nucleus(plane: Plane, radius: float, cell: float, cues: dict[str, float], rng: Generator) -> tuple[Field, Field]:
    """Where the nucleus is, 0 to 1, and how dense its chromatin; with a cleft, clumps, a dark rim and pale nucleoli."""
    turned = plane * np.exp(2j * np.pi * rng.random())
    depth = _depth(turned, radius, _bumps(rng, 0.08, 4))
    cleft = max(cues["indentation"], 0)
    notch = 1.3 * np.hypot(turned.imag, 0.12 * radius) + radius * (0.95 - 1.4 * cleft) - turned.real
    depth = _soft_minimum(depth, 0.6 * notch, 0.15 * radius)
    size = max(cues["clump_size"], 0.02) * cell
    grain = 0.85 * np.tanh(1.4 * _grain(rng, plane.shape, size)) + 0.4 * _grain(rng, plane.shape, 0.4 * size)
    chromatin = 0.78 * (1 + max(cues["clump_contrast"], 0.02) * grain)
    chromatin += 0.16 * np.exp(-((depth / (0.06 * cell)) ** 2))
    for _ in range(round(max(cues["nucleoli"], 0))):
        place = radius * 0.65 * np.sqrt(rng.random()) * np.exp(2j * np.pi * rng.random())
        near = np.abs(plane - place) / (cell * _between(rng, 0.11, 0.16))
        chromatin *= 1 - _between(rng, 0.4, 0.6) * np.exp(-(near**4)) + 0.12 * np.exp(-(((near - 1.4) / 0.35) ** 2))
    return _inside(depth, 0.022 * cell), np.maximum(chromatin, 0.1)


def _granules(plane: Plane, nucleus: float, cell: float, count: float, rng: Generator) -> Field:
    """Dark grains in the ring between nucleus and membrane."""
    dots = np.zeros(plane.shape)
    for _ in range(round(max(count, 0))):
        place = _between(rng, 0.9 * nucleus, 0.97 * cell) * np.exp(2j * np.pi * rng.random())
        dots += 0.55 * np.exp(-((np.abs(plane - place) / (cell * _between(rng, 0.04, 0.055))) ** 2))
    return dots


def _photograph(layers: Field, person: Patient, rng: Generator) -> NDArray[np.uint8]:
    """The stained smear as the camera sees it: uint8[H, W, 3], framed in black."""
    scope = person.microscope
    stain = person.stain * np.exp(0.06 * rng.standard_normal(3))
    density = np.moveaxis(layers, 0, -1) @ (STAINS * stain[:, None])
    blur = scope.blur * _between(rng, 0.8, 1.35)
    image: Field = scope.light * gaussian_filter(np.exp(-density), (blur, blur, 0), mode="nearest", truncate=3)
    height, width = image.shape[:2]
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    slope = 0.05 * rng.standard_normal(2)
    image *= (1 + slope[0] * y + slope[1] * x - scope.vignette * (x * x + y * y) / 2)[..., None]
    image *= 1 + 0.03 * rng.standard_normal()
    if scope.round_frame:
        distance = np.hypot(y * height, x * width) / 2
        image *= _inside(_between(rng, 0.8, 0.93) * distance.max() - distance, 0.7)[..., None]
    sides = np.rint(min(height, width) * scope.border * 2 * rng.random((2, 2))).astype(int)
    image = np.pad(image, (*sides, (0, 0)))
    image += 3 + scope.noise * rng.standard_normal(image.shape) * np.sqrt(0.2 + 0.8 * image / 255)
    return np.rint(np.clip(image, 0, 255)).astype(np.uint8)
