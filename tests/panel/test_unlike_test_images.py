"""Tests of tumorboard.panel.unlike_test_images."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import ArrayLike
from scipy.stats import beta

from tumorboard.base.errors import InputError
from tumorboard.base.files import write_table
from tumorboard.base.params import Params
from tumorboard.evaluation.summary import Judging, judging_of
from tumorboard.panel.unlike_test_images import read_test_unlike, share_unlike


def write(path: Path, ids: list[str], scores: list[float]) -> Path:
    write_table(pd.DataFrame({"id": ids, "unlike": scores}), path)
    return path


def test_the_panels_score_is_the_mean_over_files_in_the_order_of_the_test_images(tmp_path: Path) -> None:
    one = write(tmp_path / "1.csv", ["a", "b", "c"], [0.0, 1.0, 2.0])
    other = write(tmp_path / "2.csv", ["c", "a", "b"], [4.0, 0.5, 1.5])
    assert read_test_unlike([one, other], ["c", "b", "a"]).tolist() == [3.0, 1.25, 0.25]


@pytest.mark.parametrize("ids", [["a"], ["a", "b", "c"], ["a", "c"], ["a", "a"]])
def test_other_images_are_refused(tmp_path: Path, ids: list[str]) -> None:
    file = write(tmp_path / "1.csv", ids, [0.0] * len(ids))
    with pytest.raises(InputError, match=r"1\.csv: has \d images that are not the 2 test images: run `dvc repro`"):
        read_test_unlike([file], ["a", "b"])


def share_of(folder: Path, scores: ArrayLike, groups: list[str], limit: float, judging: Judging) -> dict[str, Any]:
    """Returns the share by one file of a model."""
    ids = [f"i{number:03}" for number in range(len(groups))]
    file = write(folder / "1.csv", ids, np.asarray(scores, np.float64).tolist())
    return share_unlike({("cnn", 0): file}, pd.DataFrame({"id": ids, "group": groups}), limit, judging)


def test_the_interval_is_that_of_a_proportion(tmp_path: Path, params: Params) -> None:
    """Where each image is its own group, Korn-Graubard's interval is Clopper-Pearson's of as many images."""
    judging = judging_of(params)
    assert judging.evaluate.confidence == 0.95
    share = share_of(tmp_path, np.r_[np.full(9, 2.0), np.full(91, 0.5)], [f"p{k}" for k in range(100)], 2.0, judging)
    assert list(share) == ["unlike", "unlike_low", "unlike_high"]
    assert share["unlike"] == 0.09  # the limit itself is unlike, as in predict
    assert share["unlike_low"] == pytest.approx(beta.ppf(0.025, 9, 92), abs=2e-3)
    assert share["unlike_high"] == pytest.approx(beta.ppf(0.975, 10, 91), abs=2e-3)


def test_few_groups_have_no_interval(tmp_path: Path, params: Params) -> None:
    share = share_of(tmp_path, [0, 3, 0, 0], ["p1", "p1", "p2", "p3"], 1.0, judging_of(params))
    assert share == {
        "unlike": 0.25,
        "unlike_low": None,
        "unlike_high": None,
        "unlike_method": "too few patients for an interval (3)",
    }
