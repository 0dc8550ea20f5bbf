"""The comparisons of docs/results.md: their keys are valid, their commands are those of DVC, their marks are there."""

import shlex
from pathlib import Path

import pytest

from benchmarks import accuracy
from benchmarks.accuracy import AGAINST, measure_against
from benchmarks.results import COMPARISONS, PAGE, TABLES, Comparison, command_of, replace_between, with_keys
from tumorboard.base.recipe import resolve_recipe


@pytest.mark.parametrize("name", COMPARISONS)
def test_the_keys_of_a_comparison_are_those_of_params(name: str) -> None:
    for title, keys in COMPARISONS[name].runs():
        params = with_keys(keys)
        assert list(params.models) == keys["models"]
        for model in params.models:
            resolve_recipe(params, model)
        assert bool(title) == (COMPARISONS[name].each is not None)


@pytest.mark.parametrize("name", TABLES)
def test_the_page_has_a_place_for_each_comparison(name: str) -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page.count(f"<!-- {name}: begin -->") == page.count(f"<!-- {name}: end -->") == 1
    assert "\nnew\n" in replace_between(page, name, ["new"])


def test_a_page_without_marks_is_refused() -> None:
    with pytest.raises(SystemExit, match="has no '<!-- e: begin -->'"):
        replace_between("text", "e", ["new"])


def test_the_command_sets_the_same_keys() -> None:
    keys = {"data.group_pattern": r"(B_\d+)", "models": ["a", "b"], "data.unit": None, "crop.border": False, "x": 0.001}
    words = shlex.split(command_of(Comparison("", keys, raw="cells", each=("folds", (0, 1)))).replace("\\\n", ""))
    assert words[:4] == ["dvc", "exp", "run", "--queue"]
    assert [word for word in words[4:] if word != "-S"] == [
        "data.raw=$DATA/cells",
        r'data.group_pattern="(B_\d+)"',
        "models=[a,b]",
        "data.unit=null",
        "crop.border=false",
        "x=0.001",
        "folds=0,1",
    ]


def test_a_preset_of_a_comparison_fills_the_empty_keys() -> None:
    assert with_keys({"preset": "xray"}).crop.side == 224
    assert with_keys({"preset": "xray", "crop.side": 32}).crop.side == 32


def test_a_comparison_with_others_runs_the_command_that_it_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr("benchmarks.accuracy.measure", lambda options: seen.append(options) or ["table"])
    lines = measure_against(AGAINST["others_bccd"], Path("/sets"), "py")
    assert lines[:5] == [
        "```",
        "python -m benchmarks.accuracy --group-pattern '(BloodImage_\\d+)' --preset cells --side 64 --folds 0 "
        "--models cnn,resnet18 --data $DATA/bccd_cells --fastai PYTHON",
        "```",
        "",
        "table",
    ]
    printed = accuracy.read_options(shlex.split(lines[1])[3:])
    assert (seen[0].data, seen[0].fastai) == (Path("/sets/bccd_cells"), "py")
    assert {**vars(seen[0]), "data": None, "fastai": None} == {**vars(printed), "data": None, "fastai": None}
    assert measure_against(AGAINST["others_phantom"], None, None)[1].endswith("cnn,resnet18")
    assert seen[1].data is None
