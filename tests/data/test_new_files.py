"""New files: listed once, cropped in their order here, in processes and on a cluster, whose workers must see them."""

import os
import subprocess
import sys
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.cropping import picture, save
from tumorboard.base.errors import InputError
from tumorboard.base.params import Crop
from tumorboard.data.new_files import (
    CHUNK,
    Decoders,
    NewFile,
    crop_new_files,
    list_new_files,
    open_decoders,
    read_and_crop,
)
from tumorboard.images.crop import crop_file


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Forty pictures, the fourth of which is text, by their names in the current folder."""
    monkeypatch.chdir(tmp_path)
    names = [Path(f"new/{number:02d}, é.png") for number in range(CHUNK + 8)]
    for number, name in enumerate(names):
        save(name, picture(number))
    names[3].write_text("no picture")
    return names


def cropped(files: Sequence[Path], crop: Crop, decoders: Decoders) -> list[tuple[Path, NewFile]]:
    chunks = list(crop_new_files(files, crop, None, decoders))
    assert [len(chunk) for chunk, _ in chunks] == [CHUNK, len(files) - CHUNK]
    return [pair for chunk, new in chunks for pair in zip(chunk, new, strict=True)]


def assert_by_hand(pairs: list[tuple[Path, NewFile]], files: Sequence[Path], crop: Crop) -> None:
    assert [file for file, _ in pairs] == list(files)
    for file, new in pairs:
        content = file.read_bytes()
        assert new.sha256 == sha256(content).hexdigest()
        if file == files[3]:
            assert (new.crop, new.problem[:13]) == (None, "not an image:")
            continue
        square = crop_file(content, crop, None).square
        assert new.problem == ""
        assert new.crop is not None
        np.testing.assert_array_equal(new.crop, square if square.ndim == 3 else np.stack([square] * 3, -1))


def test_files_are_listed_once_in_the_order_given(tmp_path: Path) -> None:
    for name in ("deeper/01.png", "deeper/03.png", ".hidden.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    first, second = tmp_path / "deeper/03.png", tmp_path / "deeper/01.png"
    assert list_new_files([first, second, first]) == [first, second]
    assert list_new_files([first, tmp_path]) == [first, second]


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: no such file or folder"):
        list_new_files([tmp_path / "nowhere"])
    (tmp_path / "bare").mkdir()
    with pytest.raises(InputError, match=r"no files in .*bare"):
        list_new_files([tmp_path / "bare"])


def test_a_file_that_cannot_be_read_has_a_problem_and_no_digest(tmp_path: Path, crop: Crop) -> None:
    (tmp_path / "link.png").symlink_to(tmp_path / "gone.png")
    os.mkfifo(tmp_path / "pipe.png")
    problems = {name: read_and_crop(tmp_path / name, crop, None) for name in ("link.png", "pipe.png", "gone.png")}
    assert {name: tuple(new) for name, new in problems.items()} == {
        "link.png": ("", None, "broken or outward link"),
        "pipe.png": ("", None, "unreadable: not a regular file"),
        "gone.png": ("", None, "broken or outward link"),
    }


@pytest.mark.parametrize("workers", [1, 2])
def test_processes_crop_what_this_one_does(files: list[Path], crop: Crop, workers: int) -> None:
    with open_decoders(len(files), workers, None) as decoders:
        assert (decoders.parallel_map is map) == (workers == 1)
        assert_by_hand(cropped(files, crop, decoders), files, crop)


def test_no_process_is_started_for_the_files_of_one_chunk() -> None:
    with open_decoders(CHUNK, 8, None) as decoders:
        assert decoders == Decoders(map, elsewhere=False)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere processes are not forked")
def test_processes_that_are_opened_before_torch_have_none_and_import_none(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        """
import sys
from tumorboard.data.new_files import open_decoders

def modules(_):
    return sorted({name.partition(".")[0] for name in sys.modules})

with open_decoders(64, 2, None) as decoders:
    sys.modules["torch"] = sys  # stands for an import of the parent's
    for names in decoders.parallel_map(modules, range(4)):
        assert "cv2" in names
        assert not {"torch", "torchvision", "timm", "sklearn"} & set(names), names
print("done")
"""
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert done.stdout == "done\n", done.stderr


def test_a_cluster_crops_what_this_machine_does(files: list[Path], crop: Crop, cluster: Any) -> None:
    """Its workers began in another folder, so that the names alone would mean nothing to them."""
    with open_decoders(len(files), 1, cluster.scheduler_address) as decoders:
        assert decoders.elsewhere
        assert_by_hand(cropped(files, crop, decoders), files, crop)


def test_a_worker_with_another_version_is_an_error(
    files: list[Path], crop: Crop, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tumorboard.data.new_files.crop_key", lambda *_: "of another version")
    with (
        open_decoders(len(files), 1, cluster.scheduler_address) as decoders,
        pytest.raises(InputError, match=r"worker on .*: has other versions of tumorboard, OpenCV"),
    ):
        cropped(files, crop, decoders)


def test_a_worker_that_does_not_see_a_file_is_an_error_and_a_file_that_nobody_can_read_is_none(
    files: list[Path], crop: Crop
) -> None:
    def blind_map(_: Any, chunks: Sequence[Sequence[Path]]) -> Any:
        for chunk in chunks:
            assert all(file.is_absolute() for file in chunk)
            yield [NewFile("", None, "broken or outward link") for _ in chunk]

    blind = Decoders(blind_map, elsewhere=True)
    with pytest.raises(InputError, match=r"new/00, é\.png: can be read here, but not by the worker .*\(broken or"):
        cropped(files, crop, blind)
    for file in files:
        file.unlink()
    assert {new.problem for _, new in cropped(files, crop, blind)} == {"broken or outward link"}
