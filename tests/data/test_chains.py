"""select_copies: sets around one picture are kept, chains are taken apart."""

from collections.abc import Mapping

import cv2
import numpy as np
import pytest

from tumorboard.base.params import Params
from tumorboard.data.chains import select_copies
from tumorboard.data.near_duplicates import find_near_duplicates

NEAR = 0.96


def select(pairs: Mapping[tuple[int, int], float], others: Mapping[tuple[int, int], float] | None = None) -> list[bool]:
    """Selects among pairs with these correlations; pairs that are not listed correlate by 0.5."""
    known = {**pairs, **(others or {})}

    def correlate(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        ends = zip(first.tolist(), second.tolist(), strict=True)
        return np.array([known.get((min(a, b), max(a, b)), 0.5) for a, b in ends], np.float32)

    first, second = (np.array(ends, np.int64) for ends in zip(*pairs, strict=True))
    correlation = np.array(list(pairs.values()), np.float32)
    return select_copies(first, second, correlation, near=NEAR, correlate=correlate).tolist()


def test_without_pairs_nothing_is_selected() -> None:
    empty = np.empty(0, np.int64)
    assert not select_copies(empty, empty, empty.astype(np.float32), near=NEAR, correlate=lambda *_: empty).size


def test_a_pair_and_a_set_around_one_picture_are_kept() -> None:
    star = {(0, 4): 0.97, (1, 4): 0.96, (2, 4): 0.98, (3, 4): 0.99}
    assert select(star | {(7, 8): 0.96}) == [True] * 5


def test_the_center_need_not_be_the_member_with_most_pairs() -> None:
    """Member 1 has three pairs but not member 5; member 0 correlates with all."""
    pairs = {(1, 2): 0.97, (1, 3): 0.97, (0, 1): 0.97, (0, 5): 0.97}
    assert select(pairs, {(0, 2): 0.96, (0, 3): 0.96}) == [True] * 4


def test_a_chain_is_no_set_of_copies() -> None:
    chain = {(number, number + 1): 0.97 for number in range(6)}
    assert select(chain) == [False] * 6
    assert select(chain | {(8, 9): 0.97}) == [False] * 6 + [True]


def test_copies_within_a_chain_are_kept_if_they_stand_out() -> None:
    """The copies 2 and 3 are 0.002 apart, their neighbors 0.03."""
    chain = {(0, 1): 0.97, (1, 2): 0.97, (2, 3): 0.998, (3, 4): 0.97, (4, 5): 0.97}
    assert select(chain) == [False, False, True, False, False]


def test_pictures_that_are_hardly_closer_than_the_next_ones_are_no_copies() -> None:
    """0.015 apart, and 0.025 from the neighbors: less than twice as far."""
    assert select({(0, 1): 0.97, (1, 2): 0.975, (2, 3): 0.985, (3, 4): 0.975, (4, 5): 0.97}) == [False] * 5


def test_pictures_that_no_pair_connects_are_compared_too() -> None:
    """The copies 1 and 2 stand out, unless 2 correlates with 0 by 0.997, though 1 is the one that is paired with 0."""
    chain = {(0, 1): 0.97, (1, 2): 0.998, (2, 3): 0.97, (3, 4): 0.97, (4, 5): 0.97}
    assert select(chain) == [False, True, False, False, False]
    assert select(chain, {(0, 2): 0.997}) == [False] * 5


def test_differences_as_small_as_those_of_saving_are_not_told_apart() -> None:
    chain = {(number, number + 1): 1.0 if number % 2 else 0.9995 for number in range(8)}
    assert not any(select(chain))


@pytest.mark.parametrize("changing", ["radius", "position"])
def test_different_discs_on_a_ramp_are_no_copies_and_a_saved_one_is_found(params: Params, changing: str) -> None:
    """Neighboring discs are nearly equal; they connected all of them."""

    def draw(number: int) -> np.ndarray:
        picture = np.tile(np.linspace(20, 80, 256)[None, :, None], (256, 1, 3)).astype(np.uint8)
        center = (128, 128) if changing == "radius" else (60 + number, 128)
        cv2.circle(picture, center, 25 + number // 2 if changing == "radius" else 40, (200, 180, 160), -1, cv2.LINE_AA)
        return cv2.resize(picture, (64, 64), interpolation=cv2.INTER_AREA)

    crops = {f"{number:03d}": draw(number) for number in range(0, 140, 2)}
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    crops["other"] = cv2.GaussianBlur(noise, (0, 0), 2)
    saved = cv2.imdecode(cv2.imencode(".jpg", crops["other"], [cv2.IMWRITE_JPEG_QUALITY, 90])[1], cv2.IMREAD_COLOR)
    crops["saved"] = saved
    audit = params.audit.model_copy(update={"near": NEAR, "candidates": 0.5})
    pairs = find_near_duplicates(list(crops), lambda ids: np.stack([crops[name] for name in ids]), audit).pairs
    assert set(zip(pairs["first"], pairs["second"], strict=True)) == {("other", "saved")}
