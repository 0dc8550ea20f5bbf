"""The nearest picture, compared with correlations that numpy computes."""

import numpy as np
import pytest

from tests.data.scenes import scene
from tumorboard.data.nearest import nearest_pictures

SIDE = 48  # pixels: that of a thumbnail, so that nothing is scaled


def grey_scene(number: int) -> np.ndarray:
    """Returns a scene without colors, stretched to all grey levels, as thumbnails are."""
    grey = scene(number, SIDE).mean(2)
    grey = (grey - grey.min()) * (255 / (grey.max() - grey.min()))
    return np.repeat(np.rint(grey).astype(np.uint8)[:, :, None], 3, axis=2)


def turned(picture: np.ndarray, turns: int, mirrored: bool) -> np.ndarray:
    return np.rot90(picture[:, ::-1] if mirrored else picture, turns)


def test_the_nearest_is_the_one_with_the_largest_correlation_in_any_position() -> None:
    pictures = {f"p{n}": grey_scene(n) for n in range(9)}
    ids, others = ["p0", "p1", "p2"], [f"p{n}" for n in range(3, 9)]
    table = nearest_pictures(ids, others, lambda names: np.stack([pictures[name] for name in names]))
    assert table["id"].tolist() == ids
    for row in table.to_dict("records"):
        expected = {
            (other, turns, mirrored): np.corrcoef(
                pictures[row["id"]][:, :, 0].ravel(), turned(pictures[other], turns, mirrored)[:, :, 0].ravel()
            )[0, 1]
            for other in others
            for turns in range(4)
            for mirrored in (False, True)
        }
        best = max(expected, key=lambda key: expected[key])
        assert (row["nearest"], row["turns"], row["mirrored"]) == best
        assert row["correlation"] == pytest.approx(expected[best], abs=1e-4)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("turns", range(4))
def test_a_copy_is_found_in_every_position(turns: int, mirrored: bool) -> None:
    pictures = {f"p{n}": grey_scene(n) for n in range(4)}
    pictures["copy"] = turned(pictures["p2"], turns, mirrored)
    table = nearest_pictures(["copy"], ["p3", "p2", "p1", "p0"], lambda names: np.stack([pictures[n] for n in names]))
    (row,) = table.to_dict("records")
    assert (row["nearest"], row["turns"], row["mirrored"]) == ("p2", turns, mirrored)
    assert row["correlation"] == pytest.approx(1)
    assert row["detail"] == pytest.approx(1, abs=1e-3)


def test_a_shifted_copy_has_equal_details_though_its_pixels_differ() -> None:
    wide = grey_scene(5)
    pictures = {"whole": wide, "shifted": np.roll(wide, 2, axis=1), "other": grey_scene(6)}
    table = nearest_pictures(["shifted"], ["other", "whole"], lambda names: np.stack([pictures[n] for n in names]))
    assert table.loc[0, "nearest"] == "whole"
    assert table.loc[0, "correlation"] < table.loc[0, "detail"]
    assert table.loc[0, "detail"] > 0.9


def test_plain_pictures_resemble_nothing() -> None:
    flat = np.full((1, SIDE, SIDE, 3), 7, np.uint8)
    table = nearest_pictures(["a"], ["b"], lambda _: flat)
    assert table["correlation"].tolist() == [0.0]
    assert table["nearest"].tolist() == ["b"]
