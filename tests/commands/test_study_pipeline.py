"""The dvc.yaml of a study: what it is made from, and what is done where another version of the package wrote it."""

import json
from pathlib import Path

import pytest
import yaml

from tumorboard.base.errors import InputError
from tumorboard.base.package_files import package_file
from tumorboard.commands.stage import write_lists
from tumorboard.commands.study_pipeline import check_pipeline, differences, pipeline_text

PACKAGE = package_file("dvc.yaml").read_text(encoding="utf-8")


def test_pipeline_text_is_yaml_with_a_comment() -> None:
    text = pipeline_text(PACKAGE)
    assert text.startswith("# The pipeline")
    assert yaml.safe_load(text)["stages"]["digest"]["always_changed"] is True


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "dvc.yaml").write_text(pipeline_text(PACKAGE), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def edit(study: Path, old: str, new: str) -> str:
    """Replaces a text of dvc.yaml as it stands in its commands, whose lines YAML has folded; returns the whole."""
    tree = yaml.safe_load((study / "dvc.yaml").read_text(encoding="utf-8"))
    text = json.dumps(tree)
    assert old in text
    text = text.replace(old, new)
    (study / "dvc.yaml").write_text(text, encoding="utf-8")
    return text


def test_a_study_of_this_version_is_as_it_must_be(study: Path) -> None:
    assert differences(study) == []
    assert [finding.level for finding in check_pipeline(study)] == ["ok"]


def test_the_packages_own_repository_has_its_stages_beside_it(study: Path) -> None:
    (study / "dvc.yaml").write_text(PACKAGE, encoding="utf-8")
    assert differences(study) == []


@pytest.mark.parametrize("text", ["", "stages: 3", "stages: {a: {cmd: ls}}", "stages: {evaluate: {cmd: [a, b]}}", "{"])
def test_other_pipelines_are_not_judged(study: Path, text: str) -> None:
    (study / "dvc.yaml").write_text(text, encoding="utf-8")
    assert differences(study) == []


UNLIKE = " --test-unlike predictions/test/unlike/${item.model}/${item.fold}.csv"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (UNLIKE, "", "evaluate has no --test-unlike"),
        (" digest --out", " digest --retired --out", "digest has --retired"),
    ],
)
def test_options_that_differ_are_named_and_the_file_is_renewed(study: Path, old: str, new: str, expected: str) -> None:
    before = edit(study, old, new)
    assert differences(study) == [expected]
    (finding,) = check_pipeline(study)
    assert finding.message == f"dvc.yaml is of another version of tumorboard: {expected}"
    assert (finding.level, finding.cure) == ("problem", "tumorboard doctor --fix")
    assert finding.fix is not None
    assert ".dvc/tmp/torn/dvc.yaml" in finding.fix()
    assert (study / "dvc.yaml").read_text(encoding="utf-8") == pipeline_text(PACKAGE)
    assert (study / ".dvc/tmp/torn/dvc.yaml").read_text(encoding="utf-8") == before
    assert [finding.level for finding in check_pipeline(study)] == ["ok"]


@pytest.mark.parametrize(
    ("stage", "key", "name", "expected"),
    [
        ("explain", "deps", "predictions/unlike", "explain does not depend on predictions/unlike"),
        ("crop", "params", "data.frames", "crop does not read the parameter data.frames"),
        ("split", "outs", "data/split", "split does not write data/split"),
        ("split", "metrics", "metrics/split.json", "split does not write metrics/split.json"),
        ("report", "outs", "plots/images", "report does not write plots/images"),
    ],
)
def test_what_a_stage_lacks_is_named(study: Path, stage: str, key: str, name: str, expected: str) -> None:
    tree = yaml.safe_load((study / "dvc.yaml").read_text(encoding="utf-8"))
    entries = tree["stages"][stage][key]
    place = entries[0]["resolved.yaml"] if key == "params" else entries
    (found,) = [entry for entry in place if entry == name or (isinstance(entry, dict) and name in entry)]
    place.remove(found)
    (study / "dvc.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    assert differences(study) == [expected]


def test_a_second_renewal_keeps_both(study: Path) -> None:
    for _ in range(2):
        edit(study, UNLIKE, "")
        (finding,) = check_pipeline(study)
        assert finding.fix is not None
        said = finding.fix()
    assert said.endswith(".dvc/tmp/torn/dvc.yaml.1")
    assert sorted(file.name for file in (study / ".dvc/tmp/torn").iterdir()) == ["dvc.yaml", "dvc.yaml.1"]


def test_a_missing_stage_is_named(study: Path) -> None:
    edit(study, '"explain": {', '"elsewhere": {')
    assert differences(study) == ["there is no stage explain"]


def test_stages_that_the_user_has_added_are_not_lost(study: Path) -> None:
    tree = yaml.safe_load((study / "dvc.yaml").read_text(encoding="utf-8"))
    tree["stages"]["mine"] = {"cmd": "./mine.sh"}
    (study / "dvc.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    assert [finding.level for finding in check_pipeline(study)] == ["ok"]
    edit(study, UNLIKE, "")
    (finding,) = check_pipeline(study)
    assert finding.fix is None
    assert finding.cure == "delete what you added (mine) from dvc.yaml, run tumorboard doctor --fix, and add it again"


def test_the_first_stage_stops_before_any_training(study: Path) -> None:
    edit(study, UNLIKE, "")
    with pytest.raises(InputError, match=r"evaluate has no --test-unlike: run `tumorboard doctor --fix`"):
        write_lists(study / "digests")
    assert not (study / "digests").exists()


def test_changes_that_break_nothing_are_the_users(study: Path) -> None:
    """Such as a further dependency, or a frozen stage."""
    tree = yaml.safe_load((study / "dvc.yaml").read_text(encoding="utf-8"))
    tree["stages"]["train"]["deps"].append("architectures/mine.py")
    tree["stages"]["crop"]["frozen"] = True
    (study / "dvc.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    assert [finding.level for finding in check_pipeline(study)] == ["ok"]
