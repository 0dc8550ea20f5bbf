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
from tumorboard.data.alignment import FAINT, SIDE, Flags, Thumbnails, correlate, detail_frames, details
from tumorboard.data.chains import Floats, Rows, select_copies
from tumorboard.data.grouping import connected_sets

COARSE = 24  # pixels: side of the picture that a descriptor is computed from
DIMENSIONS = 64  # numbers per descriptor
EXHAUSTIVE = 64  # images: up to this many, every pair is a candidate
MARGIN = 0.05  # share of the side by which a window is smaller than the picture, since a copy may be cropped
PROBES = 8  # cells of the inverted file that are searched per descriptor
WIDEN = 1.6  # side of the window around a picture's frame, in sides of the frame
READ = 512  # images read at a time
BLOCK = 1 << 24  # cosines whose candidates are held at a time
TILE = 1 << 18  # cosines computed at a time: they fit into a processor's cache
PART = 128  # thumbnails averaged at a time: they fit into a processor's cache
BATCH = 4096  # candidates verified at a time
PENDING = 1 << 20  # candidates that are collected before they are verified

Windows: TypeAlias = Floats  # [N or 1, 4]: top, bottom, left, right as shares of the side
ReadCrops: TypeAlias = Callable[[Sequence[str]], NDArray[np.uint8]]  # ids -> their crops uint8[N, S, S, 3]
Pairs: TypeAlias = pd.DataFrame  # one row per pair of copies: first, second (ids), correlation, mirrored, and more


class NearDuplicates(NamedTuple):
    """The near duplicates among images."""

    pairs: Pairs  # first < second, correlation, mirrored; enough pairs to connect every set of copies, sorted
    faint: list[str]  # ids of the images with too little detail to compare


def find_near_duplicates(ids: Sequence[str], read_crops: ReadCrops, audit: Audit) -> NearDuplicates:
    """Finds pairs of images that show the same picture, whatever their brightness and contrast.

    1. Candidates: every image has a descriptor, its coarse thumbnail whitened by principal components. Two images are
       candidates where the cosine of their descriptors is `audit.candidates` or more, for the whole picture, one of
       several slightly smaller windows, or the frame of the detail, which leaves a margin out. An inverted file of
       sqrt(N) cells finds them in time N * sqrt(N).
    2. Verification: after shift and scale are aligned (`alignment.correlate`), the details (a thumbnail minus its blur)
       must correlate by `audit.near` or more.
    3. Chains of similar but different pictures are taken apart (`chains.select_copies`).

    Needs about 3 kB of memory per image, 7 kB at the peak (benchmarks/audit.py). No candidate is skipped in a full
    cell: its time grows with the square of its size, its memory is bounded.

    Args:
        ids: ids of the images, in any order.
        read_crops: returns the crops uint8[N, S, S, 3] of ids.
        audit: `near` (None: returns no pairs), `candidates`, and `mirror` (whether mirrored copies count).

    Source: Jegou & Chum 2012 (whitening), Sivic & Zisserman 2003 (inverted file), Lucas & Kanade 1981 (alignment).
    """
    ids = sorted(ids)
    columns = {"first": object, "second": object, "correlation": np.float64, "mirrored": bool}
    if audit.near is None or len(ids) < 2:
        return NearDuplicates(pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in columns.items()}), [])
    thumbs, faint = read_thumbnails(ids, read_crops)
    names = np.array(ids, dtype=object)
    clear = names[~faint]
    if faint.any():
        thumbs = thumbs[~faint]
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


def read_thumbnails(ids: Sequence[str], read_crops: ReadCrops) -> tuple[Thumbnails, Flags]:
    """Returns thumbnails, each stretched to all 256 grey levels, and bool[N], whether each is too faint."""
    thumbs = np.empty((len(ids), SIDE, SIDE), np.uint8)
    faint = np.empty(len(ids), bool)
    for start in tracked(range(0, len(ids), READ), "thumbnails", "batch"):
        part = slice(start, start + READ)
        crops = read_crops(ids[part])
        interpolation = cv2.INTER_AREA if crops.shape[1] > SIDE else cv2.INTER_LINEAR
        small = np.empty((len(crops), SIDE, SIDE), np.float32)
        for crop, thumb in zip(crops, small, strict=True):
            grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY).astype(np.float32)
            cv2.resize(grey, (SIDE, SIDE), dst=thumb, interpolation=interpolation)
        faint[part] = details(small).std((1, 2)) < FAINT
        low, high = small.min((1, 2), keepdims=True), small.max((1, 2), keepdims=True)
        small -= low
        small *= 255 / np.maximum(high - low, 1e-6)
        thumbs[part] = np.rint(small, out=small)
    return thumbs, faint


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
    for windows in (WINDOWS, (_framing_windows(thumbs),)):
        # Few images have few reliable components: with more, the descriptors of copies would differ by what is peculiar
        # to single images.
        basis = _principal_components(thumbs, windows[0], np.sort(drawn[:4096]), min(DIMENSIONS, count // 16))
        whole = _descriptors(thumbs, windows[0], False, basis)
        centers = whole[np.sort(drawn[: int(np.ceil(np.sqrt(count)))])]
        cell_of = np.concatenate([(part @ centers.T).argmax(1) for part in _tiles(whole, len(centers))])
        limits = np.cumsum(np.bincount(cell_of, minlength=len(centers)))[:-1]
        members = np.split(np.argsort(cell_of, kind="stable"), limits)
        for mirrored in flips:
            for number, window in enumerate(tracked(windows, "mirrored" if mirrored else "near duplicates", "window")):
                asking = _descriptors(thumbs, window, mirrored, basis) if number or mirrored else whole
                pairs = _search(asking, whole, centers=centers, members=members, threshold=audit.candidates)
                for first, second, cosine in pairs:
                    yield first, second, cosine, mirrored


def _search(
    queries: Floats, whole: Floats, *, centers: Floats, members: list[Rows], threshold: float
) -> Iterator[tuple[Rows, Rows, Floats]]:
    """Yields the pairs of queries and whole pictures whose cosine is `threshold` or more, cell by cell.

    Only the PROBES cells whose centers are nearest to a query are searched; `members` lists the rows of each cell.
    """
    probes = min(PROBES, len(centers))
    cells = np.concatenate([_nearest_cells(part @ centers.T, probes) for part in _tiles(queries, len(centers))])
    by_cell = np.argsort(cells, kind="stable") // probes
    limits = np.cumsum(np.bincount(cells, minlength=len(centers)))[:-1]
    for asking, held in zip(np.split(by_cell, limits), members, strict=True):
        size = max(1, BLOCK // max(1, len(held)))
        for start in range(0, len(asking), size):
            some = asking[start : start + size]
            row, column, cosine = _close_pairs(queries[some], whole[held], threshold)
            yield some[row], held[column], cosine


def _nearest_cells(cosine: Floats, probes: int) -> Rows:
    """Returns the `probes` cells of the highest cosine float32[Q, C] of each query, int64[Q * probes], by query."""
    lowest = np.partition(cosine, -probes, axis=1)[:, -probes]
    chosen = np.flatnonzero(cosine >= lowest[:, None])
    if len(chosen) > probes * len(cosine):  # cells of equal cosine
        return np.argpartition(-cosine, probes - 1)[:, :probes].ravel()
    return np.asarray(chosen % cosine.shape[1])


def _close_pairs(queries: Floats, held: Floats, threshold: float) -> tuple[Rows, Rows, Floats]:
    """Returns the pairs whose cosine is `threshold` or more: row of the query, row of the held one, cosine."""
    parts, start = [(np.empty(0, np.int64), np.empty(0, np.float32))], 0
    for part in _tiles(queries, len(held)):
        cosine = (part @ held.T).ravel()
        close = np.flatnonzero(cosine >= threshold)  # the search in one dimension takes a tenth of the time
        parts.append((start * len(held) + close, cosine[close]))
        start += len(part)
    place, cosines = (np.concatenate(each) for each in zip(*parts, strict=True))
    return *np.divmod(place, max(1, len(held))), cosines


def _tiles(rows: Floats, width: int) -> list[Floats]:
    """Cuts rows into blocks whose product with `width` others has TILE numbers at most."""
    size = max(1, TILE // max(1, width))
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _windows() -> tuple[Windows, ...]:
    """Returns the parts of a picture that a cropped or shifted copy may show; the first is the whole picture."""
    ends = ((0.0, 1.0), (MARGIN, 1.0), (0.0, 1 - MARGIN))
    windows = [*((*rows, *columns) for rows in ends for columns in ends), (MARGIN / 2, 1 - MARGIN / 2) * 2]
    return tuple(np.array([window], np.float32) for window in windows)


WINDOWS = _windows()


def _framing_windows(thumbs: Thumbnails) -> Windows:
    """Returns a window for each thumbnail, float32[N, 4], that is WIDEN times as large as its frame."""
    parts = (thumbs[start : start + READ].astype(np.float32) for start in range(0, len(thumbs), READ))
    frames = np.concatenate([detail_frames(details(part)) for part in parts])
    low, high = frames[:, [0, 0, 2, 2]], frames[:, [1, 1, 3, 3]]
    sides = (low + high) / 2 + np.array([-1, 1, -1, 1], np.float32) * WIDEN * (high - low) / 2
    return np.asarray((sides + 1) / 2, dtype=np.float32)


def _coarse_parts(thumbs: Thumbnails, window: Windows, mirrored: bool) -> Iterator[tuple[slice, Floats, Floats]]:
    """Yields the rows of PART thumbnails at a time, with what `_coarse` returns for them."""
    for start in range(0, len(thumbs), PART):
        part = slice(start, start + PART)
        yield part, *_coarse(thumbs[part], window if len(window) == 1 else window[part], mirrored)


def _coarse(thumbs: Thumbnails, window: Windows, mirrored: bool) -> tuple[Floats, Floats]:
    """Returns a window of each thumbnail as float32[N, COARSE**2] of mean 0, and its standard deviation [N, 1]."""
    rows, columns = _averaging(window[:, 0], window[:, 1]), _averaging(window[:, 2], window[:, 3])
    # The averaging matrix with its rows reversed mirrors the picture.
    small = rows @ thumbs.astype(np.float32) @ (columns[:, ::-1] if mirrored else columns).transpose(0, 2, 1)
    flat = small.reshape(len(thumbs), -1)
    flat -= flat.mean(1, keepdims=True)
    deviation = np.sqrt(np.einsum("ij,ij->i", flat, flat) / flat.shape[1])
    return flat, np.maximum(deviation, 1e-6)[:, None]


def _averaging(low: Floats, high: Floats) -> Floats:
    """Returns matrices float32[W, COARSE, SIDE] that average pixels by area between two shares of the side.

    The area beyond the picture is black.
    """
    edges = (low[:, None] + np.arange(COARSE + 1, dtype=np.float32) / COARSE * (high - low)[:, None]) * SIDE
    pixels = np.arange(SIDE, dtype=np.float32)
    overlap = np.minimum(edges[:, 1:, None], pixels + 1) - np.maximum(edges[:, :-1, None], pixels)
    width = np.maximum(edges[:, 1:] - edges[:, :-1], 1e-3)[:, :, None]
    return np.asarray(np.maximum(overlap, 0) / width, dtype=np.float32)


def _principal_components(thumbs: Thumbnails, window: Windows, sample: Rows, dimensions: int) -> tuple[Floats, Floats]:
    """Returns the mean of coarse pictures and the projection [COARSE**2, dimensions] that whitens them."""
    windows = window if len(window) == 1 else window[sample]
    coarse = np.concatenate([flat / deviation for _, flat, deviation in _coarse_parts(thumbs[sample], windows, False)])
    mean = coarse.mean(0)
    values, vectors = np.linalg.eigh(np.cov(coarse, rowvar=False))
    values, vectors = values[::-1][:dimensions], vectors[:, ::-1][:, :dimensions]
    return mean, (vectors / np.sqrt(np.maximum(values, 1e-6 * values[0]))).astype(np.float32)


def _descriptors(thumbs: Thumbnails, window: Windows, mirrored: bool, basis: tuple[Floats, Floats]) -> Floats:
    """Returns the whitened components of a window, float32[N, D] of length 1."""
    mean, projection = basis
    offset = mean @ projection
    whitened = np.empty((len(thumbs), projection.shape[1]), np.float32)
    for part, coarse, deviation in _coarse_parts(thumbs, window, mirrored):
        whitened[part] = coarse @ projection / deviation - offset
    whitened /= np.maximum(np.linalg.norm(whitened, axis=1, keepdims=True), 1e-6)
    return whitened


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
        self._pending = 0
        self._rejected = np.empty(0, np.int64)
        self._accepted: list[tuple[Rows, Floats]] = [(np.empty(0, np.int64), np.empty(0, np.float32))]

    def add(self, first: Rows, second: Rows, cosine: Floats, mirrored: bool) -> None:
        """Collects candidates, and verifies them when there are more than PENDING."""
        apart = self._set_of[first] != self._set_of[second]
        first, second = np.minimum(first, second)[apart], np.maximum(first, second)[apart]
        codes, at = np.unique((first * len(self._thumbs) + second) * 2 + mirrored, return_index=True)
        self._waiting.append((codes, cosine[apart][at]))
        self._pending += len(codes)
        if self._pending > PENDING:
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
        self._waiting, self._pending = [], 0
        best = np.lexsort((-cosine, codes))
        first_of_code = np.diff(codes[best], prepend=-1) != 0
        codes, cosine = codes[best][first_of_code], cosine[best][first_of_code]
        new = ~np.isin(codes, self._rejected, assume_unique=True)
        return np.asarray(codes[new][np.argsort(-cosine[new], kind="stable")])


def _correlate_either_way(thumbs: Thumbnails, mirror: bool, first: Rows, second: Rows) -> Floats:
    """Returns the correlation float32[P] of pairs of pictures, with `mirror` that of mirrored ones if it is larger."""
    flips = (False, True) if mirror else (False,)
    return np.asarray(np.max([correlate(thumbs, first, second, np.full(len(first), flip)) for flip in flips], axis=0))
