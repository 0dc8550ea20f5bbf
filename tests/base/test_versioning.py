"""versioning: what an experiment in a copy of the project would lack, by real repositories of git."""

import subprocess
from pathlib import Path

import pytest

from tumorboard.base.versioning import explain_missing, explain_unversioned, is_stage_output, nearest_path


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one commit, a folder .dvc and a dvc.yaml with two outputs."""
    monkeypatch.delenv("DVC_ROOT", raising=False)
    folder = tmp_path / "study"
    (folder / ".dvc").mkdir(parents=True)
    (folder / ".gitignore").write_text("/datasets/*\n!/datasets/*.dvc\n!/datasets/.gitignore\n", encoding="utf-8")
    (folder / "dvc.yaml").write_text(
        'stages:\n  phantom: {cmd: x, outs: [data/phantom]}\n  fetch: {cmd: x, outs: ["medmnist:${item.set}"]}\n',
        encoding="utf-8",
    )
    git(folder, "init", "--quiet")
    commit(folder)
    (folder / "datasets/mine/a").mkdir(parents=True)
    (folder / "datasets/mine/a/1.png").write_bytes(b"image")
    return folder


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(
        ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@localhost", *arguments], check=True
    )


def commit(folder: Path) -> None:
    git(folder, "add", "-A")
    git(folder, "commit", "--quiet", "-m", "step")


def test_a_folder_that_nothing_tracks_is_reported_with_the_command(project: Path) -> None:
    told = explain_unversioned("datasets/mine", project)
    assert "'datasets/mine' is not known to git" in told
    assert "`dvc add datasets/mine && git commit -m 'Add datasets/mine'`" in told


@pytest.mark.parametrize("raw", ["datasets/mine", "datasets/mine/", "./datasets/mine", "datasets/mine/a"])
def test_a_dvc_file_counts_once_it_is_committed(project: Path, raw: str) -> None:
    (project / "datasets/mine.dvc").write_text("outs: []\n", encoding="utf-8")
    git(project, "add", "datasets/mine.dvc")  # staged only: `dvc exp run` unstages it
    assert "`git add datasets/mine.dvc && git commit -m 'Add datasets/mine'`" in explain_unversioned(raw, project)
    commit(project)
    assert explain_unversioned(raw, project) == ""


def test_the_gitignore_beside_it_is_committed_too_and_names_with_spaces_are_quoted(project: Path) -> None:
    (project / "datasets/.gitignore").write_text("/two words\n", encoding="utf-8")
    (project / "datasets/two words.dvc").write_text("outs: []\n", encoding="utf-8")
    assert "`git add 'datasets/two words.dvc' datasets/.gitignore && git commit" in explain_unversioned(
        "datasets/two words", project
    )


def test_a_relative_path_out_of_the_project_is_reported_and_an_absolute_one_is_not(project: Path) -> None:
    told = explain_unversioned("../archive", project)
    assert "lies outside the project" in told
    assert str(project.resolve().parent / "archive") in told
    assert explain_unversioned("/archive", project) == ""


def test_images_in_git_and_outputs_of_stages_are_known(project: Path) -> None:
    (project / "small").mkdir()
    (project / "small/1.png").write_bytes(b"image")
    commit(project)
    assert explain_unversioned("small", project) == ""
    assert explain_unversioned("data/phantom", project) == ""
    assert explain_unversioned("medmnist:bloodmnist_224", project) == ""
    assert not is_stage_output(project, "data/phantom2")


def test_nothing_is_reported_outside_of_a_project_or_in_the_copy_itself(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert explain_unversioned("datasets/mine", tmp_path) == ""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    assert explain_unversioned("datasets/mine", project) == ""


def test_a_missing_folder_that_dvc_tracks_comes_back_by_a_command(project: Path) -> None:
    (project / "datasets/gone.dvc").write_text("outs: []\n", encoding="utf-8")
    assert "`dvc checkout datasets/gone.dvc`" in explain_missing("datasets/gone", project)
    assert explain_missing("datasets/never", project) == ""
    assert explain_missing("datasets/mine", project) == ""


def test_the_first_part_of_a_path_that_is_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / "brain_mri").mkdir()
    assert nearest_path(tmp_path / "brain_mr1/a/b") == f"'{tmp_path}' has no 'brain_mr1'; nearest: 'brain_mri'"
    assert nearest_path(tmp_path / "xyz") == f"'{tmp_path}' has no 'xyz'"
    (tmp_path / "link").symlink_to("gone")
    assert nearest_path(tmp_path / "link/a") == f"'{tmp_path}/link' is a link to nothing"
    (tmp_path / "file").touch()
    assert "Not a directory" in nearest_path(tmp_path / "file/a")
    assert "File name too long" in nearest_path(tmp_path / ("x" * 300))
