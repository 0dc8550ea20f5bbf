"""Finds overlaps: two pictures that show parts of one field, one of them shifted and perhaps in another focus."""

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import pandas as pd
import scipy  # which imports scipy.ndimage when that is first used
from numpy.typing import NDArray

from tumorboard.base.progress import tracked
from tumorboard.base.randomness import keys_of, order
from tumorboard.data.alignment import BLUR, FAINT, SIDE, Thumbnails, correlation_by_shift
from tumorboard.data.chains import Floats, Rows
from tumorboard.data.near_duplicates import EXHAUSTIVE, ReadCrops, read_thumbnails

FOCUS = 1.0  # pixels of a thumbnail: standard deviation of the blur under which two foci look alike
CORRELATION = 0.95  # lowest correlation of the shared parts' details at which two pictures overlap
UNIQUE = 0.2  # least excess of the best shift's correlation over every other shift's; a periodic texture fails
FARTHEST = SIDE * 2 // 3  # pixels: largest shift that is examined
RADIUS = 6  # pixels: shifts that are nearer to the best one are not other shifts
ROUNDING = 1.5 / SIDE  # amount by which a share may be smaller, since shifts are whole pixels
POINTS = 20  # points per picture that are compared with those of other pictures
PATCH = 6  # pixels: a point's patch has a side of 2 * PATCH + 1
# Standard deviations of the two blurs whose difference shows blobs.
FINE = 1.5  # pixels
WIDE = 3.0  # pixels
DIMENSIONS = 24  # numbers per patch
PROBES = 4  # cells of the inverted file that are searched per point
ALIKE = 0.75  # lowest cosine of two patches that may show one point
MATCHES = 8  # patches per cell that a point is matched with at most
VOTES = 3  # fewest matches with the same shift that make a pair a candidate
BIN = 4  # pixels: shifts in one bin count as the same
SAMPLE = 8192  # patches, about, from which their principal components are computed
BLOCK = 1024  # pictures whose points are matched at a time
BATCH = 64  # pairs correlated at a time

Codes: TypeAlias = NDArray[np.int64]
Overlaps: TypeAlias = pd.DataFrame  # one row per pair of pictures: first < second (ids), correlation; sorted


class _Points(NamedTuple):
    """Points of pictures, each with the descriptor of the patch around it."""

    picture: Codes  # int64[M], row of the thumbnail; ascending
    place: Codes  # int64[M, 2], row and column in pixels
    descriptor: Floats  # float32[M, D] of length 1


def find_overlaps(ids: Sequence[str], read_crops: ReadCrops, share: float) -> Overlaps:
    """Finds the pairs of pictures that show parts of one field, shifted and perhaps in another focus.

    1. Candidates: each picture has up to POINTS blobs with the whitened pixels around them. Two pictures are candidates
       if VOTES pairs of their blobs look alike and are shifted by the same vector. An inverted file finds the blobs.
    2. Verification: the details of the two shared parts correlate by CORRELATION or more at one shift, and by UNIQUE
       less at every other shift.

    Up to EXHAUSTIVE pictures, all pairs are verified. Rotated, scaled and mirrored fields are not looked for. Pictures
    of similar objects at one place, such as neighboring slices of a scan, overlap by this rule.

    Args:
        ids: ids of images, none of them copies of one another; in any order.
        read_crops: returns the crops uint8[N, S, S, 3] of ids.
        share: smallest share of the area that two pictures must have in common, in (0, 1).

    Source: Kuglin & Hines 1975 (shift by correlation), Lowe 2004 (blobs that vote for a position).
    """
    ids = sorted(ids)
    thumbs = read_thumbnails(ids, read_crops)[0]
    if len(ids) <= EXHAUSTIVE:
        first, second = np.triu_indices(len(ids), 1)
    else:
        first, second = _candidates(thumbs, keys_of(ids), share)
    correlation = np.empty(len(first), np.float32)
    for start in range(0, len(first), BATCH):
        part = slice(start, start + BATCH)
        correlation[part] = overlap_correlation(thumbs, first[part], second[part], share)
    found, names = correlation >= CORRELATION, np.array(ids, dtype=object)
    pairs = pd.DataFrame({"first": names[first[found]], "second": names[second[found]]}, dtype=object)
    return pairs.assign(correlation=correlation[found].astype(np.float64))


def overlap_correlation(thumbs: Thumbnails, first: Rows, second: Rows, share: float) -> Floats:
    """Returns the correlation float32[P] of what pairs of pictures share at their best shift, or -1.

    The correlation is -1 where the best shift is no single peak, or where the shared part has no detail.

    Args:
        thumbs: grey thumbnails uint8[N, SIDE, SIDE].
        first: row of one picture of each pair, int64[P].
        second: row of the other picture, int64[P].
        share: smallest share of the area that they must have in common.
    """
    surface = correlation_by_shift(_focused(thumbs[first]), _focused(thumbs[second]), FARTHEST)
    length = 1 - np.abs(np.arange(-FARTHEST, FARTHEST + 1)) / SIDE
    areas = np.outer(length, length)
    best = np.where(areas >= share - ROUNDING, surface, -1).reshape(len(first), -1).argmax(1)
    rows, columns = np.unravel_index(best, areas.shape)
    near_row, near_column = (np.abs(np.arange(len(areas)) - place[:, None]) <= RADIUS for place in (rows, columns))
    near = near_row[:, :, None] & near_column[:, None, :]
    runner_up = np.where(near | (areas < share / 2), -1, surface).max((1, 2))
    peak = _interpolate(surface, rows, columns)
    return np.where(peak - runner_up >= UNIQUE, peak, -1).astype(np.float32)


def _focused(thumbs: Thumbnails) -> Floats:
    """Returns details float32[N, SIDE, SIDE] without the finest ones, which another focus changes."""
    greys = thumbs.astype(np.float32)
    return np.asarray(_blurred(greys, FOCUS) - _blurred(greys, BLUR))


def _blurred(greys: Floats, sigma: float) -> Floats:
    """Returns pictures float32[N, SIDE, SIDE] after a Gaussian blur of the given standard deviation in pixels."""
    return np.asarray(scipy.ndimage.gaussian_filter(greys, (0, sigma, sigma), mode="nearest"))


def _interpolate(surface: Floats, rows: Codes, columns: Codes) -> Floats:
    """Returns the height float32[P] of each peak between the shifts, by a parabola along either axis; 1 at most."""
    pair, last = np.arange(len(surface)), surface.shape[1] - 1
    peak = surface[pair, rows, columns]
    height = peak.copy()
    for y, x in ((1, 0), (0, 1)):
        before = surface[pair, np.maximum(rows - y, 0), np.maximum(columns - x, 0)]
        after = surface[pair, np.minimum(rows + y, last), np.minimum(columns + x, last)]
        curvature = 2 * peak - before - after
        inside = (peak >= before) & (peak >= after) & (curvature > 1e-6)
        height += np.where(inside, (after - before) ** 2 / (8 * np.maximum(curvature, 1e-6)), 0)
    return np.asarray(np.minimum(height, 1))


def _candidates(thumbs: Thumbnails, keys: NDArray[np.uint64], share: float) -> tuple[Rows, Rows]:
    """Returns the pairs of pictures, first < second, of which VOTES points match at one shift; sorted."""
    points = _points(thumbs)
    if not len(points.picture):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    drawn = order(0, keys, 1)
    drawn = drawn[np.isin(drawn, points.picture)]
    owners = np.sort(drawn[: int(np.ceil(np.sqrt(len(points.picture))))])
    centers = points.descriptor[np.searchsorted(points.picture, owners)]
    rows = np.arange(len(points.picture))
    parts = [points.descriptor[start : start + 8 * BLOCK] for start in rows[:: 8 * BLOCK]]
    cell_of = np.concatenate([(part @ centers.T).argmax(1) for part in parts])
    limits = np.cumsum(np.bincount(cell_of, minlength=len(centers)))[:-1]
    members = np.split(np.argsort(cell_of, kind="stable"), limits)
    codes = []
    for start in tracked(range(0, len(thumbs), BLOCK), "overlaps", "batch"):
        asking = np.arange(*np.searchsorted(points.picture, (start, start + BLOCK)))
        codes.append(_vote(points, *_match(points, asking, centers, members), len(thumbs), share))
    first, second = np.divmod(np.unique(np.concatenate(codes)), len(thumbs))
    return first, second


def _match(points: _Points, asking: Rows, centers: Floats, members: list[Rows]) -> tuple[Rows, Rows]:
    """Returns the rows of points `asking` and of points alike, at most MATCHES for each per searched cell."""
    probes = min(PROBES, len(centers))
    cells = np.argpartition(-(points.descriptor[asking] @ centers.T), probes - 1)[:, :probes].ravel()
    by_cell = np.argsort(cells, kind="stable") // probes
    limits = np.cumsum(np.bincount(cells, minlength=len(centers)))[:-1]
    one, other = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for rows, held in zip(np.split(by_cell, limits), members, strict=True):
        if not len(rows) or not len(held):
            continue
        own = asking[rows]
        cosine = points.descriptor[own] @ points.descriptor[held].T
        cosine[points.picture[own][:, None] == points.picture[held]] = -1
        best = np.argpartition(-cosine, min(MATCHES, len(held)) - 1)[:, :MATCHES]
        row, rank = np.nonzero(np.take_along_axis(cosine, best, 1) >= ALIKE)
        one.append(own[row])
        other.append(held[best[row, rank]])
    return np.concatenate(one), np.concatenate(other)


def _vote(points: _Points, one: Rows, other: Rows, count: int, share: float) -> Codes:
    """Returns the pairs of pictures, first * count + second, for which VOTES matches give one shift; unsorted."""
    swap = points.picture[one] > points.picture[other]
    one, other = np.where(swap, other, one), np.where(swap, one, other)
    matches = np.unique(np.stack([one, other], 1), axis=0)  # two points that found each other are one match
    one, other = matches[:, 0], matches[:, 1]
    shift = points.place[one] - points.place[other]
    inside = np.prod(1 - np.abs(shift) / SIDE, axis=1) >= share - BIN / SIDE
    pair = (points.picture[one] * count + points.picture[other])[inside]
    shift = shift[inside] + SIDE
    bins, voted = 2 * SIDE, []
    for offset in (0, BIN // 2):  # a second grid of bins, for shifts at the limit between two
        place = (shift + offset) // BIN
        code, votes = np.unique((pair * bins + place[:, 0]) * bins + place[:, 1], return_counts=True)
        voted.append(code[votes >= VOTES] // bins**2)
    return np.concatenate(voted)


def _points(thumbs: Thumbnails) -> _Points:
    """Returns the strongest blobs of each picture with the whitened pixels around them."""
    pictures, places, patches = [], [], []
    for start in range(0, len(thumbs), BLOCK):
        greys = thumbs[start : start + BLOCK].astype(np.float32)
        smooth = _blurred(greys, FINE)
        blobs = np.abs(smooth - _blurred(greys, WIDE))
        blobs[(blobs < scipy.ndimage.maximum_filter(blobs, (1, 5, 5))) | (blobs < FAINT)] = 0
        inner = blobs[:, PATCH:-PATCH, PATCH:-PATCH]
        strength = inner.reshape(len(greys), -1)
        best = np.argpartition(-strength, POINTS - 1)[:, :POINTS]
        row, rank = np.nonzero(np.take_along_axis(strength, best, 1) > 0)
        place = np.stack(np.divmod(best[row, rank], inner.shape[2]), 1) + PATCH
        around = np.arange(-PATCH, PATCH + 1)
        patch = smooth[row[:, None, None], (place[:, :1] + around)[:, :, None], (place[:, 1:] + around)[:, None, :]]
        pictures.append(row + start)
        places.append(place)
        patches.append(patch.reshape(len(row), around.size**2))
    return _Points(np.concatenate(pictures), np.concatenate(places), _whiten(np.concatenate(patches)))


def _whiten(patches: Floats) -> Floats:
    """Returns the whitened principal components float32[M, DIMENSIONS] of patches float32[M, ...], of length 1."""
    patches = patches - patches.mean(1, keepdims=True)
    patches /= np.maximum(np.linalg.norm(patches, axis=1, keepdims=True), 1e-6)
    drawn = patches[:: 1 + len(patches) // SAMPLE]
    values, vectors = np.linalg.eigh(drawn.T @ drawn)
    scale = np.sqrt(np.maximum(values[-DIMENSIONS:], max(1e-4 * float(values[-1]), 1e-12)))
    whitened = patches @ (vectors[:, -DIMENSIONS:] / scale).astype(np.float32)
    return np.asarray(whitened / np.maximum(np.linalg.norm(whitened, axis=1, keepdims=True), 1e-6))
