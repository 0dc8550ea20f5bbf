"""The files of a new study: its README's commands leave nothing that git would take, and folders are no templates."""

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from tests.commands.study_facts import FACTS
from tumorboard.base.package_files import package_file
from tumorboard.commands import new_files
from tumorboard.commands.new_files import study_files


def test_the_readme_of_a_study_writes_tables_outside_of_it() -> None:
    readme = study_files(FACTS)["README.md"].decode()
    outputs = re.findall(r"--out (\S+)", readme)
    assert outputs == ["../new.csv"]


@pytest.mark.parametrize(
    ("lines", "expected", "explained"),
    [({}, {"epochs": 16}, True), ({"train": {"epochs": 3, "lr": 0.5}}, {"epochs": 3, "lr": 0.5}, False)],
)
def test_a_study_trains_for_longer_than_the_package_unless_it_says_otherwise(
    lines: dict[str, object], expected: dict[str, object], explained: bool
) -> None:
    text = study_files(replace(FACTS, lines=lines))["params.yaml"].decode()
    assert yaml.safe_load(text)["train"] == expected
    assert ("half as many were worse" in text) == explained


def test_a_folder_that_python_left_beside_the_templates_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = study_files(FACTS)
    plots = tmp_path / "plots"
    shutil.copytree(package_file(".dvc/plots"), plots, ignore=shutil.ignore_patterns("__pycache__"))
    (plots / "__pycache__").mkdir()
    monkeypatch.setattr(new_files, "package_file", lambda name: plots if name == ".dvc/plots" else package_file(name))
    files = study_files(FACTS)
    assert files == expected
    assert ".dvc/plots/class_line.json" in files


def test_git_never_changes_the_bytes_that_dvc_lock_has_hashes_of(tmp_path: Path) -> None:
    """As git for Windows does by `core.autocrlf`, whose clone would have other metrics than the run."""
    study, clone = tmp_path / "study", tmp_path / "clone"
    identity = ["-c", "user.name=t", "-c", "user.email=t@localhost"]
    (study / "metrics").mkdir(parents=True)
    (study / ".gitattributes").write_bytes(study_files(FACTS)[".gitattributes"])
    (study / "metrics/ensemble.json").write_bytes(b'{\n"loss": 1\n}\n')
    for words in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-q", "-m", "x"]):
        subprocess.run(["git", *words], cwd=study, check=True)
    subprocess.run(["git", "-c", "core.autocrlf=true", "clone", "--quiet", str(study), str(clone)], check=True)
    assert (clone / "metrics/ensemble.json").read_bytes() == (study / "metrics/ensemble.json").read_bytes()
