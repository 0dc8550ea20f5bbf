"""The files of a new study: its README's commands leave nothing that git would take, and folders are no templates."""

import re
import shutil
from pathlib import Path

import pytest

from tests.commands.study_facts import FACTS
from tumorboard.base.package_files import package_file
from tumorboard.commands import new_files
from tumorboard.commands.new_files import study_files


def test_the_readme_of_a_study_writes_tables_outside_of_it() -> None:
    readme = study_files(FACTS)["README.md"].decode()
    outputs = re.findall(r"--out (\S+)", readme)
    assert outputs == ["../new.csv"]


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
