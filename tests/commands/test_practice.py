"""The command `practice`: the folder that the tutorial begins with."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tumorboard.commands.app import app
from tumorboard.commands.practice import UNLABELED


def practice(*words: str | Path) -> Result:
    return CliRunner().invoke(app, ["practice", *map(str, words)])


def test_labeled_and_new_images_are_of_different_patients(tmp_path: Path) -> None:
    done = practice(tmp_path / "cells", "--images", "60", "--patients", "15")
    assert done.exit_code == 0, done.output
    files = sorted(path.relative_to(tmp_path / "cells").as_posix() for path in (tmp_path / "cells").rglob("*.jpg"))
    assert len(files) == 60
    assert len([path for path in (tmp_path / "cells").rglob("*") if path.is_file()]) == 60
    patients: dict[str, set[str]] = {"labeled": set(), "new": set()}
    for name in files:
        match = re.fullmatch(r"(labeled)/(?:blast|normal)/(P\d\d)_\d{3}\.jpg|(new)/(P\d\d)_\d{3}\.jpg", name)
        assert match, name
        patients[match[1] or match[3]].add(match[2] or match[4])
    assert patients["new"] == {f"P{number:02}" for number in range(16 - UNLABELED, 16)}
    assert patients["labeled"] == {f"P{number:02}" for number in range(1, 16 - UNLABELED)}
    assert {path.name for path in (tmp_path / "cells/labeled").iterdir()} == {"blast", "normal"}


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("file", "is a file: name a new folder"),
        ("full", "is not empty: name a new folder, nothing was written"),
        ("file/x", "file/x: cannot be made: Not a directory"),
        ("file/x/y", "file/x/y: cannot be made: Not a directory"),
        ("y" * 300, "cannot be read: File name too long"),
        ("x/" + "y" * 300, "cannot be made: File name too long"),
        ("/proc/x/y", "practice: /proc/x/y: cannot be made: "),
    ],
)
def test_a_place_that_cannot_be_is_named_and_left_as_it_is(
    kind: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tumorboard.commands.practice.draw_practice", None)  # nothing is drawn
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine").write_text("mine")
    done = practice(tmp_path / kind)
    assert done.exit_code == 1
    assert message in done.stderr
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "full", "mine"]


def test_more_patients_than_images_are_refused_by_the_names_of_the_options(tmp_path: Path) -> None:
    done = practice(tmp_path / "cells", "--images", "60", "--patients", "200")
    assert done.exit_code == 1
    assert "--patients 200 exceeds --images 60" in done.stderr
    assert list(tmp_path.iterdir()) == []
