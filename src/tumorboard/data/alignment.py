"""Correlates the details of two thumbnails after one is shifted and scaled onto the other."""

from functools import cache
from typing import TypeAlias

import numpy as np
import scipy  # which imports scipy.fft when that is first used
from numpy.typing import NDArray

from tumorboard.data.chains import Floats, Rows

SIDE = 48  # pixels: side of a thumbnail
BLUR = 4.5  # pixels of a thumbnail: standard deviation of the blur that is subtracted; the rest is the detail
FAINT = 1.0  # grey levels: a picture whose detail has a smaller standard deviation is too faint to compare
TAIL = 0.1  # share of a picture's detail that lies beyond each side of its frame
COARSE_STEPS = 2  # least-squares steps of the alignment on thumbnails of half the side
STEPS = 4  # least-squares steps on whole thumbnails
HOPE = 0.4  # correlation of the halved thumbnails below which the alignment is given up
FARTHEST = 0.18  # half sides: largest shift of a picture that keeps its scale
LARGEST = 0.5  # largest change of scale that the alignment makes
CHUNK = 32  # pairs that fit into a processor's cache

Thumbnails: TypeAlias = NDArray[np.uint8]  # [N, SIDE, SIDE], grey
Flags: TypeAlias = NDArray[np.bool_]
Frames: TypeAlias = Floats  # [N, 4]: top, bottom, left, right, -1 to 1 over the picture


def details(thumbs: Floats) -> Floats:
    """Returns thumbnails float32[N, side, side] minus their Gaussian blur."""
    blur = _blurring(thumbs.shape[1])
    return np.asarray(thumbs - blur @ thumbs @ blur.T)


@cache
def _blurring(side: int) -> Floats:
    """Returns the matrix float32[side, side] that blurs along one axis."""
    pixels = np.arange(side)
    blur = np.exp(-((pixels[:, None] - pixels) ** 2) / (2 * BLUR**2))
    return np.asarray(blur / blur.sum(1, keepdims=True), dtype=np.float32)


def detail_frames(detail: Floats) -> Frames:
    """Returns the rectangles that contain all but a TAIL of the detail's energy on each of the four sides.

    They move and grow with what a picture shows, whatever margin surrounds it.

    Args:
        detail: float32[N, SIDE, SIDE], as `details` returns it.
    """
    energy = detail * detail
    ends = []
    for axis in (2, 1):
        total = np.cumsum(energy.sum(axis), axis=1)
        total /= np.maximum(total[:, -1:], 1e-6)
        for share in (TAIL, 1 - TAIL):
            pixel = np.argmax(total >= share, axis=1)
            rows = np.arange(len(total))
            before = np.where(pixel > 0, total[rows, pixel - 1], 0)
            place = pixel + (share - before) / np.maximum(total[rows, pixel] - before, 1e-6)
            ends.append(place * (2 / SIDE) - 1)
    return np.stack(ends, axis=1).astype(np.float32)


def correlate(thumbs: Thumbnails, first: Rows, second: Rows, mirrored: Flags) -> Floats:
    """Returns the correlation float32[P] of the aligned details of pairs of thumbnails.

    The thumbnail with the larger frame, which shows its content at the larger scale, is moved onto the other one.
    The alignment starts from equal places or from equal frames, whichever correlates more.

    Args:
        thumbs: grey thumbnails uint8[N, SIDE, SIDE].
        first: row of one thumbnail of each pair, int64[P].
        second: row of the other thumbnail, int64[P].
        mirrored: whether the first one is mirrored before the comparison, bool[P].
    """
    parts = [np.empty(0, np.float32)]
    for start in range(0, len(first), CHUNK):
        part = slice(start, start + CHUNK)
        moved, fixed = thumbs[first[part]].astype(np.float32), thumbs[second[part]].astype(np.float32)
        moved[mirrored[part]] = moved[mirrored[part]][:, :, ::-1]
        frames, fixed_frames = detail_frames(details(moved)), detail_frames(details(fixed))
        smaller = _area(frames) < _area(fixed_frames)
        moved[smaller], fixed[smaller] = fixed[smaller], moved[smaller]
        frames[smaller], fixed_frames[smaller] = fixed_frames[smaller], frames[smaller]
        parts.append(_align(moved, fixed, _place_of_frames(frames, fixed_frames)))
    return np.concatenate(parts)


def _area(frames: Frames) -> Floats:
    return np.asarray((frames[:, 1] - frames[:, 0]) * (frames[:, 3] - frames[:, 2]))


def _place_of_frames(moved: Frames, fixed: Frames) -> Floats:
    """Returns places float32[P, 4], as in `_align`, that lay the frames of moved pictures on those of fixed ones."""
    scales, shifts = [], []
    for low, high in ((2, 3), (0, 1)):
        scale = (moved[:, high] - moved[:, low]) / np.maximum(fixed[:, high] - fixed[:, low], 1e-3)
        scales.append(scale - 1)
        shifts.append((moved[:, low] + moved[:, high] - (fixed[:, low] + fixed[:, high]) * scale) / 2)
    return _within_reach(np.stack([*shifts, *scales], 1))


def _align(moved: Floats, fixed: Floats, place: Floats) -> Floats:
    """Returns the best correlation float32[P] over the steps of an alignment by shift and scale of either axis.

    It begins on thumbnails of half the side: at the scale of either start, the shift with the largest correlation is
    taken and improved. Pairs that correlate by less than HOPE then are given up, with -1.

    Args:
        moved: pictures float32[P, SIDE, SIDE]; their details are taken after they are moved, at the scale of `fixed`.
        fixed: the pictures that they are moved onto, float32[P, SIDE, SIDE].
        place: where the alignment may start, float32[P, 4]: shift in x, in y, scale in x, in y.
    """
    small, small_details = _halved(moved), details(_halved(fixed))
    ends = []
    for start in (np.zeros_like(place), place):
        end = _shift(small, small_details, start)
        for _ in range(COARSE_STEPS):
            end = _improve(*_warp(small, small_details, end)[:2], small_details, end)
        ends.append((end, _warp(small, small_details, end)[2]))
    (from_place, correlation), (from_frame, other) = ends
    rows = np.flatnonzero(np.maximum(correlation, other) >= HOPE)
    place = np.where((other > correlation)[:, None], from_frame, from_place)[rows]
    best = np.full(len(moved), -1, np.float32)
    moved, fixed = moved[rows], details(fixed[rows])
    for step in range(STEPS + 1):
        warped, inside, correlation = _warp(moved, fixed, place)
        best[rows] = np.maximum(best[rows], correlation)
        if step < STEPS:
            place = _improve(warped, inside, fixed, place)
    return best


def _shift(moved: Floats, fixed: Floats, place: Floats) -> Floats:
    """Returns places with the best-correlating shift, which is up to a third of the side from the given one."""
    side = moved.shape[1]
    surface = correlation_by_shift(fixed, _warp(moved, fixed, place)[0], side // 3)
    best = surface.reshape(len(surface), -1).argmax(1)
    y, x = (steps - side // 3 for steps in np.unravel_index(best, surface.shape[1:]))
    shift = np.stack([x, y], 1).astype(np.float32) * (2 / side)
    return np.concatenate([place[:, :2] - shift * (1 + place[:, 2:]), place[:, 2:]], 1).astype(np.float32)


def correlation_by_shift(one: Floats, other: Floats, most: int) -> Floats:
    """Returns the Pearson correlation float32[P, S, S] of the parts that pairs of pictures share, by shift in y and x.

    At the shift (y, x), pixel (row, column) of the other picture lies on pixel (row + y, column + x) of the first one.
    The correlation is -1 where one of the shared parts has a standard deviation below FAINT.

    Args:
        one: details float32[P, side, side].
        other: details of the other pictures, float32[P, side, side].
        most: largest shift in pixels; S is 2 * most + 1.
    """
    side, shifts = one.shape[1], np.arange(-most, most + 1)
    padded = scipy.fft.next_fast_len(side + most, real=True)
    spectra = [scipy.fft.rfft2(pictures, (padded, padded)) for pictures in (one, other)]
    products = scipy.fft.irfft2(spectra[0] * np.conj(spectra[1]), (padded, padded))[:, shifts[:, None], shifts]
    low, high = np.maximum(0, shifts), np.minimum(side, side + shifts)
    area = np.outer(high - low, high - low)
    sums, squares = [], []
    for pictures, start, stop in ((one, low, high), (other, side - high, side - low)):
        sums.append(_window_sums(pictures, start, stop))
        squares.append(_window_sums(pictures * pictures, start, stop) - sums[-1] ** 2 / area)
    faint = np.minimum(*squares) < FAINT**2 * area
    spread = np.sqrt(np.maximum(squares[0], FAINT**2) * np.maximum(squares[1], FAINT**2))
    return np.where(faint, -1, (products - sums[0] * sums[1] / area) / spread).astype(np.float32)


def _window_sums(pictures: Floats, low: Rows, high: Rows) -> NDArray[np.float64]:
    """Returns the sums float64[P, S, S] over rows and columns from `low` to `high`, each int64[S]."""
    total = np.pad(pictures.cumsum(1, dtype=np.float64).cumsum(2), ((0, 0), (1, 0), (1, 0)))
    rows = total[:, high] - total[:, low]
    return np.asarray(rows[:, :, high] - rows[:, :, low])


def _halved(pictures: Floats) -> Floats:
    """Returns pictures of half the side, by the mean of 2 x 2 pixels."""
    half = pictures.shape[1] // 2
    return np.asarray(pictures.reshape(len(pictures), half, 2, half, 2).mean((2, 4)), dtype=np.float32)


def _ramp(side: int) -> Floats:
    """Returns the centers float32[side] of pixels, from -1 to 1 over the picture."""
    return (np.arange(side, dtype=np.float32) - (side - 1) / 2) / np.float32(side / 2)


def _warp(moved: Floats, fixed: Floats, place: Floats) -> tuple[Floats, Floats, Floats]:
    """Returns the details of moved pictures, a mask that is 1 inside the picture, and their correlations."""
    ramp = _ramp(moved.shape[1])
    x = place[:, :1] + ramp * (1 + place[:, 2:3])
    y = place[:, 1:2] + ramp * (1 + place[:, 3:4])
    warped = details(np.asarray(_sampling(y) @ moved @ _sampling(x).transpose(0, 2, 1), dtype=np.float32))
    inside = ((np.abs(y) <= 1)[:, :, None] & (np.abs(x) <= 1)[:, None, :]).astype(np.float32)
    return warped, inside, _correlation(warped, fixed, inside)


def _improve(warped: Floats, inside: Floats, fixed: Floats, place: Floats) -> Floats:
    """Returns the places after one least-squares step."""
    side = warped.shape[1]
    ramp = _ramp(side)
    down, right = np.gradient(warped, 2 / side, axis=(1, 2))
    terms = [warped, np.ones_like(warped), right, down, right * ramp, down * ramp[:, None]]
    design = (np.stack(terms, 1) * inside[:, None]).reshape(len(warped), 6, side**2)
    square = design @ design.transpose(0, 2, 1)
    # A small ridge: a picture of stripes does not determine the shift along them.
    square += np.eye(6, dtype=np.float32) * (1e-4 / 6) * np.trace(square, axis1=1, axis2=2)[:, None, None]
    solution = np.linalg.solve(square, design @ fixed.reshape(len(warped), side**2, 1))[..., 0]
    change = np.asarray(solution[:, 2:] / np.maximum(solution[:, :1], 0.3), dtype=np.float32)
    return _within_reach(place + change)


def _within_reach(place: Floats) -> Floats:
    """Returns places with scales of LARGEST at most, and shifts of FARTHEST beyond what the scale itself explains.

    A picture that is cut from another one, or set into margins, is shifted by its change of scale at most. An object
    that moves over an even background is no copy.
    """
    scales = np.clip(place[:, 2:], -LARGEST, LARGEST)
    limits = FARTHEST + np.abs(scales)
    return np.concatenate([np.clip(place[:, :2], -limits, limits), scales], 1).astype(np.float32)


def _sampling(places: Floats) -> Floats:
    """Returns matrices float32[P, side, side] that interpolate linearly at places float32[P, side] in [-1, 1]."""
    side = places.shape[1]
    pixel = np.clip(places * (side / 2) + (side - 1) / 2, 0, side - 1)
    return np.asarray(np.maximum(0, 1 - np.abs(pixel[:, :, None] - np.arange(side, dtype=np.float32))))


def _correlation(one: Floats, other: Floats, weight: Floats) -> Floats:
    """Returns the weighted Pearson correlation float32[P] of images float32[P, SIDE, SIDE]."""
    total = np.maximum(weight.sum((1, 2), keepdims=True), 1)
    one, other = (image - (image * weight).sum((1, 2), keepdims=True) / total for image in (one, other))
    squares = (weight * one * one).sum((1, 2)) * (weight * other * other).sum((1, 2))
    return np.asarray((weight * one * other).sum((1, 2)) / np.sqrt(np.maximum(squares, 1e-12)))
