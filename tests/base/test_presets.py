"""Presets: what they set, that an explicit key wins, and that the committed study keeps the values it always had."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tumorboard.base.errors import InputError
from tumorboard.base.params import Params, load_params, package_params
from tumorboard.base.presets import PRESETS, explain_preset, explain_study, fill_empty
from tumorboard.base.recipe import resolve_recipe
from tumorboard.base.schema import read_yaml

ROOT = Path(__file__).parents[2]
REAL = read_yaml(ROOT / "params.yaml")
KEYS = list(PRESETS["general"].settings)

# The values of the embedded study before there were presets: a change retrains the committed run.
PHANTOM_TRAINING = {
    "hflip": 0.5,
    "vflip": 0.5,
    "rotate": 180.0,
    "zoom": (0.9, 1.1),
    "crop": 1.0,
    "shift": 0.05,
    "brightness": 0.1,
    "contrast": 0.1,
    "saturation": 0.0,
    "blur": 0.0,
    "blur_sigma": (0.3, 1.0),
    "noise": 0.0,
    "fill": "reflect",
    "interpolation": "bilinear",
}
PHANTOM_COPIES = PHANTOM_TRAINING | {"zoom": (1.0, 1.1), "shift": 0.02, "brightness": 0.05, "contrast": 0.05}


def study(tmp_path: Path, changes: Mapping[str, Any]) -> Params:
    """The committed params.yaml with some keys set by their dotted names."""
    tree = read_yaml(ROOT / "params.yaml")
    for key, value in changes.items():
        *sections, last = key.split(".")
        section = tree
        for name in sections:
            section = section[name]
        section[last] = value
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return load_params(file)


def at(tree: Any, key: str) -> Any:
    """The value of params, or of a tree, at a dotted key."""
    for name in key.split("."):
        tree = tree[name] if isinstance(tree, dict) else getattr(tree, name)
    return tree


def test_the_committed_study_has_the_values_it_always_had(tmp_path: Path) -> None:
    params = study(tmp_path, {})
    assert params.preset == "cells"
    assert params.train.augment.model_dump() == PHANTOM_TRAINING
    assert params.balance.augment.model_dump() == PHANTOM_COPIES
    assert (params.crop.side, params.crop.border, params.train.tta) == (64, True, ())
    assert resolve_recipe(params, "cnn").augment.model_dump() == PHANTOM_TRAINING


def test_every_preset_sets_the_same_keys_which_are_those_that_the_committed_file_leaves_to_it() -> None:
    for name, preset in PRESETS.items():
        assert list(preset.settings) == KEYS, name
    assert [key for key in KEYS if at(REAL, key) is not None] == []
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    marked = [line for line in text.splitlines() if line.endswith("by preset")]
    assert len(marked) == len(KEYS)
    assert all(line.split("#")[0].rstrip().endswith(":") for line in marked)


@pytest.mark.parametrize("name", PRESETS)
def test_a_study_has_the_values_of_its_preset(tmp_path: Path, name: str) -> None:
    params = study(tmp_path, {"preset": name})
    assert params.preset == name
    for key, value, reason in explain_preset(name):
        assert at(params, key) == value, key
        assert len(reason) > 10, key
        assert not reason.endswith("."), key
    others = {"crop.border_threshold": 24, "train.augment.noise": 0.0, "train.epochs": 8, "crop.window": None}
    assert {key: at(params, key) for key in others} == others


def test_an_empty_preset_is_general(tmp_path: Path) -> None:
    params = study(tmp_path, {"preset": None})
    assert params == study(tmp_path, {"preset": "general"})
    assert params.preset == "general"


@pytest.mark.parametrize("key", KEYS)
def test_an_explicit_value_wins_over_the_preset(tmp_path: Path, key: str) -> None:
    """Zero, false and an empty list are values: only an empty key is the preset's."""
    other = {"zoom": [1.0, 1.5], "fill": "border", "border": False, "side": 99, "tta": []}
    value = other.get(key.split(".")[-1], 0)
    params = study(tmp_path, {"preset": "skin" if key != "train.tta" else "histology", key: value})
    assert at(params, key) == (tuple(value) if isinstance(value, list) else value)
    rest = [row for row in explain_preset(params.preset) if row.key != key]
    assert all(at(params, row.key) == row.value for row in rest)


def test_an_experiment_sets_a_single_alteration(tmp_path: Path) -> None:
    """As `dvc exp run -S train.augment.rotate=15 -S preset=mri` does it, on the file with its comments."""
    from dvc.utils.hydra import apply_overrides

    file = tmp_path / "params.yaml"
    file.write_text((ROOT / "params.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    for override in ("train.augment.rotate=7", "preset=mri", "balance.augment.zoom=[0.5,2]"):
        apply_overrides(file, [override])
    params = load_params(file)
    assert (params.train.augment.rotate, params.train.augment.zoom) == (7.0, (0.9, 1.1))
    assert (params.balance.augment.zoom, params.balance.augment.rotate) == ((0.5, 2.0), 5.0)
    assert params.crop.side == 160


def test_a_recipe_overrides_the_preset(tmp_path: Path) -> None:
    recipes = {**REAL["recipes"], "cnn": {"architecture": "cnn", "augment": {"rotate": 5, "zoom": None}}}
    params = study(tmp_path, {"preset": "xray", "recipes": recipes})
    augment = resolve_recipe(params, "cnn").augment
    assert (augment.rotate, augment.zoom, augment.fill) == (5.0, (0.9, 1.1), "black")
    assert resolve_recipe(params, "linear").augment == params.train.augment


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preset": "cell"}, "preset: there is no preset 'cell'; did you mean cells?"),
        ({"preset": "brain"}, "known: cells, fundus, general, histology, mri, skin, xray"),
        ({"preset": 3}, "preset: is 3: input should be a valid string"),
        ({"preset": ["mri"]}, "preset: is ['mri']: input should be a valid string"),
        # A key that presets do not set is an error where it is empty, as it was.
        ({"crop.border_threshold": None}, "crop.border_threshold: is None: input should be a valid integer"),
        ({"train.augment.noise": None}, "train.augment.noise: is None"),
        ({"train.augment": None}, "train.augment: is empty: give it keys, or delete the line"),
        ({"crop": 5}, "crop: is 5"),
        ({"crop.side": "big"}, "crop.side: is 'big': input should be a valid integer"),
    ],
)
def test_what_is_wrong_is_named_alone(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as refusal:
        study(tmp_path, changes)
    assert message in str(refusal.value)
    assert len(str(refusal.value).splitlines()) == 1, "an empty key that a preset sets is no error"


def test_a_key_that_is_missing_is_not_made_up(tmp_path: Path) -> None:
    tree = read_yaml(ROOT / "params.yaml")
    del tree["preset"], tree["crop"]["side"]
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(tree), encoding="utf-8")
    with pytest.raises(InputError) as refusal:
        load_params(file)
    assert sorted(line.split(": ", 1)[1] for line in str(refusal.value).splitlines()) == [
        "crop.side: missing",
        "preset: missing",
    ]


def test_filling_leaves_the_tree_that_it_is_given() -> None:
    tree = {"preset": None, "crop": {"side": None}}
    fill_empty(tree)
    assert tree == {"preset": None, "crop": {"side": None}}


def test_copies_are_altered_half_as_much_as_in_training() -> None:
    mri = {row.key: row.value for row in explain_preset("mri")}
    copies = {key.split(".")[-1]: value for key, value in mri.items() if key.startswith("balance.")}
    assert copies == {
        "hflip": 0.5,
        "vflip": 0.0,
        "rotate": 5.0,
        "zoom": (0.95, 1.05),
        "shift": 0.025,
        "brightness": 0.1,
        "contrast": 0.1,
        "saturation": 0.0,
        "blur": 0.0,
        "fill": "black",
    }
    assert {row.key: row.value for row in explain_preset("skin")}["balance.augment.rotate"] == 180


def test_general_turns_no_side_and_no_orientation_around() -> None:
    general = {row.key: row.value for row in explain_preset("general")}
    assert [general[f"train.augment.{key}"] for key in ("hflip", "vflip", "saturation", "blur")] == [0, 0, 0, 0]
    assert general["train.augment.rotate"] <= 15
    for key in KEYS:  # no other preset is milder, except where it turns nothing
        if key.startswith("train.augment.") and key.split(".")[-1] in ("brightness", "contrast", "shift"):
            assert all(preset.settings[key].value >= general[key] for preset in PRESETS.values()), key


def test_a_study_s_table_marks_what_params_set() -> None:
    tree = {"preset": "xray", "crop": {"side": 96, "border": None}, "train": {"augment": {"hflip": 0.5}}}
    rows = {row.key: row for row in explain_study(tree)}
    assert rows["crop.side"][1:] == (96, "set in params.yaml")
    assert rows["train.augment.hflip"].value == 0.5
    assert rows["crop.border"] == explain_preset("xray")[1]
    assert list(rows) == KEYS
    assert explain_study({}) == explain_preset("general")


def test_an_unknown_preset_cannot_be_explained() -> None:
    with pytest.raises(InputError, match="there is no preset 'fundis'; did you mean fundus"):
        explain_preset("fundis")


def test_the_page_has_the_values_of_the_code() -> None:
    page = (ROOT / "docs/presets.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| `") and "." in line[:10]]
    names = (
        next(line for line in page.splitlines() if line.startswith("| | ")).strip("| ").replace("`", "").split(" | ")
    )
    assert names == list(PRESETS)
    assert [key.strip("`") for key, *_ in rows] == [key for key in KEYS if not key.startswith("balance.")]
    for key, *cells in rows:
        values = [preset.settings[key.strip("`")].value for preset in PRESETS.values()]
        assert [yaml.safe_load(cell) for cell in cells] == [list(v) if isinstance(v, tuple) else v for v in values], key


@pytest.mark.parametrize("preset", PRESETS)
def test_a_ready_recipe_with_alterations_of_its_own_has_them_under_every_preset(preset: str) -> None:
    """Rotation within 45 degrees, both flips, a crop of 200 of 250 pixels, and nothing else."""
    params = package_params(preset)
    for name in ("plateau_cnn3", "plateau_lite0", "plateau_lite0_longer", "plateau_resnet50"):
        augment = resolve_recipe(params, name).augment
        changes = augment.model_dump(exclude={"fill", "interpolation", "blur_sigma"})
        assert changes == {
            "hflip": 0.5,
            "vflip": 0.5,
            "rotate": 45,
            "zoom": (1, 1),
            "crop": 0.8,
            "shift": 0,
            "brightness": 0,
            "contrast": 0,
            "saturation": 0,
            "blur": 0,
            "noise": 0,
        }
