"""The preparation: its results are those of its steps, and an error of a step leaves the results of earlier ones."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.data.scenes import images_of_scenes
from tumorboard.base.errors import InputError
from tumorboard.base.params import Params
from tumorboard.base.tables import Images, Manifest
from tumorboard.data.audit import Copies, find_copies
from tumorboard.data.parts import count_tree
from tumorboard.data.prepare import Prepared, prepare_data

SPLITS = ["train"] * 20 + ["test"] * 4
NO_FILES = pd.DataFrame(columns=["path", "reason", "detail"], dtype=object)
Inputs = tuple[Manifest, Images, Copies]


@pytest.fixture
def small_params(params: Params) -> Params:
    split = params.split.model_copy(update={"folds": 2})
    data = params.data.model_copy(update={"positive": None})
    return params.model_copy(update={"split": split, "folds": (0,), "data": data})


@pytest.fixture
def inputs(small_params: Params) -> Inputs:
    """24 pictures of two classes: 22, of the test set, is 0 saved again, and 3 is a copy of 6 under another label."""
    manifest, images, read_crops = images_of_scenes(
        ["a", "b"] * 12, [6 if n == 3 else n for n in range(24)], {22: 0}, splits=SPLITS
    )
    images = images.assign(width=64, height=64, bytes=np.arange(24), format="PNG", red=9, green=9, blue=9, border=0)
    return manifest, images, find_copies(manifest, images, read_crops, small_params.audit)


def prepared(inputs: Inputs, params: Params, unusable: pd.DataFrame = NO_FILES) -> Prepared:
    return prepare_data(*inputs, unusable=unusable, params=params)


def changed(params: Params, section: str, **values: Any) -> Params:
    return params.model_copy(update={section: getattr(params, section).model_copy(update=values)})


def without(numbers: set[int]) -> list[str]:
    return [f"{n:03d}" for n in range(24) if n not in numbers]


def test_all_steps_without_an_error(inputs: Inputs, small_params: Params) -> None:
    data = prepared(inputs, small_params)
    data.raise_error()
    assert data.error is None
    assert data.label_conflicts["path"].tolist() == ["003", "006"]
    assert data.audited["id"].tolist() == without({3, 6})
    assert data.left_out.to_numpy().tolist() == [["000", "picture in the given test set"]]
    assert data.manifest["id"].tolist() == without({0, 3, 6})
    assert data.pairs[["first", "second", "kind"]].to_numpy().tolist() == [
        ["000", "022", "near"],
        ["003", "006", "pixels"],
    ]
    assert (data.audit_metrics["images"], data.audit_metrics["quarantined"], data.audit_metrics["dropped"]) == (
        24,
        2,
        1,
    )
    assert {key: data.split_metrics[key] for key in ("images", "groups")} == count_tree(data.manifest)
    assert data.split_metrics["dropped_train_twins"] == 1
    assert data.split_metrics["shares"]["test"] == {"a": 0.5, "b": 0.5}
    assert len(data.shortcuts) == 8
    # The test set is given and has no wanted size; the folds are drawn.
    sizes = data.shares[data.shares["label"] == ""].set_index("part")["wanted"]
    assert sizes[["fold_0", "fold_1"]].tolist() == [0.5, 0.5]
    assert sizes[["train", "test"]].isna().all()
    assert [warning.split(" ", 2)[:2] for warning in data.warnings[:2]] == [["audit:", "1"], ["split:", "1"]]


def test_groups_that_share_a_picture_are_counted_and_said(small_params: Params) -> None:
    """24 pictures of 12 patients, two each: 1 is 4 saved again, of the patients p0 and p2; 8 and 9 are of p4 alone."""
    scenes = [n if n not in (4, 9) else {4: 1, 9: 8}[n] for n in range(24)]
    manifest, images, read_crops = images_of_scenes(["a"] * 12 + ["b"] * 12, scenes, {})
    images = images.assign(width=64, height=64, bytes=np.arange(24), format="PNG", red=9, green=9, blue=9, border=0)
    manifest["group"] = [f"p{n // 2}" for n in range(24)]
    copies = find_copies(manifest, images, read_crops, small_params.audit)
    for unit, words in (("patient", "12 patients count as 11"), (None, "12 groups count as 11")):
        data = prepared((manifest, images, copies), changed(small_params, "data", unit=unit))
        data.raise_error()
        assert data.split_metrics["merged_groups"] == 1
        assert data.manifest["group"].nunique() == 11
        assert [warning for warning in data.warnings if "count as" in warning] == [
            f"split: {words}, as some share a picture: those that do are on one side of the split, and the intervals "
            "take them for one"
        ]
    alone = manifest.assign(group=manifest["id"])
    data = prepared((alone, images, copies), small_params)
    assert data.split_metrics["merged_groups"] == 2  # images of which nobody said groups: no news
    assert not [warning for warning in data.warnings if "count as" in warning]


def test_a_refusing_audit_leaves_the_images_as_given(inputs: Inputs, small_params: Params) -> None:
    data = prepared(inputs, changed(small_params, "audit", policy="refuse"))
    with pytest.raises(InputError, match="2 pictures appear more than once"):
        data.raise_error()
    assert data.audited is inputs[0]
    assert (len(data.label_conflicts), len(data.left_out), len(data.manifest), len(data.shortcuts)) == (0, 0, 0, 0)
    assert (data.warnings, data.audit_metrics, data.split_metrics) == ((), {}, {})


def test_too_many_quarantined_images_leave_the_audit(inputs: Inputs, small_params: Params) -> None:
    """One unusable file and the two images of the conflict, of 25 files."""
    unusable = pd.DataFrame([("x.png", "empty", "no bytes")], columns=NO_FILES.columns)
    assert prepared(inputs, changed(small_params, "data", max_quarantined=3), unusable).error is None
    data = prepared(inputs, changed(small_params, "data", max_quarantined=2), unusable)
    assert str(data.error).startswith("3 of 25 files cannot be used")
    assert data.label_conflicts["path"].tolist() == ["003", "006"]
    assert data.audited["id"].tolist() == without({3, 6})
    assert (len(data.left_out), len(data.warnings)) == (0, 1)


def test_parts_given_for_some_images_leave_the_list_without_its_warning(inputs: Inputs, small_params: Params) -> None:
    manifest, images, copies = inputs
    data = prepared((manifest.assign(split=["", *SPLITS[1:]]), images, copies), small_params)
    assert str(data.error).startswith("split is given for some images")
    assert data.left_out["path"].tolist() == ["000"]
    assert [warning.split(":")[0] for warning in data.warnings] == ["audit"]


def test_a_failing_split_leaves_the_images_left_out_and_their_warning(inputs: Inputs, small_params: Params) -> None:
    data = prepared(inputs, changed(small_params, "split", folds=12))
    assert "class 'a' has" in str(data.error)
    assert data.left_out["path"].tolist() == ["000"]
    assert [warning.split(":")[0] for warning in data.warnings] == ["audit", "split"]
    assert (len(data.manifest), len(data.shares), data.split_metrics) == (0, 0, {})


def test_a_split_that_fails_its_check_is_not_probed(
    inputs: Inputs, small_params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check sees the pairs of the audit, and every picture: here the split does not keep copies together."""

    def careless(manifest: Manifest, *_: object, **__: object) -> tuple[Manifest, dict[str, Any]]:
        divided = manifest.assign(split="train").assign(fold=pd.array(np.arange(len(manifest)) % 3, dtype="Int64"))
        return divided, {}

    monkeypatch.setattr("tumorboard.data.prepare.split_manifest", careless)
    data = prepared(inputs, small_params)
    assert "the near duplicates '000' and '022' are on two sides" in str(data.error)
    assert len(data.manifest) == 22
    assert (len(data.shortcuts), data.audit_metrics) == (0, {})
    assert prepared(inputs, changed(small_params, "audit", policy="report", label_conflicts="keep")).error is None


@pytest.mark.parametrize("positive", ["c", "A"])
def test_a_positive_class_that_the_data_lacks_is_refused_before_any_training(
    inputs: Inputs, small_params: Params, positive: str
) -> None:
    data = prepared(inputs, changed(small_params, "data", positive=positive))
    with pytest.raises(InputError, match=f"positive is '{positive}', expected one of two .* the classes are a, b:"):
        data.raise_error()
    prepared(inputs, changed(small_params, "data", positive="b")).raise_error()
