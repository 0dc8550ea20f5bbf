"""Near duplicates: made copies are found, what only looks alike is not, whatever the order, number and size."""

from collections.abc import Callable

import cv2
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from tests.data.scenes import Pixels, saved, scene, sets_of, small, store
from tumorboard.data import near
from tumorboard.data.near import correlate, near_duplicates
from tumorboard.params import Audit, Params

COPIES: dict[str, Callable[[Pixels], Pixels]] = {
    "re-saved": lambda p: saved(p, 50),
    "smaller": lambda p: saved(cv2.resize(p, (48, 48), interpolation=cv2.INTER_AREA), 80),  # type: ignore[arg-type]
    "larger": lambda p: cv2.resize(p, (200, 200), interpolation=cv2.INTER_CUBIC),  # type: ignore[return-value]
    "cropped": lambda p: p[3:-4, 4:-2],
    "shifted": lambda p: np.roll(p, (4, -3), (0, 1)),
    "brighter": lambda p: np.clip(p * 0.7 + 40, 0, 255).astype(np.uint8),
    "grey": lambda p: np.repeat(cv2.cvtColor(p, cv2.COLOR_RGB2GRAY)[..., None], 3, 2),  # type: ignore[return-value]
}


@pytest.fixture
def audit(params: Params) -> Audit:
    return params.audit.model_copy(update={"policy": "regroup", "label_conflicts": "quarantine", "mirror": True})


# Few pictures are compared all with all, more are looked up in cells.
@pytest.mark.parametrize("count", [20, 300])
def test_made_copies_are_found_and_nothing_else(count: int, audit: Audit) -> None:
    pictures = {f"{n:03d}": small(scene(n)) for n in range(count)}
    expected = set()
    for number, alter in enumerate(COPIES.values()):
        pictures[f"copy{number}"] = small(alter(scene(number)))
        expected.add(frozenset([f"{number:03d}", f"copy{number}"]))
    pictures["flipped"] = small(np.ascontiguousarray(saved(scene(9), 80)[:, ::-1]))
    pairs, faint = near_duplicates(list(pictures), store(pictures), audit)
    assert faint == []
    assert sets_of(list(pictures), pairs) == expected | {frozenset(["009", "flipped"])}
    assert pairs["mirrored"].tolist() == [second == "flipped" for second in pairs["second"]]
    assert (pairs["first"] < pairs["second"]).all()
    assert pairs["correlation"].between(audit.near, 1).all()
    unmirrored, _ = near_duplicates(list(pictures), store(pictures), audit.model_copy(update={"mirror": False}))
    assert sets_of(list(pictures), unmirrored) == expected


def test_the_order_of_the_ids_does_not_matter(audit: Audit) -> None:
    pictures = {f"{n:03d}": small(scene(n % 90)) for n in range(100)}
    pairs, _ = near_duplicates(list(pictures), store(pictures), audit)
    again, _ = near_duplicates(list(pictures)[::-1], store(pictures), audit)
    assert len(pairs) == 10
    pd.testing.assert_frame_equal(pairs, again)


def test_the_correlation_is_that_of_numpy_where_nothing_need_be_aligned(audit: Audit) -> None:
    pictures = {"a": small(scene(1), 48), "b": small(saved(scene(1), 60), 48)}
    pairs, _ = near_duplicates(["a", "b"], store(pictures), audit)
    blurred = []
    for picture in pictures.values():
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float64)
        places = np.arange(48)
        kernel = np.exp(-0.5 * ((places[:, None] - places) / near.DETAIL) ** 2)
        kernel /= kernel.sum(1, keepdims=True)
        blurred.append((grey - kernel @ grey @ kernel.T).ravel())
    still = np.corrcoef(blurred)[0, 1]
    # Alignment can only add to it, here next to nothing.
    assert still - 1e-3 <= pairs["correlation"].iloc[0] <= still + 5e-3


def test_a_structure_that_all_share_makes_no_copies(audit: Audit) -> None:
    """Discs of one size with a grain of their own, as cells are; a hash of 8 x 8 bits takes them for one."""
    y, x = np.mgrid[:96, :96]
    disc = np.where((x - 48) ** 2 + (y - 48) ** 2 < 30**2, 90.0, 0.0)[..., None]
    pictures = {f"{n:02d}": small(np.clip(disc + 0.6 * scene(n), 0, 255).astype(np.uint8)) for n in range(80)}
    assert near_duplicates(list(pictures), store(pictures), audit)[0].empty


def test_pictures_without_detail_are_not_chained_but_named(audit: Audit) -> None:
    ramp = np.broadcast_to(np.arange(64, dtype=np.uint8)[:, None, None], (64, 64, 3))
    pictures = {"black": np.zeros((64, 64, 3), np.uint8), "white": np.full((64, 64, 3), 255, np.uint8)}
    pictures |= {"dim": np.ones((64, 64, 3), np.uint8), "ramp": ramp // 8, "one": small(scene(1))}
    pairs, faint = near_duplicates(list(pictures), store(pictures), audit)
    assert pairs.empty
    assert faint == ["black", "dim", "ramp", "white"]


def test_hundreds_of_copies_of_one_picture_become_one_set(audit: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near, "PENDING", 1000)
    monkeypatch.setattr(near, "JUDGED", 100)
    monkeypatch.setattr(near, "BLOCK", 5000)
    judged: list[int] = []

    def counting(thumbs: Pixels, *pairs: NDArray[np.int64]) -> NDArray[np.float32]:
        judged.append(len(pairs[0]))
        return correlate(thumbs, *pairs)  # type: ignore[arg-type]

    monkeypatch.setattr(near, "correlate", counting)
    base, noise = scene(0), np.random.default_rng(0)
    pictures = {
        f"{n:03d}": small(np.clip(base + noise.normal(0, 3, base.shape), 0, 255).astype(np.uint8)) for n in range(300)
    }
    pictures |= {f"x{n:03d}": small(scene(n + 1)) for n in range(100)}
    pairs, _ = near_duplicates(list(pictures), store(pictures), audit)
    assert sets_of(list(pictures), pairs) == {frozenset(f"{n:03d}" for n in range(300))}
    # 44,850 pairs are alike; those within a set that is already joined are not judged.
    assert sum(judged) < 20000


@pytest.mark.parametrize("side", [16, 31, 200])
def test_crops_of_any_size(side: int, audit: Audit) -> None:
    pictures = {f"{n:02d}": small(scene(n), side) for n in range(10)} | {"copy": small(saved(scene(3), 80), side)}
    assert sets_of(list(pictures), near_duplicates(list(pictures), store(pictures), audit)[0]) == {
        frozenset(["03", "copy"])
    }
