"""Each input and each parameter that dvc.yaml lists for a stage, changed while the stage runs."""

import functools
import re
import runpy
import shlex
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import yaml

from tumorboard.base import stage as base_stage
from tumorboard.base.schema import read_yaml

ROOT = Path(__file__).resolve().parents[2]
STAGES: dict[str, dict[str, Any]] = read_yaml(ROOT / "dvc.yaml")["stages"]
# What the templates of dvc.yaml stand for; the first model and fold of params.yaml.
VALUES = {"item.model": "linear", "item.fold": "0", "item.set": "bloodmnist_224", "data.raw": "data/phantom"}
NAMES = ("0.csv", "0.json", "0.safetensors", "0/history.csv")  # of files that stages write for a model and a fold
SOURCE = "lib/code.py"  # the only source file of each stage


def filled(text: str) -> str:
    """Returns a text of dvc.yaml with the values of its templates."""
    return re.sub(r"\$\{([^}]+)\}", lambda match: VALUES[match[1]], text)


def outputs(stage: str) -> list[str]:
    entries = [*STAGES[stage].get("outs", []), *STAGES[stage].get("metrics", [])]
    return [filled(next(iter(entry)) if isinstance(entry, dict) else entry) for entry in entries]


def dependencies(stage: str) -> list[str]:
    """Returns the inputs of a stage, but not source files, which only the stage `digest` reads."""
    return [filled(dep) for dep in STAGES[stage]["deps"] if dep not in ("stages", "src/tumorboard")]


def files_of(dependency: str) -> list[Path]:
    """Returns the files to make for a dependency: itself, or what a stage may read in such a folder."""
    path = Path(dependency)
    return [path] if path.suffix else [path / "linear" / name for name in NAMES]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project without inputs, of one model and one fold."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    tree = read_yaml(ROOT / "params.yaml") | {"models": ["linear"], "folds": [0]}
    tree["recipes"] = {"linear": tree["recipes"]["linear"]}  # a short file is read faster
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    Path(SOURCE).parent.mkdir()
    Path(SOURCE).write_text("code")
    return tmp_path


def prepare(stage: str) -> None:
    """Makes every input of a stage, and the list of its source files."""
    for dependency in dependencies(stage):
        for file in files_of(dependency):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("old")
    if stage != "digest":
        Path("digests", f"{stage}.sha256").write_text(f"{sha256(b'code').hexdigest()}  {SOURCE}\n")


def run(stage: str, work: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs a stage's script with other work: it writes the stage's outputs, then does `work`."""
    prepare(stage)
    run_stage = base_stage.run_stage

    def run_other_work(main: Callable[..., None], *further: Any) -> None:
        @functools.wraps(main)
        def other_work(*_: Any, **options: Any) -> None:
            for key in base_stage._options_of(main, "output"):
                options[key].parent.mkdir(parents=True, exist_ok=True)
                options[key].write_text("made")
            work()

        run_stage(other_work, *further)

    monkeypatch.setattr(base_stage, "run_stage", run_other_work)
    words = shlex.split(filled(STAGES[stage]["cmd"]))
    monkeypatch.setattr("sys.argv", [f"stages/{stage}.py", *words[3:]])
    runpy.run_module(words[2], run_name="__main__")


def changed(value: Any) -> Any:
    """Returns another value for a key of params.yaml: of a section, the first key within it differs."""
    if isinstance(value, dict):
        first = next(iter(value))
        return value | {first: changed(value[first])}
    return "changed"


PARAMS = [(stage, key) for stage, entry in STAGES.items() for key in entry.get("params", [])]
DEPENDENCIES = [(stage, dependency) for stage in STAGES for dependency in dependencies(stage)]


@pytest.mark.parametrize(("stage", "dependency"), DEPENDENCIES)
def test_an_input_that_changes_in_mid_run_is_named_and_nothing_is_left(
    project: Path,
    stage: str,
    dependency: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    del project

    def replace() -> None:
        for file in files_of(dependency):
            file.write_text("newer")

    with pytest.raises(SystemExit) as end:
        run(stage, replace, monkeypatch)
    assert end.value.code == 1
    error = capsys.readouterr().err
    assert f"{stage}: inputs changed while the stage ran; nothing was written, run it again:" in error
    assert re.search(rf"^  {re.escape(dependency)}\S* was changed$", error, flags=re.M), error
    assert "made" not in [Path(path).read_text() for path in outputs(stage) if Path(path).is_file()]


@pytest.mark.parametrize(("stage", "key"), PARAMS)
def test_a_parameter_that_changes_in_mid_run_is_named_and_nothing_is_left(
    project: Path, stage: str, key: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = project / "params.yaml"

    def edit() -> None:
        tree = read_yaml(file)
        *sections, last = key.split(".")
        section = functools.reduce(lambda node, name: node[name], sections, tree)
        section[last] = changed(section[last])
        file.write_text(yaml.safe_dump(tree), encoding="utf-8")

    with pytest.raises(SystemExit) as end:
        run(stage, edit, monkeypatch)
    assert end.value.code == 1
    assert re.search(rf"^  params\.yaml: {re.escape(key)}\S* was .* and is 'changed'$", capsys.readouterr().err, re.M)
    assert "made" not in [Path(path).read_text() for path in outputs(stage) if Path(path).is_file()]


@pytest.mark.parametrize("stage", list(STAGES))
def test_a_stage_whose_inputs_stay_writes_its_outputs(
    project: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parameters of other stages may change meanwhile."""
    file = project / "params.yaml"

    def edit() -> None:
        tree = read_yaml(file)
        tree["runtime"]["workers"] = 7
        file.write_text(yaml.safe_dump(tree), encoding="utf-8")

    written: list[Path] = []
    run(stage, lambda: (edit(), written.extend(path for path in project.rglob("*") if path.is_file()))[0], monkeypatch)
    made = [path for path in written if path.read_text() == "made"]
    assert made
    assert all(path.is_file() for path in made)


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "digest"])
def test_a_stage_whose_code_is_not_the_recorded_one_does_not_begin(
    project: Path, stage: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / SOURCE).write_text("newer code")
    with pytest.raises(SystemExit) as end:
        run(stage, lambda: pytest.fail("it began"), monkeypatch)
    assert end.value.code == 1
    assert f"{stage}: {SOURCE}: is not the file that digests/{stage}.sha256 lists" in capsys.readouterr().err
