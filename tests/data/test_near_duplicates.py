"""Near duplicates: altered copies are found and similar pictures are not, for any order, number and size of images."""

from collections.abc import Callable

import cv2
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from tests.data.scenes import Pixels, reader_of, resaved, resized, scene, sets_of
from tumorboard.base.params import Audit, Params
from tumorboard.data import near_duplicates as near
from tumorboard.data.near_duplicates import correlate, find_near_duplicates

COPIES: dict[str, Callable[[Pixels], Pixels]] = {
    "re-saved": lambda p: resaved(p, 50),
    "smaller": lambda p: resaved(cv2.resize(p, (48, 48), interpolation=cv2.INTER_AREA), 80),  # type: ignore[arg-type]
    "larger": lambda p: cv2.resize(p, (200, 200), interpolation=cv2.INTER_CUBIC),  # type: ignore[return-value]
    "cropped": lambda p: p[3:-4, 4:-2],
    "shifted": lambda p: np.roll(p, (4, -3), (0, 1)),
    "brighter": lambda p: np.clip(p * 0.7 + 40, 0, 255).astype(np.uint8),
    "grey": lambda p: np.repeat(cv2.cvtColor(p, cv2.COLOR_RGB2GRAY)[..., None], 3, 2),  # type: ignore[return-value]
}


@pytest.fixture
def audit(params: Params) -> Audit:
    return params.audit.model_copy(update={"policy": "regroup", "label_conflicts": "quarantine", "mirror": True})


# Few pictures are compared all with all; more are searched in cells.
@pytest.mark.parametrize("count", [20, 300])
def test_altered_copies_are_found_and_nothing_else(count: int, audit: Audit) -> None:
    pictures = {f"{n:03d}": resized(scene(n)) for n in range(count)}
    expected = set()
    for number, alter in enumerate(COPIES.values()):
        pictures[f"copy{number}"] = resized(alter(scene(number)))
        expected.add(frozenset([f"{number:03d}", f"copy{number}"]))
    pictures["flipped"] = resized(np.ascontiguousarray(resaved(scene(9), 80)[:, ::-1]))
    pairs, faint = find_near_duplicates(list(pictures), reader_of(pictures), audit)
    assert faint == []
    assert sets_of(list(pictures), pairs) == expected | {frozenset(["009", "flipped"])}
    assert pairs["mirrored"].tolist() == [second == "flipped" for second in pairs["second"]]
    assert (pairs["first"] < pairs["second"]).all()
    assert pairs["correlation"].between(audit.near, 1).all()
    unmirrored, _ = find_near_duplicates(
        list(pictures), reader_of(pictures), audit.model_copy(update={"mirror": False})
    )
    assert sets_of(list(pictures), unmirrored) == expected


def test_the_order_of_the_ids_does_not_matter(audit: Audit) -> None:
    pictures = {f"{n:03d}": resized(scene(n % 90)) for n in range(100)}
    pairs, _ = find_near_duplicates(list(pictures), reader_of(pictures), audit)
    again, _ = find_near_duplicates(list(pictures)[::-1], reader_of(pictures), audit)
    assert len(pairs) == 10
    pd.testing.assert_frame_equal(pairs, again)


def numpy_correlation(*pictures: Pixels) -> float:
    """The correlation of the details of two pictures of 48 x 48 pixels, without alignment, by numpy alone."""
    details = []
    for picture in pictures:
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float64)
        places = np.arange(48)
        kernel = np.exp(-0.5 * ((places[:, None] - places) / 4.5) ** 2)
        kernel /= kernel.sum(1, keepdims=True)
        details.append((grey - kernel @ grey @ kernel.T).ravel())
    return float(np.corrcoef(details)[0, 1])


def test_without_a_shift_the_correlation_is_that_of_numpy(audit: Audit) -> None:
    pictures = {"a": resized(scene(1), 48), "b": resized(resaved(scene(1), 60), 48)}
    pairs, _ = find_near_duplicates(["a", "b"], reader_of(pictures), audit)
    still = numpy_correlation(*pictures.values())
    # Alignment can only add to it, here next to nothing.
    assert still - 1e-3 <= pairs["correlation"].iloc[0] <= still + 5e-3


@pytest.mark.parametrize("others", [0, 80])
@pytest.mark.parametrize(("weight", "lower", "upper"), [(0.35, -0.05, -0.01), (0.2, 0.01, 0.05)])
def test_only_a_correlation_of_near_or_more_makes_a_copy(
    weight: float, lower: float, upper: float, others: int, audit: Audit
) -> None:
    """One picture is mixed into another: at a weight of 0.35 their details correlate by a little less than 0.96."""
    one, other = resized(scene(1), 48).astype(np.float64), resized(scene(2), 48).astype(np.float64)
    pictures = {"a": one.astype(np.uint8), "b": np.clip(one + weight * (other - 120), 0, 255).astype(np.uint8)}
    expected = numpy_correlation(*pictures.values())
    assert audit.near is not None
    assert audit.near + lower < expected < audit.near + upper
    pictures |= {f"x{n:02d}": resized(scene(n + 3), 48) for n in range(others)}
    pairs, _ = find_near_duplicates(list(pictures), reader_of(pictures), audit)
    assert sets_of(list(pictures), pairs) == ({frozenset("ab")} if lower > 0 else set())
    tolerant = audit.model_copy(update={"near": expected - 0.01})
    pairs, _ = find_near_duplicates(list(pictures), reader_of(pictures), tolerant)
    assert pairs["correlation"].tolist() == [pytest.approx(expected, abs=5e-3)]


def test_a_structure_that_all_pictures_share_makes_no_copies(audit: Audit) -> None:
    """Discs of one size, each with its own grain, as cells are; a hash of 8 x 8 bits would call them copies."""
    y, x = np.mgrid[:96, :96]
    disc = np.where((x - 48) ** 2 + (y - 48) ** 2 < 30**2, 90.0, 0.0)[..., None]
    pictures = {f"{n:02d}": resized(np.clip(disc + 0.6 * scene(n), 0, 255).astype(np.uint8)) for n in range(80)}
    assert find_near_duplicates(list(pictures), reader_of(pictures), audit)[0].empty


def test_pictures_without_detail_are_reported_and_not_paired(audit: Audit) -> None:
    ramp = np.broadcast_to(np.arange(64, dtype=np.uint8)[:, None, None], (64, 64, 3))
    pictures = {"black": np.zeros((64, 64, 3), np.uint8), "white": np.full((64, 64, 3), 255, np.uint8)}
    pictures |= {"dim": np.ones((64, 64, 3), np.uint8), "ramp": ramp // 8, "one": resized(scene(1))}
    pairs, faint = find_near_duplicates(list(pictures), reader_of(pictures), audit)
    assert pairs.empty
    assert faint == ["black", "dim", "ramp", "white"]


def test_detail_of_more_than_one_grey_level_is_compared(audit: Audit) -> None:
    """Random pixels of two levels deviate by half of their difference: 1.5 grey levels are compared, 0.5 are not."""
    pattern = np.random.default_rng(0).integers(0, 2, (48, 48, 1), dtype=np.uint8)
    pictures = {name: np.repeat(100 + step * pattern, 3, 2) for name, step in (("a", 3), ("b", 3), ("c", 1), ("d", 1))}
    pairs, faint = find_near_duplicates(list(pictures), reader_of(pictures), audit)
    assert pairs[["first", "second"]].to_numpy().tolist() == [["a", "b"]]
    assert faint == ["c", "d"]


def test_hundreds_of_copies_of_one_picture_become_one_set(audit: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near, "PENDING", 1000)
    monkeypatch.setattr(near, "BATCH", 100)
    monkeypatch.setattr(near, "BLOCK", 5000)
    verified: list[int] = []

    def counting(thumbs: Pixels, *pairs: NDArray[np.int64]) -> NDArray[np.float32]:
        verified.append(len(pairs[0]))
        return correlate(thumbs, *pairs)  # type: ignore[arg-type]

    monkeypatch.setattr(near, "correlate", counting)
    base, noise = scene(0), np.random.default_rng(0)
    pictures = {
        f"{n:03d}": resized(np.clip(base + noise.normal(0, 3, base.shape), 0, 255).astype(np.uint8)) for n in range(300)
    }
    pictures |= {f"x{n:03d}": resized(scene(n + 1)) for n in range(100)}
    pairs, _ = find_near_duplicates(list(pictures), reader_of(pictures), audit)
    assert sets_of(list(pictures), pairs) == {frozenset(f"{n:03d}" for n in range(300))}
    # 44,850 pairs are alike; those within a set that is already joined are not verified.
    assert sum(verified) < 20000


@pytest.mark.parametrize("side", [16, 31, 200])
def test_crops_of_any_size(side: int, audit: Audit) -> None:
    pictures = {f"{n:02d}": resized(scene(n), side) for n in range(10)} | {"copy": resized(resaved(scene(3), 80), side)}
    assert sets_of(list(pictures), find_near_duplicates(list(pictures), reader_of(pictures), audit)[0]) == {
        frozenset(["03", "copy"])
    }


@pytest.mark.parametrize("tile", [1, 50, 10_000])
def test_close_pairs_are_those_of_a_full_product(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near, "TILE", tile)
    rng = np.random.default_rng(0)
    queries, held = (rng.standard_normal((count, 8)).astype(np.float32) for count in (23, 11))
    row, column, cosine = near._close_pairs(queries, held, 2.0)
    rows, columns = np.nonzero(queries @ held.T >= 2.0)
    assert 0 < len(rows) < 23 * 11
    assert (row.tolist(), column.tolist()) == (rows.tolist(), columns.tolist())
    np.testing.assert_allclose(cosine, (queries @ held.T)[rows, columns], rtol=1e-5)
    assert [len(part) for part in near._close_pairs(queries, held[:0], 2.0)] == [0, 0, 0]


def test_the_nearest_cells_are_those_of_highest_cosine() -> None:
    cosine = np.array([[0.1, 0.5, -0.2, 0.4], [0.9, 0.8, 0.95, -1.0]], np.float32)
    assert near._nearest_cells(cosine, 2).tolist() == [1, 3, 0, 2]
    assert near._nearest_cells(cosine, 4).tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    tied = np.array([[0.5, 0.5, 0.5], [0.1, 0.3, 0.2]], np.float32)
    first, second = np.sort(near._nearest_cells(tied, 2).reshape(2, 2), axis=1)
    assert len(set(first)) == 2
    assert second.tolist() == [1, 2]
