"""Finds near duplicates: images of one picture, re-saved, resized, shifted, cropped, brightened or mirrored."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple, TypeAlias

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tumorboard.base.params import Audit
from tumorboard.base.progress import tracked
from tumorboard.base.randomness import keys_of, order
from tumorboard.data.chains import Floats, Rows, select_copies
from tumorboard.data.grouping import connected_sets

SIDE = 48  # pixels: side of a thumbnail
BLUR = 4.5  # pixels of a thumbnail: standard deviation of the blur that is subtracted; the rest is the detail
FAINT = 1.0  # grey levels: an image whose detail has a smaller standard deviation is too faint to compare
COARSE = 24  # pixels: side of the picture that a descriptor is computed from
DIMENSIONS = 64  # numbers per descriptor
EXHAUSTIVE = 64  # images: up to this many, every pair is a candidate
MARGIN = 0.05  # share of the side by which a window is smaller than the picture, since a copy may be cropped
PROBES = 8  # cells of the inverted file that are searched per descriptor
STEPS = 3  # least-squares steps of the alignment
REACH = 0.15  # largest shift (in half sides) and largest change of scale that the alignment makes
READ = 512  # images read at a time
BLOCK = 1 << 24  # cosines held at a time
BATCH = 4096  # candidates verified at a time
PENDING = 1 << 20  # candidates that are collected before they are verified

Thumbnails: TypeAlias = NDArray[np.uint8]  # [N, SIDE, SIDE], grey
Flags: TypeAlias = NDArray[np.bool_]
PictureWindow: TypeAlias = tuple[float, float, float, float]  # top, bottom, left, right as shares of the side
ReadCrops: TypeAlias = Callable[[Sequence[str]], NDArray[np.uint8]]  # ids -> their crops uint8[N, S, S, 3]
Pairs: TypeAlias = pd.DataFrame  # one row per pair of copies: first, second (ids), correlation, mirrored, and more


class NearDuplicates(NamedTuple):
    """The near duplicates among images."""

    pairs: Pairs  # first < second, correlation, mirrored; enough pairs to connect every set of copies, sorted
    faint: list[str]  # ids of the images with too little detail to compare


def find_near_duplicates(ids: Sequence[str], read_crops: ReadCrops, audit: Audit) -> NearDuplicates:
    """Finds pairs of images that show the same picture, whatever their brightness and contrast.

    1. Candidates: every image has a descriptor, its coarse thumbnail whitened by principal components. Two images are
       candidates where the cosine of their descriptors is `audit.candidates` or more, for the whole picture or one of
       several slightly smaller windows. An inverted file of sqrt(N) cells finds them in time N * sqrt(N).
    2. Verification: after shift and scale are aligned by least squares, the details (a thumbnail minus its blur) must
       correlate by `audit.near` or more.
    3. Chains of similar but different pictures are taken apart (`chains.select_copies`).

    Needs about 3 kB of memory per image, 7 kB at the peak (benchmarks/audit.py). No candidate is skipped in a full
    cell: its time grows with the square of its size, its memory is bounded.

    Args:
        ids: of the images, in any order.
        read_crops: returns the crops uint8[N, S, S, 3] of ids.
        audit: `near` (None: returns no pairs), `candidates`, and `mirror` (whether mirrored copies count).

    Source: Jegou & Chum 2012 (whitening), Sivic & Zisserman 2003 (inverted file), Lucas & Kanade 1981 (alignment).
    """
    ids = sorted(ids)
    columns = {"first": object, "second": object, "correlation": np.float64, "mirrored": bool}
    if audit.near is None or len(ids) < 2:
        return NearDuplicates(pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in columns.items()}), [])
    all_thumbs, faint = _read_thumbnails(ids, read_crops)
    names = np.array(ids, dtype=object)
    clear, thumbs = names[~faint], all_thumbs[~faint]
    verifier = _Verifier(thumbs, audit.near)
    for candidates in _candidates(thumbs, keys_of(clear.tolist()), audit):
        verifier.add(*candidates)
    first, second, correlation, flipped = verifier.finish()
    copies = select_copies(
        first, second, correlation, near=audit.near, correlate=partial(_correlate_either_way, thumbs, audit.mirror)
    )
    first, second, correlation, flipped = first[copies], second[copies], correlation[copies], flipped[copies]
    pairs = pd.DataFrame({"first": clear[first], "second": clear[second]}, dtype=object)
    pairs = pairs.assign(correlation=correlation.astype(np.float64), mirrored=flipped)
    return NearDuplicates(pairs, names[faint].tolist())


def _read_thumbnails(ids: Sequence[str], read_crops: ReadCrops) -> tuple[Thumbnails, Flags]:
    """Returns thumbnails, each stretched to all 256 grey levels, and bool[N]: which are too faint."""
    thumbs = np.empty((len(ids), SIDE, SIDE), np.uint8)
    faint = np.empty(len(ids), bool)
    for start in tracked(range(0, len(ids), READ), "thumbnails", "batch"):
        part = slice(start, start + READ)
        crops = read_crops(ids[part])
        interpolation = cv2.INTER_AREA if crops.shape[1] > SIDE else cv2.INTER_LINEAR
        greys = [cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY).astype(np.float32) for crop in crops]
        small = np.stack([cv2.resize(grey, (SIDE, SIDE), interpolation=interpolation) for grey in greys])
        faint[part] = _detail(small).std((1, 2)) < FAINT
        low, high = small.min((1, 2), keepdims=True), small.max((1, 2), keepdims=True)
        thumbs[part] = np.rint((small - low) * (255 / np.maximum(high - low, 1e-6)))
    return thumbs, faint


def _detail(thumbs: Floats) -> Floats:
    """Returns thumbnails float32[N, SIDE, SIDE] minus their Gaussian blur."""
    pixels = np.arange(SIDE)
    blur = np.exp(-((pixels[:, None] - pixels) ** 2) / (2 * BLUR**2))
    blur = (blur / blur.sum(1, keepdims=True)).astype(np.float32)
    return np.asarray(thumbs - blur @ thumbs @ blur.T)


def _candidates(
    thumbs: Thumbnails, keys: NDArray[np.uint64], audit: Audit
) -> Iterator[tuple[Rows, Rows, Floats, bool]]:
    """Yields candidates: first and second int64[P], cosine float32[P], and whether the first one is mirrored."""
    count = len(thumbs)
    flips = (False, True) if audit.mirror else (False,)
    if count <= EXHAUSTIVE:
        first, second = np.triu_indices(count, 1)
        for mirrored in flips:
            yield first, second, np.ones(len(first), np.float32), mirrored
        return
    drawn = order(0, keys, 0)
    # Few images have few reliable components: with more, the descriptors of copies would differ by what is peculiar
    # to single images.
    basis = _principal_components(thumbs[np.sort(drawn[:4096])], min(DIMENSIONS, count // 16))
    whole = _descriptors(thumbs, WINDOWS[0], False, basis)
    centers = whole[np.sort(drawn[: int(np.ceil(np.sqrt(count)))])]
    cell_of = np.concatenate([(part @ centers.T).argmax(1) for part in _row_blocks(whole, len(centers))])
    members = np.split(np.argsort(cell_of, kind="stable"), np.cumsum(np.bincount(cell_of, minlength=len(centers)))[:-1])
    for mirrored in flips:
        for window in tracked(WINDOWS, "mirrored" if mirrored else "near duplicates", "window"):
            queries = whole if window == WINDOWS[0] and not mirrored else _descriptors(thumbs, window, mirrored, basis)
            pairs = _search(queries, whole, centers=centers, members=members, threshold=audit.candidates)
            for first, second, cosine in pairs:
                yield first, second, cosine, mirrored


def _search(
    queries: Floats, whole: Floats, *, centers: Floats, members: list[Rows], threshold: float
) -> Iterator[tuple[Rows, Rows, Floats]]:
    """Yields the pairs of queries and whole pictures whose cosine is `threshold` or more, cell by cell.

    Only the PROBES cells whose centers are nearest to a query are searched; `members` lists the rows of each cell.
    """
    probes = min(PROBES, len(centers))
    nearest = [
        np.argpartition(-(part @ centers.T), probes - 1)[:, :probes] for part in _row_blocks(queries, len(centers))
    ]
    cells = np.concatenate(nearest).ravel()
    by_cell = np.argsort(cells, kind="stable") // probes
    limits = np.cumsum(np.bincount(cells, minlength=len(centers)))[:-1]
    for asking, held in zip(np.split(by_cell, limits), members, strict=True):
        size = max(1, BLOCK // max(1, len(held)))
        for start in range(0, len(asking), size):
            some = asking[start : start + size]
            cosine = queries[some] @ whole[held].T
            row, column = np.nonzero(cosine >= threshold)
            yield some[row], held[column], cosine[row, column]


def _row_blocks(rows: Floats, width: int) -> list[Floats]:
    """Cuts rows into blocks whose product with `width` others has BLOCK numbers at most."""
    size = max(1, BLOCK // width)
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _windows() -> tuple[PictureWindow, ...]:
    """Returns the parts of a picture that a cropped or shifted copy may show; the first is the whole picture."""
    ends = ((0.0, 1.0), (MARGIN, 1.0), (0.0, 1 - MARGIN))
    return (*((*rows, *columns) for rows in ends for columns in ends), (MARGIN / 2, 1 - MARGIN / 2) * 2)


WINDOWS = _windows()


def _coarse(thumbs: Thumbnails, window: PictureWindow, mirrored: bool) -> Floats:
    """Returns a window of each thumbnail as float32[N, COARSE**2] of mean 0 and standard deviation 1."""
    rows, columns = _averaging(*window[:2]), _averaging(*window[2:])
    # Reversed columns of the averaging matrix mirror the picture.
    small = rows @ thumbs.astype(np.float32) @ (columns[:, ::-1] if mirrored else columns).T
    flat = small.reshape(len(thumbs), -1)
    flat -= flat.mean(1, keepdims=True)
    return np.asarray(flat / np.maximum(flat.std(1, keepdims=True), 1e-6))


def _averaging(low: float, high: float) -> Floats:
    """Returns the matrix float32[COARSE, SIDE] that averages pixels by area between two shares of the side."""
    edges = (low + np.arange(COARSE + 1) / COARSE * (high - low)) * SIDE
    pixels = np.arange(SIDE)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    overlap = np.maximum(overlap, 0)
    return np.asarray(overlap / overlap.sum(1, keepdims=True), dtype=np.float32)


def _principal_components(thumbs: Thumbnails, dimensions: int) -> tuple[Floats, Floats]:
    """Returns the mean of coarse pictures and the projection [COARSE**2, dimensions] that whitens them."""
    coarse = _coarse(thumbs, WINDOWS[0], False)
    mean = coarse.mean(0)
    values, vectors = np.linalg.eigh(np.cov(coarse, rowvar=False))
    values, vectors = values[::-1][:dimensions], vectors[:, ::-1][:, :dimensions]
    return mean, (vectors / np.sqrt(np.maximum(values, 1e-6 * values[0]))).astype(np.float32)


def _descriptors(thumbs: Thumbnails, window: PictureWindow, mirrored: bool, basis: tuple[Floats, Floats]) -> Floats:
    """Returns the whitened components of a window, float32[N, D] of length 1."""
    mean, projection = basis
    parts = [
        (_coarse(thumbs[start : start + READ], window, mirrored) - mean) @ projection
        for start in range(0, len(thumbs), READ)
    ]
    whitened = np.concatenate(parts)
    return np.asarray(whitened / np.maximum(np.linalg.norm(whitened, axis=1, keepdims=True), 1e-6))


class _Verifier:
    """Verifies candidates by the correlation of their details, in order of decreasing cosine.

    It skips candidates whose images accepted pairs already connect, so that a set of n copies costs about n
    correlations instead of n**2. A candidate is held as one number: (first * N + second) * 2 + mirrored.
    """

    def __init__(self, thumbs: Thumbnails, threshold: float) -> None:
        self._thumbs = thumbs
        self._threshold = threshold
        self._set_of = np.arange(len(thumbs))
        self._waiting: list[tuple[Rows, Floats]] = []
        self._rejected = np.empty(0, np.int64)
        self._accepted: list[tuple[Rows, Floats]] = [(np.empty(0, np.int64), np.empty(0, np.float32))]

    def add(self, first: Rows, second: Rows, cosine: Floats, mirrored: bool) -> None:
        """Collects candidates, and verifies them when there are more than PENDING."""
        apart = self._set_of[first] != self._set_of[second]
        first, second = np.minimum(first, second)[apart], np.maximum(first, second)[apart]
        codes, at = np.unique((first * len(self._thumbs) + second) * 2 + mirrored, return_index=True)
        self._waiting.append((codes, cosine[apart][at]))
        if sum(len(codes) for codes, _ in self._waiting) > PENDING:
            self._verify()

    def finish(self) -> tuple[Rows, Rows, Floats, Flags]:
        """Returns the accepted pairs, sorted: first, second, correlation, mirrored."""
        self._verify()
        codes, correlation = (np.concatenate(parts) for parts in zip(*self._accepted, strict=True))
        sort = np.argsort(codes)
        first, second, mirrored = self._decode(codes[sort])
        return first, second, correlation[sort], mirrored

    def _decode(self, codes: Rows) -> tuple[Rows, Rows, Flags]:
        pair = codes // 2
        return pair // len(self._thumbs), pair % len(self._thumbs), codes % 2 == 1

    def _verify(self) -> None:
        codes = self._take_waiting()
        rejected = [self._rejected]
        for start in range(0, len(codes), BATCH):
            batch = codes[start : start + BATCH]
            first, second, mirrored = self._decode(batch)
            apart = self._set_of[first] != self._set_of[second]
            batch, first, second, mirrored = batch[apart], first[apart], second[apart], mirrored[apart]
            correlation = correlate(self._thumbs, first, second, mirrored)
            same = correlation >= self._threshold
            rejected.append(batch[~same])
            if same.any():
                self._accepted.append((batch[same], correlation[same]))
                one, other = self._set_of[first[same]], self._set_of[second[same]]
                self._set_of = connected_sets(len(self._thumbs), one, other)[self._set_of]
        self._rejected = np.concatenate(rejected)

    def _take_waiting(self) -> Rows:
        """Returns the waiting candidates that were not rejected before, by decreasing cosine, and forgets them."""
        if not self._waiting:
            return np.empty(0, np.int64)
        codes, cosine = (np.concatenate(parts) for parts in zip(*self._waiting, strict=True))
        self._waiting = []
        best = np.lexsort((-cosine, codes))
        first_of_code = np.diff(codes[best], prepend=-1) != 0
        codes, cosine = codes[best][first_of_code], cosine[best][first_of_code]
        new = ~np.isin(codes, self._rejected, assume_unique=True)
        return np.asarray(codes[new][np.argsort(-cosine[new], kind="stable")])


def correlate(thumbs: Thumbnails, first: Rows, second: Rows, mirrored: Flags) -> Floats:
    """Returns the correlation float32[P] of the aligned details of pairs of thumbnails.

    Args:
        thumbs: grey thumbnails uint8[N, SIDE, SIDE].
        first: row of the thumbnail that is moved, int64[P].
        second: row of the thumbnail that stays, int64[P].
        mirrored: whether the first one is mirrored before, bool[P].
    """
    parts = [np.empty(0, np.float32)]
    for start in range(0, len(first), 32):  # 32 pairs fit into a processor's cache
        part = slice(start, start + 32)
        moved = thumbs[first[part]].astype(np.float32)
        moved[mirrored[part]] = moved[mirrored[part]][:, :, ::-1]
        parts.append(_align(_detail(moved), _detail(thumbs[second[part]].astype(np.float32))))
    return np.concatenate(parts)


def _correlate_either_way(thumbs: Thumbnails, mirror: bool, first: Rows, second: Rows) -> Floats:
    """Returns the larger correlation float32[P] of moving the first or the second one, with `mirror` mirrored too."""
    ends = ((first, second), (second, first))
    flips = (False, True) if mirror else (False,)
    ways = [correlate(thumbs, *pair, np.full(len(first), flip)) for pair in ends for flip in flips]
    return np.asarray(np.max(ways, axis=0))


def _align(moved: Floats, fixed: Floats) -> Floats:
    """Returns the best correlation float32[P] over the steps of an alignment by shift and scale of either axis."""
    ramp = (np.arange(SIDE, dtype=np.float32) - (SIDE - 1) / 2) / (SIDE / 2)  # -1 to 1 over the picture
    place = np.zeros((len(moved), 4), np.float32)  # shift in x, in y, scale in x, in y
    best = np.full(len(moved), -1, np.float32)
    for step in range(STEPS + 1):
        x = place[:, :1] + ramp * (1 + place[:, 2:3])
        y = place[:, 1:2] + ramp * (1 + place[:, 3:4])
        warped = np.asarray(_sampling(y) @ moved @ _sampling(x).transpose(0, 2, 1), dtype=np.float32)
        inside = ((np.abs(y) <= 1)[:, :, None] & (np.abs(x) <= 1)[:, None, :]).astype(np.float32)
        best = np.maximum(best, _correlation(warped, fixed, inside))
        if step == STEPS:
            break
        down, right = np.gradient(warped, 2 / SIDE, axis=(1, 2))
        terms = [warped, np.ones_like(warped), right, down, right * ramp, down * ramp[:, None]]
        design = (np.stack(terms, 1) * inside[:, None]).reshape(len(moved), 6, -1)
        square = design @ design.transpose(0, 2, 1)
        # A small ridge: a picture of stripes does not determine the shift along them.
        square += np.eye(6, dtype=np.float32) * (1e-4 / 6) * np.trace(square, axis1=1, axis2=2)[:, None, None]
        solution = np.linalg.solve(square, design @ fixed.reshape(len(moved), -1, 1))[..., 0]
        place = np.clip(place + solution[:, 2:] / np.maximum(solution[:, :1], 0.3), -REACH, REACH)
    return best


def _sampling(places: Floats) -> Floats:
    """Returns matrices float32[P, SIDE, SIDE] that interpolate linearly at places float32[P, SIDE] in [-1, 1]."""
    pixel = np.clip(places * (SIDE / 2) + (SIDE - 1) / 2, 0, SIDE - 1)
    return np.asarray(np.maximum(0, 1 - np.abs(pixel[:, :, None] - np.arange(SIDE, dtype=np.float32))))


def _correlation(one: Floats, other: Floats, weight: Floats) -> Floats:
    """Returns the weighted Pearson correlation float32[P] of images float32[P, SIDE, SIDE]."""
    total = weight.sum((1, 2), keepdims=True)
    one, other = (image - (image * weight).sum((1, 2), keepdims=True) / total for image in (one, other))
    squares = (weight * one * one).sum((1, 2)) * (weight * other * other).sum((1, 2))
    return np.asarray((weight * one * other).sum((1, 2)) / np.sqrt(np.maximum(squares, 1e-12)))
