"""Draws one stained blood smear: a white cell, normal or blast, among red cells, as a microscope's camera sees it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

Field: TypeAlias = NDArray[np.float64]  # one value per pixel, float64[H, W], unless stated otherwise
Plane: TypeAlias = NDArray[np.complex128]  # x + iy of each pixel from a center, complex128[H, W]


class Cue(NamedTuple):
    """The distribution of a feature by which hematologists distinguish the two classes."""

    normal: float  # mean in normal cells
    blast: float  # mean in blasts
    deviation: float  # standard deviation in both


# The cues overlap between the classes so far that each one alone sorts seven to nine cells of ten. Seen all at once and
# without error they would sort nearly all cells of a typical patient; the hard patients are those whose maturity is far
# from 0, see Patient. Lengths are shares of the cell's radius.
CUES = {
    "nucleus_share": Cue(0.545, 0.665, 0.057),  # area of the nucleus divided by that of the cell
    "basophilia": Cue(0.35, 0.55, 0.107),  # optical density of the blue in the cytoplasm
    "clump_size": Cue(0.095, 0.050, 0.017),  # size of the chromatin's clumps: coarse in normal cells, fine in blasts
    "clump_contrast": Cue(0.28, 0.24, 0.043),  # contrast of the chromatin's clumps
    "indentation": Cue(0.06, 0.30, 0.10),  # depth of the cleft in the nucleus
    "nucleoli": Cue(0.3, 2.0, 0.64),  # number per nucleus
    "granules": Cue(6.0, 2.0, 1.8),  # number in the cytoplasm
}
BLAST_SHARE = 0.65  # mean share of blasts over all patients

# Optical density of each stain in red, green and blue light.
STAINS = np.array(
    [
        [0.95, 1.45, 0.38],  # azure bound to chromatin: purple
        [0.62, 0.40, 0.10],  # azure bound to ribosomes: blue
        [0.08, 0.42, 0.34],  # eosin: pink
    ]
)
CHROMATIN, BLUE, EOSIN = range(3)  # rows of STAINS


@dataclass(frozen=True)
class Microscope:
    """The effect of a microscope and its camera on every picture."""

    light: Field  # float64[3], level of bare glass, 0 to 255
    magnification: float  # scale factor
    blur: float  # standard deviation, pixels
    noise: float  # standard deviation, grey levels
    vignette: float  # share of the light lost in the corners
    round_frame: bool  # a round field of view instead of a rectangular one
    border: float  # mean width of the dark border divided by the shorter side
    quality: float  # mean JPEG quality


@dataclass(frozen=True)
class Patient:
    """What all pictures of a patient have in common: microscope, staining and blood."""

    microscope: Microscope
    stain: Field  # float64[3], strength of each stain
    blast_share: float  # probability that a cell is a blast
    maturity: float  # share of the cues' difference by which the cells of both classes look more like normal ones
    red_cells: float  # density of the red cells, 0 to 1
    pallor: float  # pallor of the red cells' centers, 0 to 1


def between(rng: Generator, low: float, high: float) -> float:
    """Draws a uniform number from `low` to `high`."""
    return low + (high - low) * float(rng.random())


def draw_smear(shape: tuple[int, int], label: str, person: Patient, rng: Generator) -> Field:
    """Draws a white cell in the center, red cells around it and sometimes a second white cell.

    Args:
        shape: height and width of the picture, pixels.
        label: class of the cell in the center, 'normal' or 'blast'.
        person: the patient.
        rng: the picture's random generator.

    Returns:
        float64[3, H, W], the amount of each stain; the rows are those of STAINS.
    """
    layers = np.zeros((3, *shape))
    scale = min(shape) * person.microscope.magnification
    radius = scale * between(rng, 0.31, 0.39)
    center = np.array(shape) / 2 + 0.045 * scale * rng.standard_normal(2)
    taken = [(center, radius)]
    if rng.random() < 0.3:  # a second white cell of either class, mostly outside the picture
        angle = 2 * np.pi * rng.random()
        other = center + np.array([np.sin(angle), np.cos(angle)]) * scale * between(rng, 0.62, 0.75)
        taken.append((other, scale * between(rng, 0.24, 0.34)))
        cues = _draw_cues("blast" if rng.random() < BLAST_SHARE else "normal", person.maturity, rng)
        _draw_white_cell(layers, *taken[1], cues=cues, rng=rng)
    _draw_red_cells(layers, taken, scale=scale, person=person, rng=rng)
    _draw_white_cell(layers, center, radius, cues=_draw_cues(label, person.maturity, rng), rng=rng)
    return layers


def _draw_cues(label: str, maturity: float, rng: Generator) -> dict[str, float]:
    """Draws the value of each cue for one cell of a patient with the given maturity."""
    blast = (label == "blast") - maturity  # 0: as in the mean normal cell, 1: as in the mean blast
    return {
        name: cue.normal + blast * (cue.blast - cue.normal) + cue.deviation * float(rng.standard_normal())
        for name, cue in CUES.items()
    }


def _window(shape: Sequence[int], center: Field, reach: float) -> tuple[slice, slice]:
    """Returns the rows and columns of a field within `reach` pixels of a center; empty outside the field."""
    low = np.clip(np.floor(center - reach), 0, shape).astype(int)
    high = np.clip(np.ceil(center + reach) + 1, 0, shape).astype(int)
    return slice(low[0], high[0]), slice(low[1], high[1])


def _plane(window: tuple[slice, slice], center: Field) -> Plane:
    """Returns the position of each pixel of a window relative to a center."""
    rows, columns = np.ogrid[window]
    plane: Plane = (columns - center[1]) + 1j * (rows - center[0])
    return plane


def _depth(plane: Plane, radius: float, bumps: Plane) -> Field:
    """Returns how many pixels each pixel lies inside an outline, negative outside.

    The outline is a bumpy circle, radius * (1 + real part of the sum of bumps[k] * exp(i (k + 2) angle)).
    """
    distance = np.abs(plane)
    direction: Plane = plane / np.maximum(distance, 1e-9)
    wave = np.zeros_like(plane)
    for bump in bumps[::-1]:
        wave = (wave + bump) * direction
    return radius * (1 + (wave * direction).real) - distance


def _inside(depth: Field, softness: float) -> Field:
    """Returns 1 inside an outline and 0 outside, with a smooth step of 4 * softness pixels between."""
    step = np.clip(depth / (4 * softness) + 0.5, 0, 1)
    return step * step * (3 - 2 * step)


def _soft_minimum(a: Field, b: Field, reach: float) -> Field:
    """Returns the smaller of two depths, rounded where they differ by less than `reach`, to join shapes smoothly."""
    rounding: Field = np.maximum(reach - np.abs(a - b), 0) ** 2 / (4 * reach)
    return np.minimum(a, b) - rounding


def _draw_bumps(rng: Generator, amplitude: float, count: int) -> Plane:
    """Draws complex128[count], the amplitude and phase of each bump of an outline; later ones are smaller."""
    phases = np.exp(2j * np.pi * rng.random(count))
    bumps: Plane = amplitude * rng.random(count) / (1 + np.arange(count)) * phases
    return bumps


def _draw_grain(rng: Generator, shape: tuple[int, ...], size: float) -> Field:
    """Draws smooth noise of unit variance whose clumps are about `size` pixels wide."""
    smooth = gaussian_filter(rng.standard_normal(shape), size, mode="wrap", truncate=3)
    # A Gaussian filter of width s divides the deviation of white noise by 2 s sqrt(pi).
    grain: Field = smooth * 2 * size * np.sqrt(np.pi)
    return grain


def _draw_red_cells(
    layers: Field, taken: list[tuple[Field, float]], *, scale: float, person: Patient, rng: Generator
) -> None:
    """Adds red cells where they overlap no cell in `taken` (centers and radii), and appends them to `taken`."""
    shape = layers.shape[1:]
    for _ in range(int(22 * person.red_cells)):
        radius = scale * between(rng, 0.15, 0.19)
        center = rng.random(2) * (np.array(shape) + 2 * radius) - radius
        if any(np.hypot(*(center - other)) < 0.93 * (radius + reach) for other, reach in taken):
            continue
        taken.append((center, radius))
        window = _window(shape, center, 1.3 * radius)
        plane = _plane(window, center)
        dent = np.exp(-(np.abs(plane) ** 2) / (0.22 * radius**2))
        disc = _inside(_depth(plane, radius, _draw_bumps(rng, 0.12, 3)), 0.025 * radius)
        layers[(EOSIN, *window)] += disc * (1.1 - person.pallor * dent) * between(rng, 0.85, 1.15)


def _draw_white_cell(layers: Field, center: Field, radius: float, *, cues: dict[str, float], rng: Generator) -> None:
    """Adds a white cell to the stains and removes what lies beneath it."""
    window = _window(layers.shape[1:], center, 1.35 * radius)
    plane = _plane(window, center)
    cell = _inside(_depth(plane, radius, _draw_bumps(rng, 0.09, 4)), 0.022 * radius)
    nucleus_radius = radius * np.sqrt(np.clip(cues["nucleus_share"], 0.3, 0.86))
    offset = (radius - nucleus_radius) * 0.7 * rng.random() * np.exp(2j * np.pi * rng.random())
    nucleus, chromatin = _draw_nucleus(plane - offset, nucleus_radius, radius, cues=cues, rng=rng)
    nucleus *= cell
    cytoplasm = cell * (1 - nucleus)
    layers[(slice(None), *window)] *= 1 - cell
    mottle = 1 + 0.22 * _draw_grain(rng, plane.shape, 0.05 * radius)
    layers[(BLUE, *window)] += cytoplasm * mottle * max(cues["basophilia"], 0.05)
    layers[(EOSIN, *window)] += cytoplasm * 0.22
    layers[(CHROMATIN, *window)] += nucleus * chromatin + cytoplasm * 0.06 * mottle
    layers[(CHROMATIN, *window)] += cytoplasm * _draw_granules(
        plane, nucleus_radius, radius, count=cues["granules"], rng=rng
    )


def _draw_nucleus(
    plane: Plane, radius: float, cell: float, *, cues: dict[str, float], rng: Generator
) -> tuple[Field, Field]:
    """Draws a nucleus with a cleft, clumps, a dark rim and pale nucleoli.

    Args:
        plane: positions relative to the center of the nucleus.
        radius: radius of the nucleus, pixels.
        cell: radius of the cell, pixels.
        cues: value of each cue by name, as `_draw_cues` returns them.
        rng: the picture's random generator.

    Returns:
        How much of each pixel is nucleus, 0 to 1, and the density of its chromatin.
    """
    turned = plane * np.exp(2j * np.pi * rng.random())
    depth = _depth(turned, radius, _draw_bumps(rng, 0.08, 4))
    cleft = max(cues["indentation"], 0)
    notch = 1.3 * np.hypot(turned.imag, 0.12 * radius) + radius * (0.95 - 1.4 * cleft) - turned.real
    depth = _soft_minimum(depth, 0.6 * notch, 0.15 * radius)
    size = max(cues["clump_size"], 0.02) * cell
    grain = 0.85 * np.tanh(1.4 * _draw_grain(rng, plane.shape, size)) + 0.4 * _draw_grain(rng, plane.shape, 0.4 * size)
    chromatin = 0.78 * (1 + max(cues["clump_contrast"], 0.02) * grain)
    chromatin += 0.16 * np.exp(-((depth / (0.06 * cell)) ** 2))
    for _ in range(round(max(cues["nucleoli"], 0))):
        center = radius * 0.65 * np.sqrt(rng.random()) * np.exp(2j * np.pi * rng.random())
        near = np.abs(plane - center) / (cell * between(rng, 0.11, 0.16))
        chromatin *= 1 - between(rng, 0.4, 0.6) * np.exp(-(near**4)) + 0.12 * np.exp(-(((near - 1.4) / 0.35) ** 2))
    return _inside(depth, 0.022 * cell), np.maximum(chromatin, 0.1)


def _draw_granules(plane: Plane, nucleus: float, cell: float, *, count: float, rng: Generator) -> Field:
    """Draws dark grains in the ring between the nucleus and the membrane; `nucleus` and `cell` are radii."""
    dots = np.zeros(plane.shape)
    for _ in range(round(max(count, 0))):
        center = between(rng, 0.9 * nucleus, 0.97 * cell) * np.exp(2j * np.pi * rng.random())
        dots += 0.55 * np.exp(-((np.abs(plane - center) / (cell * between(rng, 0.04, 0.055))) ** 2))
    return dots


def photograph(layers: Field, person: Patient, rng: Generator) -> NDArray[np.uint8]:
    """Returns the picture that the patient's microscope and its camera take of a stained smear.

    Args:
        layers: float64[3, H, W], the amount of each stain.
        person: the patient.
        rng: the picture's random generator.

    Returns:
        uint8[H + border, W + border, 3] in RGB, with a dark frame.
    """
    microscope = person.microscope
    stain = person.stain * np.exp(0.06 * rng.standard_normal(3))
    density = np.moveaxis(layers, 0, -1) @ (STAINS * stain[:, None])
    blur = microscope.blur * between(rng, 0.8, 1.35)
    image: Field = microscope.light * gaussian_filter(np.exp(-density), (blur, blur, 0), mode="nearest", truncate=3)
    height, width = image.shape[:2]
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    slope = 0.05 * rng.standard_normal(2)
    image *= (1 + slope[0] * y + slope[1] * x - microscope.vignette * (x * x + y * y) / 2)[..., None]
    image *= 1 + 0.03 * rng.standard_normal()
    if microscope.round_frame:
        distance = np.hypot(y * height, x * width) / 2
        image *= _inside(between(rng, 0.8, 0.93) * distance.max() - distance, 0.7)[..., None]
    sides = np.rint(min(height, width) * microscope.border * 2 * rng.random((2, 2))).astype(int)
    image = np.pad(image, (*sides, (0, 0)))
    image += 3 + microscope.noise * rng.standard_normal(image.shape) * np.sqrt(0.2 + 0.8 * image / 255)
    return np.rint(np.clip(image, 0, 255)).astype(np.uint8)
