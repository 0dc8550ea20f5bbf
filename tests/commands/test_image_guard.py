"""image_guard: images do not go into git, by the hook, by .gitignore, whatever their name; .dvc files do."""

import os
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from tests.warm_python import search_path
from tumorboard.commands.image_guard import LIMIT, large_images, main

ROOT = Path(__file__).resolve().parents[2]


def encoded(suffix: str, side: int = 64) -> bytes:
    return cv2.imencode(suffix, np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8))[1].tobytes()


def write(project: Path, name: str, content: bytes) -> str:
    (project / name).parent.mkdir(parents=True, exist_ok=True)
    (project / name).write_bytes(content)
    return name


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tiff", ".webp", ".bmp"])
def test_an_image_is_refused_by_its_name_and_by_its_first_bytes(tmp_path: Path, suffix: str) -> None:
    image = encoded(suffix)
    names = [write(tmp_path, name, image) for name in (f"mine/1{suffix}", f"2{suffix.upper()}", "datasets/3.dat", "4")]
    assert large_images(tmp_path, names) == names


def test_dicom_with_and_without_preamble_and_archives_are_refused(tmp_path: Path) -> None:
    rest = b"\0" * LIMIT
    names = [
        write(tmp_path, "IM0001", b"\0" * 128 + b"DICM" + rest),
        write(tmp_path, "IM0002", b"\x08\0\x05\0CS" + rest),
        write(tmp_path, "scan.nii.gz", b"\x1f\x8b" + rest),
        write(tmp_path, "set.npz", b"PK\x03\x04" + rest),
    ]
    assert large_images(tmp_path, names) == names


def test_small_images_drawn_pictures_links_text_and_deleted_files_pass(tmp_path: Path) -> None:
    image = encoded(".png")
    write(tmp_path, "icon.png", encoded(".png", 4))
    for name in ("docs/images/a.png", "plots/images/b.png", "tests/c.png"):
        write(tmp_path, name, image)
    (tmp_path / "link.png").symlink_to(tmp_path / "docs/images/a.png")
    write(tmp_path, "labels.csv", b"path,label\n" * LIMIT)
    write(tmp_path, "mine.dvc", b"outs:\n" * LIMIT)
    names = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if not path.is_dir()]
    assert len(names) == 7
    assert large_images(tmp_path, [*names, "deleted.png"]) == []


def test_the_limit_is_the_stated_one(tmp_path: Path) -> None:
    names = [write(tmp_path, "at.png", b"\0" * LIMIT), write(tmp_path, "over.png", b"\0" * (LIMIT + 1))]
    assert large_images(tmp_path, names) == ["over.png"]


def test_the_hook_names_the_files_and_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "mine/1.png", encoded(".png"))
    assert main(["mine/1.png"]) == 1
    assert "mine/1.png: an image of" in capsys.readouterr().err
    assert main([]) == 0


def test_pre_commit_runs_it_on_all_files() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    (hook,) = [hook for hook in hooks if hook["entry"].endswith("-m tumorboard.commands.image_guard")]
    assert not hook.keys() & {"types", "files", "exclude", "pass_filenames"}


def test_no_file_of_the_project_is_refused() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert large_images(ROOT, filter(None, listed.split("\0"))) == []


def test_the_gitignore_hides_data_and_shows_dvc_files(tmp_path: Path) -> None:
    """With DVC itself, and after the .gitignore that `dvc add` writes was lost, as by `git reset --hard`."""
    project = tmp_path / "study"
    project.mkdir()

    def call(*command: str) -> str:
        environment = os.environ | {"PATH": search_path()}
        return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=True).stdout

    call("git", "init", "--quiet")
    call("dvc", "init", "--quiet")
    shutil.copy(ROOT / ".gitignore", project)
    folders = ("datasets/mine", "datasets/deep/er", "data/own", "datasets/two words")
    for folder in folders:
        write(project, f"{folder}/a/IM0001", b"image of " + folder.encode())
        write(project, f"{folder}/2.png", b"image")
    write(project, "datasets/set.npz", b"images")
    call("git", "add", "-A")
    assert "datasets" not in call("git", "ls-files")
    assert "data/" not in call("git", "ls-files")
    call("dvc", "add", "--quiet", *folders, "datasets/set.npz")
    for ignoring in [*project.glob("data*/**/.gitignore")]:
        ignoring.unlink()
    call("git", "add", "-A")
    tracked = call("git", "ls-files", "-z", "data", "datasets").split("\0")
    assert sorted(filter(None, tracked)) == sorted([*(f"{folder}.dvc" for folder in folders), "datasets/set.npz.dvc"])
    assert call("dvc", "status").strip() == "Data and pipelines are up to date."
