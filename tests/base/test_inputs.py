"""Inputs: a change of a parameter or a file while a stage runs is detected and named."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tumorboard.base.errors import InputError
from tumorboard.base.inputs import check_unchanged, take_snapshot

DVC = "stages:\n  crop:\n    params:\n    - data\n    - crop.side\n"
PARAMS = "crop: {side: 48, border: true}\ndata: {raw: raw}\ntrain: {lr: 0.1}\nruntime: {workers: 1}\n"


@pytest.fixture(autouse=True)
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("dvc.yaml").write_text(DVC)
    Path("params.yaml").write_text(PARAMS)
    for name in ("raw/a/1.png", "raw/a/2.png", "raw/labels.csv", "table.csv"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"before")


def edit_params(old: str, new: str) -> None:
    Path("params.yaml").write_text(PARAMS.replace(old, new))


def replace_file_with_equal_size_and_time() -> None:
    status = Path("raw/a/1.png").stat()
    Path("other").write_bytes(b"differs"[:6])
    os.utime("other", ns=(status.st_atime_ns, status.st_mtime_ns))
    Path("other").replace("raw/a/1.png")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: edit_params("side: 48", "side: 32"), "params.yaml: crop.side was 48 and is 32"),
        (lambda: edit_params("side: 48, ", ""), "params.yaml: crop.side was 48 and is None"),
        (lambda: edit_params("raw: raw", "raw: other"), "params.yaml: data.raw was 'raw' and is 'other'"),
        (lambda: edit_params("data: {raw: raw}", "data: 1"), "params.yaml: data was None and is 1"),
        (lambda: Path("raw/a/1.png").write_bytes(b"longer than before"), "raw/a/1.png was changed"),
        (replace_file_with_equal_size_and_time, "raw/a/1.png was changed"),
        (lambda: Path("raw/a/2.png").unlink(), "raw/a/2.png was removed"),
        (lambda: Path("raw/a/3.png").touch(), "raw/a/3.png was added"),
        (lambda: Path("raw/labels.csv").write_bytes(b"path,label"), "raw/labels.csv was changed"),
        (lambda: Path("table.csv").write_bytes(b"x"), "table.csv was changed"),
        (lambda: shutil.rmtree("raw/a"), "raw/a/1.png was removed"),
    ],
)
def test_a_change_is_named(change: Callable[[], object], message: str) -> None:
    before = take_snapshot("crop", [Path("raw"), Path("table.csv")])
    change()
    with pytest.raises(InputError) as raised:
        check_unchanged(before, take_snapshot("crop", [Path("raw"), Path("table.csv")]))
    assert message in str(raised.value)


@pytest.mark.parametrize("edited", ["lr: 0.1", "border: true", "workers: 1"])
def test_a_parameter_that_the_stage_does_not_read_may_change(edited: str) -> None:
    before = take_snapshot("crop", [Path("raw")])
    edit_params(edited, edited.split(":")[0] + ": 0")
    check_unchanged(before, take_snapshot("crop", [Path("raw")]))


def test_without_dvc_yaml_all_parameters_but_runtime_count() -> None:
    Path("dvc.yaml").unlink()
    before = take_snapshot("crop", [])
    edit_params("workers: 1", "workers: 2")
    check_unchanged(before, take_snapshot("crop", []))
    edit_params("lr: 0.1", "lr: 0.2")
    with pytest.raises(InputError, match=r"params\.yaml: train\.lr was 0\.1 and is 0\.2"):
        check_unchanged(before, take_snapshot("crop", []))


def test_reading_a_file_and_a_hard_link_to_it_are_no_change() -> None:
    before = take_snapshot("crop", [Path("raw")])
    Path("raw/a/1.png").read_bytes()
    Path("link").hardlink_to("raw/a/1.png")
    check_unchanged(before, take_snapshot("crop", [Path("raw")]))


def test_a_message_names_five_changes_and_counts_the_others() -> None:
    before = take_snapshot("crop", [Path("raw")])
    for number in range(8):
        Path(f"raw/new{number}").touch()
    with pytest.raises(InputError) as raised:
        check_unchanged(before, take_snapshot("crop", [Path("raw")]))
    lines = str(raised.value).splitlines()
    assert len(lines) == 7
    assert lines[-1] == "  … and 3 more"
