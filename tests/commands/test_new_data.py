"""The option --add of `new`: what is copied, what is refused before anything is written, and what a failure leaves."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tumorboard.base.errors import InputError
from tumorboard.commands.new_data import copy_data, plan_copy


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name, content in {"a/1.png": "one", "b/deep/é, 2.png": "two!", "labels.csv": "path,label\n"}.items():
        (tmp_path / "cells" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cells" / name).write_text(content, encoding="utf-8")
    return tmp_path / "cells"


def contents(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_the_copy_is_the_folder(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(data / "a")
    copy = plan_copy(Path(".."), tmp_path / "study", "labels.csv")
    assert not (tmp_path / "study").exists()
    copy_data(copy, tmp_path / "study")
    assert (copy.source, copy.target) == (data, Path("datasets/cells"))
    assert contents(tmp_path / "study/datasets/cells") == contents(data)
    assert len(contents(data)) == 3
    assert copy.note.startswith("datasets/cells is a copy, 3 files, which DVC keeps. `dvc push` would upload them;")


def test_a_file_of_arrays_is_copied_alone(data: Path, tmp_path: Path) -> None:
    (data / "set.npz").write_bytes(b"arrays")
    copy = plan_copy(data / "set.npz", tmp_path / "study", None)
    copy_data(copy, tmp_path / "study")
    assert copy.target == Path("datasets/set.npz")
    assert contents(tmp_path / "study") == {"datasets/set.npz": b"arrays"}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda data: (data / "a/link.png").symlink_to("1.png"), "cells/a/link.png: is a link or no ordinary file"),
        (lambda data: (data / "c").symlink_to("a"), "cells/c: is a link or no ordinary file"),
        (lambda data: os.mkfifo(data / "b/pipe"), "cells/b/pipe: is a link or no ordinary file"),
        (lambda data: (data / ".git").mkdir(), "cells/.git: the name has a meaning to DVC or git"),
        (lambda data: (data / "a/x.dvc").write_text(""), "cells/a/x.dvc: the name has a meaning to DVC or git"),
        (lambda data: (data / "dvc.yaml").write_text(""), "cells/dvc.yaml: the name has a meaning to DVC or git"),
    ],
)
def test_what_dvc_would_not_keep_is_named(
    data: Path, tmp_path: Path, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(data)
    with pytest.raises(InputError) as raised:
        plan_copy(data, tmp_path / "study", None)
    assert str(raised.value).startswith(f"--add: {message}: ")
    assert str(raised.value).endswith("or leave --add out, which names the images where they are")


def test_a_folder_with_a_name_of_dvc_is_named(data: Path, tmp_path: Path) -> None:
    data.rename(tmp_path / "cells.dvc")
    with pytest.raises(InputError, match=r"^--add: cells\.dvc: the name has a meaning"):
        plan_copy(tmp_path / "cells.dvc", tmp_path / "study", None)


def test_a_table_outside_the_folder_is_named(data: Path, tmp_path: Path) -> None:
    (tmp_path / "far.csv").write_text("path,label\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"^--add: the table \.\./far\.csv lies outside .*cells: put it there$"):
        plan_copy(data, tmp_path / "study", "../far.csv")


@pytest.mark.parametrize(("free", "fits"), [(18, True), (17, False)])
def test_a_disk_without_the_space_is_named(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, fits: bool
) -> None:
    """The files have 3, 4 and 11 bytes."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 0, free))
    if fits:
        assert len(plan_copy(data, tmp_path / "study", None).files) == 3
        return
    with pytest.raises(
        InputError, match=r"^--add: .*cells has 0\.00 GiB, and 0\.00 are free on the disk of .*study: free"
    ):
        plan_copy(data, tmp_path / "study", None)


def test_a_copy_that_fails_leaves_nothing(data: Path, tmp_path: Path) -> None:
    copy = plan_copy(data, tmp_path / "study", None)
    (data / "labels.csv").unlink()
    (data / "labels.csv").mkdir()
    (tmp_path / "study").mkdir()
    with pytest.raises(InputError, match=r"^--add: .*labels\.csv: Is a directory; nothing was kept"):
        copy_data(copy, tmp_path / "study")
    assert list((tmp_path / "study").iterdir()) == []
