"""Links in a raw folder: those that DVC makes, of every type, by real runs; and those to files elsewhere."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.cropping import data_section
from tests.pipeline import Project
from tumorboard.base.dvc_cache import dvc_cache_folders
from tumorboard.base.errors import ImageError, InputError
from tumorboard.base.files import read_table
from tumorboard.data.sources import list_images, read_content

PICTURES = [np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8) for seed in range(24)]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("links"))
    project.drop_recipes()
    project("dvc", "repro", "digest")
    return project


def write_images(raw: Path) -> None:
    """Writes two folders of classes, of twelve pictures each, and a table of the same images."""
    for number, pixels in enumerate(PICTURES):
        file = raw / f"{'ab'[number % 2]}/P{number}_.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)


def write_table(raw: Path) -> None:
    lines = [f"{'ab'[number % 2]}/P{number}_.png,{'xy'[number % 2]}" for number in range(len(PICTURES))]
    (raw / "labels.csv").write_text("path,label\n" + "\n".join(lines))


def crop(project: Project, raw: str) -> dict[str, int]:
    """Runs the stage crop by DVC and returns the number of images by label."""
    project.write_params({"data": {"raw": raw, "group_pattern": "(.+)", "positive": None}}, ["linear"])
    project("dvc", "repro", "--single-item", "crop")
    assert read_table(project.folder / "data/crop/quarantined.csv").empty
    manifest = read_table(project.folder / "data/crop/manifest.csv")
    return manifest["label"].value_counts().to_dict()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("kind", "cache"),
    [
        ("symlink", "inside"),
        pytest.param("symlink", "outside", marks=pytest.mark.slow),
        pytest.param("symlink", "read-only", marks=pytest.mark.slow),
        pytest.param("hardlink", "outside", marks=pytest.mark.slow),
        pytest.param("reflink,copy", "outside", marks=pytest.mark.slow),
        ("copy", "inside"),
    ],
)
def test_files_that_dvc_has_replaced_by_links_are_the_tracked_files(
    project: Project, tmp_path: Path, kind: str, cache: str
) -> None:
    level = "--local" if cache == "inside" else "--global"  # a shared cache is often set for all projects of a user
    project("dvc", "config", "--local", "cache.type", kind)
    if cache != "inside":
        project("dvc", "config", level, "cache.dir", str(tmp_path / "cache"))
    name = f"raw-{kind[:4]}-{cache}"
    raw = project.folder / name
    write_images(raw)
    project("dvc", "add", name)
    if cache == "read-only":
        for path in [*(tmp_path / "cache").rglob("*")]:
            path.chmod(0o555 if path.is_dir() and len(path.name) == 2 else 0o444 if path.is_file() else 0o755)
    linked = kind == "symlink"
    assert (raw / "a/P0_.png").is_symlink() is linked
    if linked:
        assert crop(project, name) == {"a": 12, "b": 12}
        assert (project.folder / "data/crop/manifest.csv").is_symlink()
        project("dvc", "repro", "--single-item", "split")
        arrays = {"train_images": np.stack(PICTURES), "train_labels": np.arange(len(PICTURES)) % 2}
        np.savez(project.folder / f"{name}.npz", **arrays)
        project("dvc", "add", f"{name}.npz")
        assert (project.folder / f"{name}.npz").is_symlink()
        assert crop(project, f"{name}.npz") == {"0": 12, "1": 12}
    write_table(raw)
    project("dvc", "add", name)
    assert (raw / "labels.csv").is_symlink() is linked
    assert crop(project, name) == {"x": 12, "y": 12}
    if cache != "inside":
        project("dvc", "config", level, "--unset", "cache.dir")


def test_the_cache_is_found_as_dvc_finds_it(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for key, value in project.environment.items():
        monkeypatch.setenv(key, value)
    raw = project.folder / "somewhere/deep"
    dvc_cache_folders.cache_clear()
    assert project.folder.resolve() / ".dvc/cache" in dvc_cache_folders(raw)
    for level in ("--global", "--local"):
        project("dvc", "cache", "dir", level, f"../caches/of {level}, here")
        dvc_cache_folders.cache_clear()
        folders = dvc_cache_folders(raw)
        assert Path(project("dvc", "cache", "dir").strip()).resolve() in folders
        assert folders == (project.folder.resolve().parent / f"caches/of {level}, here",)
    # A stage in the temporary copy of an experiment has the main checkout in DVC_ROOT.
    monkeypatch.setenv("DVC_ROOT", str(project.folder))
    dvc_cache_folders.cache_clear()
    assert folders[0] in dvc_cache_folders(tmp_path)
    project("dvc", "config", "--local", "--unset", "cache.dir")
    project("dvc", "config", "--global", "--unset", "cache.dir")
    dvc_cache_folders.cache_clear()


def content_of(raw: Path, path: str, links: str) -> str:
    try:
        return read_content(raw, path, links=links).decode()  # type: ignore[arg-type]
    except ImageError as error:
        return error.detail


def test_links_to_elsewhere_are_followed_only_if_params_say_so(tmp_path: Path) -> None:
    raw, elsewhere = tmp_path / "raw", tmp_path / "elsewhere"
    for folder in (raw / "a", raw / "b", elsewhere / "c"):
        folder.mkdir(parents=True)
        (folder / "1.png").write_text(folder.name)
    (raw / "a/out.png").symlink_to(elsewhere / "c/1.png")
    (raw / "a/in.png").symlink_to("../b/1.png")
    (raw / "a/relative.png").symlink_to("../../elsewhere/c/1.png")
    (raw / "a/gone.png").symlink_to(elsewhere / "none")
    (raw / "c").symlink_to(elsewhere / "c")
    inside, anywhere = data_section(), data_section(links="anywhere")
    assert set(list_images(raw, inside)[0]["path"]) >= {"c", "a/out.png"}
    assert set(list_images(raw, anywhere)[0]["path"]) >= {"c/1.png", "a/out.png"}
    for path, content in (("a/out.png", "c"), ("a/relative.png", "c"), ("c/1.png", "c"), ("a/in.png", "b")):
        assert content_of(raw, path, "anywhere") == content
    assert content_of(raw, "a/in.png", "inside") == "b"
    for path in ("a/out.png", "a/relative.png", "c"):
        assert content_of(raw, path, "inside").endswith("; data.links: anywhere in params.yaml allows it")
    for links in ("inside", "anywhere"):
        assert "which does not exist" in content_of(raw, "a/gone.png", links)
    (raw / "labels.csv").write_text("path,label\na/out.png,x\nb/1.png,y\n")
    assert len(list_images(raw, anywhere)[0]) == 2
    with pytest.raises(
        InputError, match=r"line 2: path 'a/out\.png' leads out of data\.raw by a link; data\.links: any"
    ):
        list_images(raw, inside)
    (raw / "labels.csv").write_text("path,label\n../elsewhere/c/1.png,x\nb/1.png,y\n")
    for section in (inside, anywhere):
        with pytest.raises(InputError, match=r"leads out of data\.raw by '\.\.'"):
            list_images(raw, section)


def test_a_circle_of_links_elsewhere_ends_in_a_message(tmp_path: Path) -> None:
    (tmp_path / "raw/a").mkdir(parents=True)
    (tmp_path / "elsewhere/deep").mkdir(parents=True)
    (tmp_path / "elsewhere/deep/up").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "raw/b").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="are the same folder, by a link"):
        list_images(tmp_path / "raw", data_section(links="anywhere"))


def test_a_tracked_file_that_the_cache_lacks_is_named_with_the_command(tmp_path: Path) -> None:
    (tmp_path / ".dvc/cache/files/md5/ab").mkdir(parents=True)
    (tmp_path / "raw/a").mkdir(parents=True)
    target = tmp_path / ".dvc/cache/files/md5/ab/cdef"
    (tmp_path / "raw/a/1.png").symlink_to(target)
    dvc_cache_folders.cache_clear()
    detail = content_of(tmp_path / "raw", "a/1.png", "inside")
    assert (
        detail
        == f"leads to '{target}', which does not exist: DVC's cache lacks the file, run `dvc pull` or `dvc checkout`"
    )
    target.write_text("tracked")
    assert content_of(tmp_path / "raw", "a/1.png", "inside") == "tracked"
