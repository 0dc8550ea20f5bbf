"""One fold per value of a column: which rows get which fold, what is refused, and that the split keeps the folds."""

import pandas as pd
import pytest

from tests.data.scenes import images_of_scenes
from tumorboard.base.errors import InputError
from tumorboard.base.params import Params
from tumorboard.base.tables import Manifest
from tumorboard.data.audit import find_copies
from tumorboard.data.leave_out import fold_by_value
from tumorboard.data.prepare import Prepared, prepare_data

SITES = ["south", "north", "10", "9"] * 3
NO_FILES = pd.DataFrame(columns=["path", "reason", "detail"], dtype=object)


def manifest_of(groups: list[str] | None = None, splits: list[str] | None = None) -> Manifest:
    """Twelve images 000 to 011 of two classes, four sites and, by default, as many groups."""
    ids = [f"{n:03d}" for n in range(12)]
    table = pd.DataFrame({"id": ids, "path": ids, "label": list("aabb") * 3}, dtype=object)
    table["group"], table["split"] = groups or ids, splits or [""] * 12
    table["fold"] = pd.array([None] * 12, dtype="Int64")
    return table


def divide(
    manifest: Manifest,
    sites: list[str] = SITES,
    folds: tuple[int, ...] = (0,),
    column: str = "site",
    pictures: dict[str, str] | None = None,
) -> tuple[list[int | None], list[str]]:
    """The fold of each row, and the value of each fold."""
    names = pd.Series({name: name for name in manifest["id"]} | (pictures or {}), dtype=object)
    attributes = pd.DataFrame({"id": manifest["id"], "sex": "", "site": sites}).sample(frac=1, random_state=0)
    divided, values = fold_by_value(manifest, names, attributes, column=column, folds=folds)
    return [None if fold is pd.NA else int(fold) for fold in divided["fold"]], values


def test_each_value_is_a_fold_in_sorted_order_of_the_texts() -> None:
    folds, values = divide(manifest_of(), folds=(0, 3))
    assert values == ["10", "9", "north", "south"]
    assert folds == [3, 2, 0, 1] * 3


def test_a_given_test_set_has_no_fold_and_its_own_value_makes_none() -> None:
    splits = ["test" if site == "10" else "train" for site in SITES]
    sites = [("" if number == 2 else site) for number, site in enumerate(SITES)]  # unknown in the test set
    folds, values = divide(manifest_of(splits=splits), sites)
    assert values == ["9", "north", "south"]
    assert folds == [2, 1, None, 0] * 3


def test_a_group_with_two_values_is_refused_by_name() -> None:
    groups = ["P1", *(f"P{n}" for n in range(2, 12)), "P1"]
    message = "'000' and '011' are of one group, 'P1', but their values in the column 'site' are 'south' and '9'"
    with pytest.raises(InputError, match=message):
        divide(manifest_of(groups))


def test_copies_with_two_values_are_refused_even_if_their_groups_differ() -> None:
    with pytest.raises(
        InputError, match=r"'004' and '007' are joined as copies of one picture, but .* 'south' and '9'"
    ):
        divide(manifest_of(), pictures={"007": "004"})


def test_a_group_of_one_value_and_copies_within_it_are_accepted() -> None:
    assert divide(manifest_of([f"P{n % 4}" for n in range(12)]), pictures={"004": "000"})[0] == [3, 2, 0, 1] * 3


@pytest.mark.parametrize(
    ("sites", "message"),
    [
        (["", *SITES[1:-1], ""], r"2 images have no value in the column 'site', the first '000': fill it in"),
        (["x"] * 12, r"has only 1 value, 'x', but two are needed"),
    ],
)
def test_missing_values_and_a_single_one_are_refused(sites: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        divide(manifest_of(), sites)


def test_a_fold_without_a_value_is_refused_with_the_values() -> None:
    with pytest.raises(InputError, match=r"folds lists 4, but the values .* make 0 \(10\), 1 \(9\), 2 \(north\), 3 \("):
        divide(manifest_of(), folds=(0, 4))


def test_an_unknown_column_is_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"split\.leave_out: the data has no column 'sites'; did you mean site\?$"):
        divide(manifest_of(), column="sites")


@pytest.mark.parametrize("given", ["fold", "val"])
def test_folds_or_a_validation_set_of_the_data_contradict_it(given: str) -> None:
    manifest = manifest_of(splits=["val" if given == "val" and n < 3 else "train" for n in range(12)])
    if given == "fold":
        manifest.loc[0, "fold"] = 1
    with pytest.raises(InputError, match="the data gives its own folds or validation set: leave one of them empty"):
        divide(manifest)


@pytest.fixture
def data() -> tuple[object, ...]:
    """40 images of 20 groups, two classes and two sites; the classes are shared out over both sites."""
    manifest, images, read_crops = images_of_scenes(["a", "b"] * 20, list(range(40)))
    manifest["group"] = [f"P{n // 2}" for n in range(40)]
    images = images.assign(width=64, height=64, bytes=range(40), format="PNG", red=9, green=9, blue=9, border=0)
    attributes = pd.DataFrame({"id": manifest["id"], "site": ["ab"[n // 2 % 2] for n in range(40)]})
    return manifest, images, read_crops, attributes


def prepare(data: tuple[object, ...], params: Params, **split: object) -> Prepared:
    manifest, images, read_crops, attributes = data
    params = params.model_copy(update={"split": params.split.model_copy(update=split), "folds": (0, 1)})
    copies = find_copies(manifest, images, read_crops, params.audit)
    return prepare_data(manifest, images, copies, unusable=NO_FILES, params=params, attributes=attributes)


def test_the_split_draws_a_test_set_over_the_sites_and_leaves_one_site_out_per_fold(
    data: tuple[object, ...], params: Params
) -> None:
    done = prepare(data, params, leave_out="site")
    done.raise_error()
    site = data[3].set_index("id")["site"]
    train = done.manifest[done.manifest["split"] == "train"]
    assert (train["fold"].astype(int).map({0: "a", 1: "b"}) == site[train["id"]].to_numpy()).all()
    test = done.manifest[done.manifest["split"] == "test"]
    assert len(test) == 8
    assert test["fold"].isna().all()
    assert done.split_metrics["left_out_values"] == {"fold_0": "a", "fold_1": "b"}


def test_without_leave_out_the_attributes_change_nothing(data: tuple[object, ...], params: Params) -> None:
    done = prepare(data, params)
    assert "left_out_values" not in done.split_metrics
    assert done.manifest["fold"].nunique() == params.split.folds


def test_split_folds_does_not_count(data: tuple[object, ...], params: Params) -> None:
    two, nine = (prepare(data, params, leave_out="site", folds=folds) for folds in (2, 9))
    pd.testing.assert_frame_equal(two.manifest, nine.manifest)
    assert two.split_metrics == nine.split_metrics
