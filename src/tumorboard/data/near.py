"""Near duplicates: pictures that show the same, re-saved, resized, shifted, cropped, brightened or mirrored."""

from collections.abc import Callable, Iterator, Sequence

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from tqdm import tqdm

from tumorboard.params import Audit
from tumorboard.randomness import keys_of, order

SIDE = 48  # pixels of a thumbnail
DETAIL = 4.5  # pixels of a thumbnail: standard deviation of the blur that is taken away; what is left is detail
FAINT = 1.0  # grey levels: a picture whose detail deviates less has nothing to compare
COARSE = 24  # pixels of what a descriptor is made of
DIMENSIONS = 64  # of a descriptor
EXHAUSTIVE = 64  # so few pictures are compared all with all
MARGIN = 0.05  # share of the side by which the windows of a picture, as it may have been cropped, are smaller
PROBES = 8  # cells in which a descriptor is looked for
STEPS = 3  # of the alignment
REACH = 0.15  # the largest shift, in half sides, and change of scale that is aligned
READ, BLOCK, JUDGED, PENDING = 512, 1 << 24, 4096, 1 << 20  # pictures, scores, pairs, pairs held at a time

Grey = NDArray[np.float32]
Numbers = NDArray[np.int64]
Crops = Callable[[Sequence[str]], NDArray[np.uint8]]


def near_duplicates(ids: Sequence[str], crops: Crops, audit: Audit) -> tuple[pd.DataFrame, list[str]]:
    """Pairs of pictures that show the same: first, second, correlation, mirrored; and the ids too faint to compare.

    Of every set of copies enough pairs are returned to join it. Candidates are pairs of low-dimensional descriptors
    (grey thumbnails, whitened by their principal components, as in Jegou & Chum 2012) whose cosine is
    `audit.candidates` or more for one of several slightly smaller windows of either picture, mirrored too with
    `audit.mirror`; they are found through an inverted file (Sivic & Zisserman 2003) of sqrt(N) cells around pictures
    drawn by lot, so that this work grows as N * sqrt(N). A candidate is judged by the correlation of the details (a
    thumbnail less its blur) after shift and scale were aligned by least squares (Lucas & Kanade 1981), and is a near
    duplicate from `audit.near` on; neither brightness nor contrast counts. Thumbnails and descriptors take about 3 kB
    a picture, the peak is about 7 kB (benchmarks/audit.py). Full cells cost their square in time, in blocks of memory;
    nothing is left out. A picture whose detail deviates by less than a grey level is not compared.
    """
    ids = sorted(ids)
    columns = {"first": object, "second": object, "correlation": np.float64, "mirrored": bool}
    if audit.near is None or len(ids) < 2:
        return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in columns.items()}), []
    thumbs, faint = _read_thumbs(ids, crops)
    every = np.array(ids, dtype=object)
    names, thumbs = every[~faint], thumbs[~faint]
    judge = _Judge(thumbs, audit.near)
    for first, second, cosine, mirrored in _candidates(thumbs, keys_of(names.tolist()), audit):
        judge.add(first, second, cosine, mirrored)
    one, other, correlation, flipped = judge.finish()
    pairs = pd.DataFrame({"first": names[one], "second": names[other]}, dtype=object)
    return pairs.assign(correlation=correlation.astype(np.float64), mirrored=flipped), every[faint].tolist()


def _read_thumbs(ids: Sequence[str], crops: Crops) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Grey thumbnails uint8[N, SIDE, SIDE], each stretched to all 256 levels, and which show no detail."""
    thumbs = np.empty((len(ids), SIDE, SIDE), np.uint8)
    faint = np.empty(len(ids), bool)
    for start in tqdm(range(0, len(ids), READ), "thumbnails", unit_scale=READ, disable=None):
        part = slice(start, start + READ)
        pictures = crops(ids[part])
        how = cv2.INTER_AREA if pictures.shape[1] > SIDE else cv2.INTER_LINEAR
        grey = np.stack([cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in pictures])
        small = np.stack([cv2.resize(picture.astype(np.float32), (SIDE, SIDE), interpolation=how) for picture in grey])
        faint[part] = _detail(small).std((1, 2)) < FAINT
        low, high = small.min((1, 2), keepdims=True), small.max((1, 2), keepdims=True)
        thumbs[part] = np.rint((small - low) * (255 / np.maximum(high - low, 1e-6)))
    return thumbs, faint


def _detail(thumbs: Grey) -> Grey:
    """What a Gaussian blur takes from thumbnails float32[N, SIDE, SIDE]."""
    places = np.arange(SIDE)
    blur = np.exp(-((places[:, None] - places) ** 2) / (2 * DETAIL**2))
    blur = (blur / blur.sum(1, keepdims=True)).astype(np.float32)
    return np.asarray(thumbs - blur @ thumbs @ blur.T)


def _candidates(
    thumbs: NDArray[np.uint8], keys: NDArray[np.uint64], audit: Audit
) -> Iterator[tuple[Numbers, Numbers, Grey, bool]]:
    """Numbers of pictures that may be near duplicates, the cosine of their descriptors, whether one is mirrored."""
    count = len(thumbs)
    flips = (False, True) if audit.mirror else (False,)
    if count <= EXHAUSTIVE:
        first, second = np.triu_indices(count, 1)
        for mirrored in flips:
            yield first, second, np.ones(len(first), np.float32), mirrored
        return
    drawn = order(0, keys, 0)
    # Few pictures have few reliable components: in more, copies would differ by what sets single pictures apart.
    basis = _principal(thumbs[np.sort(drawn[:4096])], min(DIMENSIONS, count // 16))
    whole = _descriptors(thumbs, WINDOWS[0], False, basis)
    centers = whole[np.sort(drawn[: int(np.ceil(np.sqrt(count)))])]
    home = np.concatenate([(part @ centers.T).argmax(1) for part in _blocks(whole, len(centers))])
    members = np.split(np.argsort(home, kind="stable"), np.cumsum(np.bincount(home, minlength=len(centers)))[:-1])
    probes = min(PROBES, len(centers))
    for mirrored in flips:
        for window in tqdm(WINDOWS, "mirrored" if mirrored else "near duplicates", unit="window", disable=None):
            asked = whole if window == WINDOWS[0] and not mirrored else _descriptors(thumbs, window, mirrored, basis)
            nearest = [
                np.argpartition(-(part @ centers.T), probes - 1)[:, :probes] for part in _blocks(asked, len(centers))
            ]
            cells = np.concatenate(nearest)
            queries = np.argsort(cells.ravel(), kind="stable")
            limits = np.cumsum(np.bincount(cells.ravel(), minlength=len(centers)))[:-1]
            for asking, held in zip(np.split(queries // probes, limits), members, strict=True):
                rows = max(1, BLOCK // max(1, len(held)))
                for start in range(0, len(asking), rows):
                    some = asking[start : start + rows]
                    cosine = asked[some] @ whole[held].T
                    one, other = np.nonzero(cosine >= audit.candidates)
                    first, second = some[one], held[other]
                    yield first, second, cosine[one, other], mirrored


def _blocks(rows: Grey, width: int) -> list[Grey]:
    """Rows cut so that a product with `width` others has BLOCK scores at most."""
    size = max(1, BLOCK // width)
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _windows() -> tuple[tuple[float, float, float, float], ...]:
    """The parts of a picture (top, bottom, left, right) that a cropped or shifted copy may show; first the whole."""
    ends = ((0.0, 1.0), (MARGIN, 1.0), (0.0, 1 - MARGIN))
    return (*((*rows, *columns) for rows in ends for columns in ends), (MARGIN / 2, 1 - MARGIN / 2) * 2)


WINDOWS = _windows()


def _coarse(thumbs: NDArray[np.uint8], window: tuple[float, float, float, float], mirrored: bool) -> Grey:
    """A window of each thumbnail as float32[N, COARSE**2] of mean 0 and deviation 1."""
    rows, columns = _averaging(*window[:2]), _averaging(*window[2:])
    # To mirror the picture is to mirror the columns that are averaged.
    small = rows @ thumbs.astype(np.float32) @ (columns[:, ::-1] if mirrored else columns).T
    flat = small.reshape(len(thumbs), -1)
    flat -= flat.mean(1, keepdims=True)
    return np.asarray(flat / np.maximum(flat.std(1, keepdims=True), 1e-6))


def _averaging(low: float, high: float) -> Grey:
    """The matrix [COARSE, SIDE] that averages the pixels of a side between two shares of it over areas."""
    edges = (low + np.arange(COARSE + 1) / COARSE * (high - low)) * SIDE
    pixels = np.arange(SIDE)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    overlap = np.maximum(overlap, 0)
    return np.asarray(overlap / overlap.sum(1, keepdims=True), dtype=np.float32)


def _principal(thumbs: NDArray[np.uint8], dimensions: int) -> tuple[Grey, Grey]:
    """The mean of coarse pictures and the projection [COARSE**2, dimensions] that whitens their main components."""
    coarse = _coarse(thumbs, WINDOWS[0], False)
    mean = coarse.mean(0)
    values, vectors = np.linalg.eigh(np.cov(coarse, rowvar=False))
    values, vectors = values[::-1][:dimensions], vectors[:, ::-1][:, :dimensions]
    return mean, (vectors / np.sqrt(np.maximum(values, 1e-6 * values[0]))).astype(np.float32)


def _descriptors(
    thumbs: NDArray[np.uint8], window: tuple[float, float, float, float], mirrored: bool, basis: tuple[Grey, Grey]
) -> Grey:
    """Whitened components of a window, float32[N, D] of length 1."""
    mean, projection = basis
    parts = [
        (_coarse(thumbs[start : start + READ], window, mirrored) - mean) @ projection
        for start in range(0, len(thumbs), READ)
    ]
    components = np.concatenate(parts)
    return np.asarray(components / np.maximum(np.linalg.norm(components, axis=1, keepdims=True), 1e-6))


class _Judge:
    """Judges candidates, the likeliest first, and leaves out those whose pictures are already known to be the same."""

    def __init__(self, thumbs: NDArray[np.uint8], threshold: float) -> None:
        self._thumbs = thumbs
        self._threshold = threshold
        self._component = np.arange(len(thumbs))
        self._waiting: list[tuple[Numbers, Grey]] = []
        self._refused = np.empty(0, np.int64)
        self._found: list[tuple[Numbers, Grey]] = [(np.empty(0, np.int64), np.empty(0, np.float32))]

    def add(self, first: Numbers, second: Numbers, cosine: Grey, mirrored: bool) -> None:
        """Take candidates; they wait until there are many."""
        apart = self._component[first] != self._component[second]
        first, second = np.minimum(first, second)[apart], np.maximum(first, second)[apart]
        codes, at = np.unique((first * len(self._thumbs) + second) * 2 + mirrored, return_index=True)
        self._waiting.append((codes, cosine[apart][at]))
        if sum(len(codes) for codes, _ in self._waiting) > PENDING:
            self._judge()

    def finish(self) -> tuple[Numbers, Numbers, Grey, NDArray[np.bool_]]:
        """The pairs found, sorted: first, second, correlation, mirrored."""
        self._judge()
        codes, correlation = (np.concatenate(parts) for parts in zip(*self._found, strict=True))
        sort = np.argsort(codes)
        first, second, mirrored = self._decode(codes[sort])
        return first, second, correlation[sort], mirrored

    def _decode(self, codes: Numbers) -> tuple[Numbers, Numbers, NDArray[np.bool_]]:
        pair = codes // 2
        return pair // len(self._thumbs), pair % len(self._thumbs), codes % 2 == 1

    def _judge(self) -> None:
        if not self._waiting:
            return
        codes, cosine = (np.concatenate(parts) for parts in zip(*self._waiting, strict=True))
        self._waiting = []
        best = np.lexsort((-cosine, codes))
        first_of_code = np.diff(codes[best], prepend=-1) != 0
        codes, cosine = codes[best][first_of_code], cosine[best][first_of_code]
        new = ~np.isin(codes, self._refused, assume_unique=True)
        codes = codes[new][np.argsort(-cosine[new], kind="stable")]
        refused = [self._refused]
        for start in range(0, len(codes), JUDGED):
            first, second, mirrored = self._decode(codes[start : start + JUDGED])
            apart = self._component[first] != self._component[second]
            first, second, mirrored = first[apart], second[apart], mirrored[apart]
            correlation = correlate(self._thumbs, first, second, mirrored)
            same = correlation >= self._threshold
            judged = codes[start : start + JUDGED][apart]
            refused.append(judged[~same])
            if same.any():
                self._found.append((judged[same], correlation[same]))
                one, other = self._component[first[same]], self._component[second[same]]
                self._component = components(len(self._thumbs), one, other)[self._component]
        self._refused = np.concatenate(refused)


def correlate(thumbs: NDArray[np.uint8], first: Numbers, second: Numbers, mirrored: NDArray[np.bool_]) -> Grey:
    """The correlation float32[P] of the details of thumbnails uint8[N, SIDE, SIDE] after alignment, pair by pair."""
    parts = [np.empty(0, np.float32)]
    for start in range(0, len(first), 32):  # what fits into a processor's cache
        part = slice(start, start + 32)
        moved = thumbs[first[part]].astype(np.float32)
        moved[mirrored[part]] = moved[mirrored[part]][:, :, ::-1]
        parts.append(_aligned(_detail(moved), _detail(thumbs[second[part]].astype(np.float32))))
    return np.concatenate(parts)


def _aligned(moved: Grey, fixed: Grey) -> Grey:
    """The best correlation float32[P] over the steps of an alignment by shift and scale of either axis."""
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
        # A hint of ridge: a picture of stripes leaves the shift along them open.
        square += np.eye(6, dtype=np.float32) * (1e-4 / 6) * np.trace(square, axis1=1, axis2=2)[:, None, None]
        solution = np.linalg.solve(square, design @ fixed.reshape(len(moved), -1, 1))[..., 0]
        place = np.clip(place + solution[:, 2:] / np.maximum(solution[:, :1], 0.3), -REACH, REACH)
    return best


def _sampling(places: Grey) -> Grey:
    """Matrices float32[P, SIDE, SIDE] that interpolate linearly at places float32[P, SIDE] between -1 and 1."""
    pixel = np.clip(places * (SIDE / 2) + (SIDE - 1) / 2, 0, SIDE - 1)
    return np.asarray(np.maximum(0, 1 - np.abs(pixel[:, :, None] - np.arange(SIDE, dtype=np.float32))))


def _correlation(one: Grey, other: Grey, weight: Grey) -> Grey:
    total = weight.sum((1, 2), keepdims=True)
    one, other = (image - (image * weight).sum((1, 2), keepdims=True) / total for image in (one, other))
    squares = (weight * one * one).sum((1, 2)) * (weight * other * other).sum((1, 2))
    return np.asarray((weight * one * other).sum((1, 2)) / np.sqrt(np.maximum(squares, 1e-12)))


def components(count: int, first: Numbers, second: Numbers) -> Numbers:
    """The number int64[count] of the set that each thing is in, where pairs of first and second join sets."""
    links = coo_array((np.ones(len(first), bool), (first, second)), shape=(count, count))
    return np.asarray(connected_components(links, directed=False)[1], dtype=np.int64)
