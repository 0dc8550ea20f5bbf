"""dvc.yaml: which sources and options each stage has, and the page that shows its plots."""

import ast
import importlib
import inspect
import json
import re
import shlex
from pathlib import Path
from typing import Any

import grimp
import pytest
import vl_convert
import yaml

from tumorboard.base.data_params import Data
from tumorboard.base.digests import source_files
from tumorboard.base.presets import PRESETS

ROOT = Path(__file__).resolve().parents[1]
STAGES: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]


def file_of(module: str) -> str:
    base = ROOT / (module.replace(".", "/") if module.startswith("stages") else "src/" + module.replace(".", "/"))
    file = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
    return file.relative_to(ROOT).as_posix()


@pytest.fixture(scope="module")
def imports() -> grimp.ImportGraph:
    return grimp.build_graph("stages", "tumorboard", cache_dir=None)


@pytest.fixture(scope="module")
def sources() -> dict[str, set[str]]:
    """The Python files that each stage's digest lists."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        packages = {"stages": Path("stages"), "tumorboard": Path("src/tumorboard")}
        return {stage: {file.as_posix() for file in source_files(f"stages.{stage}", packages)} for stage in STAGES}


@pytest.mark.parametrize("stage", STAGES)
def test_a_digest_lists_exactly_the_modules_that_the_stage_imports(
    stage: str, imports: grimp.ImportGraph, sources: dict[str, set[str]]
) -> None:
    """grimp computes the same closure by other code."""
    # Importing a.b.c runs a/__init__.py and a/b/__init__.py as well; that of the stages imports modules.
    modules = {f"stages.{stage}"}.union(*map(imports.find_upstream_modules, (f"stages.{stage}", "stages")))
    parents = {module.rsplit(".", depth)[0] for module in modules for depth in range(1, module.count(".") + 1)}
    assert {name for name in sources[stage] if name.endswith(".py")} == {file_of(name) for name in modules | parents}


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "digest"])
def test_a_stage_depends_on_its_digest_and_on_no_source_file(stage: str) -> None:
    deps = STAGES[stage]["deps"]
    assert f"digests/{stage}.sha256" in deps
    assert not [dep for dep in deps if dep.startswith(("src", "stages")) or dep == "digests"]


def test_the_digest_stage_depends_on_all_sources() -> None:
    assert STAGES["digest"]["deps"] == ["src/tumorboard", "stages"]
    assert "__pycache__" in (ROOT / ".dvcignore").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize(
    ("edited", "rerun"),
    [
        ("training/losses.py", {"train"}),
        ("training/journal.py", {"train"}),
        ("data/check.py", set()),
        ("commands/check.py", set()),
        ("commands/lr_find.py", set()),
        ("report/page.py", {"report"}),
        ("report/templates/report.html.j2", {"report"}),
        ("panel/votes.py", {"ensemble", "explain", "report"}),
        ("panel/explain.py", {"explain"}),
        ("panel/heat_maps.py", {"explain", "report"}),
        ("models/activation_maps.py", {"explain"}),
        ("panel/predict.py", set()),
        ("panel/fits.py", {"ensemble", "explain", "report"}),
        ("panel/ledger.py", {"evaluate", "report"}),
        ("evaluation/held_out.py", {"train", "evaluate", "ensemble", "explain", "report"}),
        ("images/crop.py", {"crop", "explain"}),
        ("images/grey.py", {"crop", "explain", "report"}),
        ("data/grey_ranges.py", {"crop", "report"}),
        ("data/split.py", {"split"}),
        ("data/phantom.py", {"phantom"}),
        ("augment/balance.py", {"balance"}),
    ],
)
def test_an_edit_reruns_only_the_stages_that_run_the_file(
    edited: str, rerun: set[str], sources: dict[str, set[str]]
) -> None:
    """DVC reruns what depends on their outputs too, if these change."""
    assert (ROOT / "src/tumorboard" / edited).is_file()
    assert {stage for stage, files in sources.items() if f"src/tumorboard/{edited}" in files} == rerun


def test_scores_of_test_images_are_no_metrics_of_dvc_and_only_the_report_reads_them() -> None:
    metrics = [next(iter(entry)) for stage in STAGES.values() for entry in stage.get("metrics", [])]
    assert metrics
    assert not [path for path in metrics if "test" in path]
    readers = {name: [dep for dep in stage["deps"] if "/test/" in dep] for name, stage in STAGES.items()}
    assert {name for name, deps in readers.items() if deps} == {"ensemble", "explain", "report"}
    assert readers["ensemble"] == ["predictions/test/members", "predictions/test/unlike"]
    assert readers["explain"] == ["predictions/test/votes"]
    users = {name for name, stage in STAGES.items() if {"evaluate", "evaluate.test"} & set(stage.get("params", []))}
    assert "evaluate" in users
    assert users <= {"evaluate", "ensemble", "report"}, "`evaluate.test` retrains nothing"


@pytest.mark.parametrize("stage", STAGES)
def test_a_stages_command_has_its_options_in_order_and_only_paths_that_dvc_knows(stage: str) -> None:
    words = shlex.split(STAGES[stage]["cmd"])
    assert words[:3] == ["python", "-m", f"stages.{stage}"]
    options = dict(zip(words[3::2], words[4::2], strict=True))
    main = importlib.import_module(f"stages.{stage}").main
    named = [
        name for name, parameter in inspect.signature(main).parameters.items() if parameter.kind.name == "KEYWORD_ONLY"
    ]
    assert list(options) == ["--" + name.replace("_", "-") for name in named]
    known = json.dumps([STAGES[stage][key] for key in ("deps", "outs", "metrics") if key in STAGES[stage]])
    for path in (value for value in options.values() if "/" in value):
        assert path in known, f"{stage} is given {path}, which is neither among its deps nor its outs"


def test_the_crop_stage_depends_on_every_entry_of_the_data_that_decides_about_crops() -> None:
    """What a group is called, which class is the positive one, and where the lesions are changes no crop."""
    kept = [param.removeprefix("data.") for param in STAGES["crop"]["params"] if param.startswith("data")]
    assert sorted(kept) == sorted(Data.model_fields.keys() - {"unit", "positive", "boxes"})


def test_a_changed_list_of_stacking_columns_is_checked_before_the_trainings() -> None:
    """The split checks it; its outputs stay the same, so that nothing is trained again."""
    lists = {name for name, stage in STAGES.items() if "ensemble.stacking_columns" in stage.get("params", [])}
    assert lists == {"split"}
    assert "ensemble" in STAGES["ensemble"]["params"]
    assert "data/split/manifest.csv" in STAGES["train"]["deps"]


def test_a_preset_reaches_every_stage_that_reads_what_it_fills() -> None:
    """A stage lists `preset`, or depends on an output that has what it became."""
    filled = {key.rsplit(".", depth)[0] for key in PRESETS["general"].settings for depth in range(key.count(".") + 1)}
    reads = {name for name, stage in STAGES.items() if filled & set(stage.get("params", []))}
    lists = {name for name, stage in STAGES.items() if "preset" in stage.get("params", [])}
    assert lists == {"crop", "balance", "recipe"}
    # The store has crop.json, the record of the crop.
    follow = {name for name in STAGES if {"data/crop", "data/crop/store"} & set(STAGES[name]["deps"])}
    assert reads == {"crop", "balance", "recipe", "train", "report"}
    assert reads - lists <= follow


def test_scripts_are_thin() -> None:
    for script in sorted((ROOT / "stages").glob("[a-z]*.py")):
        tree = ast.parse(script.read_text(encoding="utf-8"))
        loops = [node for node in ast.walk(tree) if isinstance(node, (ast.For, ast.While))]
        assert len(loops) <= 2, f"{script.name} computes: move its loops into the library"
        assert len(script.read_text(encoding="utf-8").splitlines()) < 110, script.name


def test_the_plots_page_loads_nothing_from_the_internet() -> None:
    page = (ROOT / ".dvc/plots/offline.html").read_text(encoding="utf-8")
    assert re.findall(r'(?:src|href)\s*=\s*"https?:', page) == []
    assert "{plot_divs}" in page
    assert "{scripts}" not in page


def test_confusion_matrices_are_under_their_own_names() -> None:
    """Of two runs with other models: a grid of model and revision would move cells up to the next free column."""
    template = (ROOT / ".dvc/plots/model_confusion.json").read_text(encoding="utf-8")
    rows = [
        {"rev": rev, "model": model, "actual": actual, "predicted": predicted, "count": 3 * (predicted == "no")}
        for rev, model in (("new", "b"), ("old", "a"), ("old", "b"))
        for actual in ("no", "yes")
        for predicted in ("no", "yes")
    ]
    for anchor, value in {
        '"<DVC_METRIC_DATA>"': json.dumps(rows),
        "<DVC_METRIC_TITLE>": "t",
        "<DVC_METRIC_X_LABEL>": "predicted",
        "<DVC_METRIC_Y_LABEL>": "actual",
        "<DVC_METRIC_X>": "predicted",
        "<DVC_METRIC_Y>": "actual",
    }.items():
        template = template.replace(anchor, value)
    drawn = vl_convert.vegalite_to_svg(json.loads(template), vl_version="5.21")
    # The drawing describes each panel's cells, then names the panel.
    panels = re.findall(r"((?:(?!Title text).)*)Title text '([ab], \w+)'", drawn, flags=re.DOTALL)
    found = {name: re.findall(r"predicted: (\w+); actual: (\w+); share of actual", cells) for cells, name in panels}
    whole = [("no", "no"), ("yes", "no"), ("no", "yes"), ("yes", "yes")]
    assert found == {"b, new": whole, "a, old": whole, "b, old": whole}
    assert len(re.findall(r">3</text>", drawn)) == 6
