"""dvc.yaml tells the truth: what each stage reads, and the page that shows its plots."""

import ast
import json
import re
import shlex
from pathlib import Path
from typing import Any

import grimp
import pytest
import vl_convert
import yaml

ROOT = Path(__file__).resolve().parents[1]
STAGES: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]


def file_of(module: str) -> str:
    base = ROOT / (module.replace(".", "/") if module.startswith("stages") else "src/" + module.replace(".", "/"))
    found = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
    return found.relative_to(ROOT).as_posix()


@pytest.fixture(scope="module")
def imports() -> grimp.ImportGraph:
    return grimp.build_graph("stages", "tumorboard", cache_dir=None)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_exactly_the_modules_that_it_imports(stage: str, imports: grimp.ImportGraph) -> None:
    modules = imports.find_upstream_modules(f"stages.{stage}") | {f"stages.{stage}"}
    # Importing a.b.c runs a/__init__.py and a/b/__init__.py as well.
    parents = {module.rsplit(".", depth)[0] for module in modules for depth in range(1, module.count(".") + 1)}
    imported = {file_of(module) for module in modules | parents}
    listed = [dep for dep in STAGES[stage]["deps"] if dep.startswith(("src/", "stages/")) and dep.endswith(".py")]
    assert sorted(listed) == sorted(imported)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stages_command_names_its_script_and_only_paths_that_dvc_knows(stage: str) -> None:
    words = shlex.split(STAGES[stage]["cmd"])
    assert words[:3] == ["python", "-m", f"stages.{stage}"]
    known = json.dumps([STAGES[stage][key] for key in ("deps", "outs", "metrics") if key in STAGES[stage]])
    for path in (word for word in words[3:] if "/" in word):
        assert path in known, f"{stage} is given {path}, which is neither among its deps nor its outs"


def test_scripts_are_thin() -> None:
    for script in sorted((ROOT / "stages").glob("[a-z]*.py")):
        tree = ast.parse(script.read_text(encoding="utf-8"))
        loops = [node for node in ast.walk(tree) if isinstance(node, (ast.For, ast.While))]
        assert len(loops) <= 2, f"{script.name} computes: move its loops into the library"
        assert len(script.read_text(encoding="utf-8").splitlines()) < 110, script.name


def test_the_plots_page_asks_nothing_of_the_internet() -> None:
    page = (ROOT / ".dvc/plots/offline.html").read_text(encoding="utf-8")
    assert re.findall(r'(?:src|href)\s*=\s*"https?:', page) == []
    assert "{plot_divs}" in page
    assert "{scripts}" not in page


def test_confusion_matrices_stand_under_their_own_names() -> None:
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
