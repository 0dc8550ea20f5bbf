"""Packages: what is loaded equals what was packed, to the last bit; whatever is wrong with one is named."""

import json
import os
import shutil
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.panel.models import save_untrained
from tests.panel.packages import FIT, KNOWN, SmallPanel, make_small_panel
from tests.panel.statistics import made_up_statistics
from tumorboard.base.errors import InputError
from tumorboard.base.params import Params
from tumorboard.panel.deciding import Deciding
from tumorboard.panel.package import LoadPacked, PackedPanel, load_package
from tumorboard.panel.package_file import FORMAT, open_package, write_package
from tumorboard.panel.panel import Panel
from tumorboard.panel.predict import predict_images
from tumorboard.panel.trained_model import load_packed, load_panel
from tumorboard.panel.unlike import save_unlike
from tumorboard.panel.votes import VOTES

BY_TORCH: LoadPacked = partial(load_packed, device="cpu")
WEIGHTS = "models/cnn/0.safetensors"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, params: Params) -> SmallPanel:
    return make_small_panel(tmp_path_factory.mktemp("study"), params)


@pytest.fixture
def own(small: SmallPanel, tmp_path: Path) -> SmallPanel:
    """A copy that a test may change."""
    copy = shutil.copytree(small.folder, tmp_path / "study")
    return small._replace(folder=copy, files=[copy / file.relative_to(small.folder) for file in small.files])


@pytest.fixture(scope="module")
def packed(small: SmallPanel) -> Path:
    small.pack(small.folder / "panel.zip")
    return small.folder / "panel.zip"


@pytest.fixture
def package(tmp_path: Path, packed: Path) -> Path:
    """A copy that a test may change."""
    return shutil.copyfile(packed, tmp_path / "panel.zip")


def test_a_loaded_panel_predicts_as_the_packed_one_by_every_vote(small, package, tmp_path):
    files = []
    for number in range(5):
        noise = np.random.default_rng(number).integers(0, 256, (50, 60, 3), dtype=np.uint8)
        files.append(tmp_path / f"{number}.png")
        Image.fromarray(noise).save(files[-1])
    loaded = load_package(package, BY_TORCH)
    assert loaded.content.fit == FIT
    assert (loaded.preprocessing, loaded.known) == (small.preprocessing, KNOWN)

    def table(panel: Panel, vote: str) -> pd.DataFrame:
        deciding = Deciding(fit=FIT, vote=vote, positive=None, abstain=0.4, unlike=1.5)
        return predict_images(panel, files, deciding=deciding, frames=None, known={})

    unpacked = load_panel(small.files, "cpu", unlike=small.folder / "unlike")
    tables = {vote: table(unpacked, vote) for vote in VOTES}
    for vote, expected in tables.items():
        pd.testing.assert_frame_equal(table(loaded.panel, vote), expected, check_exact=True)
    assert tables["soft"]["unlike"].notna().all()
    assert not tables["soft"]["p_a"].equals(tables["stacking"]["p_a"])


def test_equal_contents_give_equal_bytes(own, package, tmp_path):
    os.utime(own.files[0], (1, 1))
    entries, models = own.entries()
    digest = write_package(tmp_path / "b.zip", dict(reversed(entries.items())), models=models, version="1.2.3")
    assert (tmp_path / "b.zip").read_bytes() == package.read_bytes()
    assert own.pack(tmp_path / "c.zip") == digest
    with zipfile.ZipFile(package) as file:
        assert file.testzip() is None
        for name, content in entries.items():
            assert file.read(name) == (content if isinstance(content, bytes) else content.read_bytes())
        described = json.loads(file.read("manifest.json"))["entries"]
        assert {name: entry["bytes"] for name, entry in described.items()} == {
            header.filename: header.file_size for header in file.infolist() if header.filename != "manifest.json"
        }


Change = Callable[[dict[str, bytes]], None]


def rewrite(package: Path, change: Change, compression: int = zipfile.ZIP_STORED) -> None:
    """Writes the zip anew, as another program would, with other contents."""
    with zipfile.ZipFile(package) as file:
        contents = {name: file.read(name) for name in file.namelist()}
    change(contents)
    with zipfile.ZipFile(package, "w", compression) as file:
        for name, content in contents.items():
            file.writestr(name, content)


def with_manifest(change: Callable[[dict[str, Any]], Any]) -> Change:
    """A change of the manifest's JSON."""

    def changed(contents: dict[str, bytes]) -> None:
        tree = json.loads(contents["manifest.json"])
        change(tree)
        contents["manifest.json"] = json.dumps(tree).encode()

    return changed


def flip(contents: dict[str, bytes]) -> None:
    contents[WEIGHTS] = contents[WEIGHTS][:-1] + bytes([contents[WEIGHTS][-1] ^ 1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (flip, f": {WEIGHTS}: was altered, its size or SHA-256 is not that of"),
        (lambda c: c.update({"unlike/cnn/0.safetensors": b""}), ": unlike/cnn/0.safetensors: was altered"),
        (lambda c: c.update({"README.md": b"for Research"}), ": README.md: was altered"),  # nothing else reads it
        (lambda c: c.pop(WEIGHTS), f": {WEIGHTS}: is missing from the package"),
        (lambda c: c.update({"models/evil.py": b"1"}), ": models/evil.py: was added, the manifest does not list it"),
        (lambda c: c.pop("manifest.json"), ": is no package of `tumorboard export`: it has no manifest.json"),
        (lambda c: c.update({"manifest.json": b"{"}), ": manifest.json: is damaged: "),
        (lambda c: c.update({"manifest.json": b"[" * 100_000}), ": manifest.json: is damaged: "),
        (lambda c: c.update({"manifest.json": b" " * 10_000_001}), ": manifest.json: is compressed or too large"),
        (with_manifest(lambda t: t.update(kind="a novel")), ": manifest.json: is no package of `tumorboard export`"),
        (with_manifest(lambda t: t.update(format="1")), "manifest.json: format: Input should be a valid integer"),
        (with_manifest(lambda t: t.update(format=True)), "manifest.json: format: Input should be a valid integer"),
        (with_manifest(lambda t: t.update(format=0)), "manifest.json: format: Input should be greater than"),
        (with_manifest(lambda t: t.update(format=FORMAT + 1, version="9\n")), r"2, of tumorboard '9\n'; this version"),
        (with_manifest(lambda t: t.update(surprise=1)), ": manifest.json: surprise: "),
        (with_manifest(lambda t: t.pop("models")), ": manifest.json: models: "),
        (with_manifest(lambda t: t["entries"][WEIGHTS].update(bytes=1 << 40)), f": {WEIGHTS}: was altered"),
        (with_manifest(lambda t: t["entries"][WEIGHTS].update(bytes=7)), f": {WEIGHTS}: was altered"),
        (with_manifest(lambda t: t["models"][2].update(weights="README.md")), ": README.md: not a whole .safetensors"),
        (with_manifest(lambda t: t["models"][2].update(weights="no")), ": no: the manifest names this entry"),
        (with_manifest(lambda t: t["models"][2].update(card="models/other/0.json")), ": models/other/0.json: is not"),
        (with_manifest(lambda t: t["models"][2].update(unlike=WEIGHTS)), f": {WEIGHTS}: is damaged"),
        (with_manifest(lambda t: t["models"].pop()), ": panel.json: was fitted for other, cnn, but the panel has"),
    ],
)
def test_what_is_wrong_with_a_package_is_named(package, change, message):
    rewrite(package, change)
    with pytest.raises(InputError) as caught:
        load_package(package, BY_TORCH)
    assert str(caught.value).startswith(str(package))
    assert message in str(caught.value)
    assert "dvc repro" not in str(caught.value)  # a recipient has no study
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["panel.json", "preprocessing.json", "known.csv"])
def test_a_package_without_what_a_vote_needs_is_refused(package, name):
    def remove(contents):
        del contents[name]
        with_manifest(lambda tree: tree["entries"].pop(name))(contents)

    rewrite(package, remove)
    with pytest.raises(InputError, match=f"{name}: is missing from the package"):
        load_package(package, BY_TORCH)


def test_compressed_and_repeated_entries_are_refused(package):
    with zipfile.ZipFile(package, "a") as file, pytest.warns(UserWarning, match="Duplicate"):
        file.writestr(WEIGHTS, b"other")
    with pytest.raises(InputError, match=r"models/cnn/0\.safetensors: is in the zip twice"):
        load_package(package, BY_TORCH)


def test_a_bomb_is_refused_before_it_is_inflated(package):
    rewrite(package, lambda contents: contents.update({"README.md": bytes(50_000_000)}), zipfile.ZIP_DEFLATED)
    assert package.stat().st_size < 10_000_000
    with pytest.raises(InputError, match="is compressed"), open_package(package):
        pass


def test_entries_that_share_bytes_are_refused(tmp_path):
    """The first has the second's header and content in its own content."""
    content = bytes(20_000)
    inner = zipfile.ZipInfo("inner")
    inner.file_size = inner.compress_size = len(content)
    inner.CRC = zlib.crc32(content)
    outer = inner.FileHeader() + content
    entries = {
        name: {"sha256": sha256(one).hexdigest(), "bytes": len(one)}
        for name, one in {"outer": outer, "inner": content}.items()
    }
    model = {"weights": "outer", "card": "outer", "unlike": "outer", "onnx": None}
    tree = {"kind": "tumorboard panel", "format": FORMAT, "version": "1", "models": [model], "entries": entries}
    path = tmp_path / "panel.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("manifest.json", json.dumps(tree))
        file.writestr("outer", outer)
        first = file.getinfo("outer")
        inner.header_offset = first.header_offset + len(first.FileHeader())
        file.filelist.append(inner)
        file.NameToInfo["inner"] = inner
    with pytest.raises(InputError, match=r"panel\.zip: its entries have more bytes than the file"), open_package(path):
        pass


def test_a_file_that_was_cut_or_flipped_or_is_something_else_is_refused(package, small, tmp_path):
    content = package.read_bytes()
    package.write_bytes(content[:-100])
    with pytest.raises(InputError, match="is no whole zip file"):
        load_package(package, BY_TORCH)
    start = content.index(small.files[2].read_bytes()[:1000])
    package.write_bytes(content[: start + 2000] + bytes([content[start + 2000] ^ 1]) + content[start + 2001 :])
    with pytest.raises(InputError, match=r"models/cnn/0\.safetensors: is damaged: Bad CRC-32"):
        load_package(package, BY_TORCH)
    with pytest.raises(InputError, match="a model file is named by --model"):
        load_package(small.files[0], BY_TORCH)
    with pytest.raises(InputError, match="no such file: name a package"):
        load_package(tmp_path / "none.zip", BY_TORCH)
    with pytest.raises(InputError, match="is no regular file: name a package"):
        load_package(tmp_path, BY_TORCH)


def test_each_entry_is_read_once_but_the_cards(package, monkeypatch):
    read: list[str] = []
    opened = zipfile.ZipFile.open

    def note(self, name, *arguments, **settings):
        read.append(getattr(name, "filename", name))
        return opened(self, name, *arguments, **settings)

    monkeypatch.setattr(zipfile.ZipFile, "open", note)
    load_package(package, BY_TORCH)
    with zipfile.ZipFile(package) as file:
        names = file.namelist()
    assert sorted(set(read)) == sorted(names)
    assert {name for name in read if read.count(name) > 1} <= {
        name for name in names if name.startswith("models/") and name.endswith(".json")
    }


def test_names_in_a_package_become_no_paths(package, tmp_path, monkeypatch):
    """A package whose entries have the names of files elsewhere is loaded, and nothing is written there."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    before = sorted(tmp_path.rglob("*"))

    def rename(contents: dict[str, bytes]) -> None:
        contents["../../evil.safetensors"] = contents.pop(WEIGHTS)
        text = contents["manifest.json"].decode().replace(WEIGHTS, "../../evil.safetensors")
        contents["manifest.json"] = text.encode()

    rewrite(package, rename)
    loaded = load_package(package, BY_TORCH)
    assert str(loaded.panel.models["cnn"][0].file).endswith("panel.zip: ../../evil.safetensors")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_network_that_is_code_of_a_study_is_refused(own, tmp_path, monkeypatch):
    """Even where the very code lies in the current folder."""
    (tmp_path / "architectures").mkdir()
    (tmp_path / "architectures/own.py").write_text("raise SystemExit('the code ran')")
    monkeypatch.chdir(tmp_path)
    file = own.files[2]
    content = file.read_bytes()
    text = content.replace(b'\\"architecture\\":\\"cnn\\"', b'\\"architecture\\":\\"a:b\\"')
    assert text != content
    file.write_bytes(text)
    own.pack(tmp_path / "panel.zip")
    with pytest.raises(InputError, match=r"panel\.zip: models/cnn/0\.safetensors: its network is code of a study"):
        load_package(tmp_path / "panel.zip", BY_TORCH)


def test_statistics_of_another_network_are_refused(own, tmp_path):
    """Their manifest lists them as they are, so that nothing seems altered."""
    save_unlike(made_up_statistics(7), own.folder / "unlike/cnn/0.safetensors")
    own.pack(tmp_path / "panel.zip")
    message = r"panel\.zip: unlike/cnn/0\.safetensors: feature_mean has the shape \[7\], expected \[256\]: get the"
    with pytest.raises(InputError, match=message + " package again$"):
        load_package(tmp_path / "panel.zip", BY_TORCH)
    with pytest.raises(InputError, match=r"unlike/cnn/0\.safetensors: feature_mean has the shape \[7\]"):
        load_panel(own.files, "cpu", unlike=own.folder / "unlike")


def test_a_model_of_another_data_set_is_named(own, tmp_path, params):
    save_untrained(own.folder, params, "cnn", 0, 9, {"manifest": "1" * 16})
    own.pack(tmp_path / "panel.zip")
    with pytest.raises(InputError) as caught:
        load_package(tmp_path / "panel.zip", BY_TORCH)
    assert "models/cnn/0.safetensors and " in str(caught.value)
    assert "do not belong to one panel" in str(caught.value)


def test_known_files_are_a_table(package):
    def change(contents):
        content = b"sha256,split\nabc\n"
        contents["known.csv"] = content
        entry = {"sha256": sha256(content).hexdigest(), "bytes": len(content)}
        with_manifest(lambda tree: tree["entries"].update({"known.csv": entry}))(contents)

    rewrite(package, change)
    with pytest.raises(InputError, match=r"known\.csv: is not a table"):
        load_package(package, BY_TORCH)


def test_loading_returns_the_version_that_wrote_it(package):
    with open_package(package) as opened:
        assert opened.manifest.version == "1.2.3"
        assert [one.weights for one in opened.manifest.models] == [
            "models/other/0.safetensors",
            "models/other/1.safetensors",
            WEIGHTS,
        ]
    assert isinstance(load_package(package, BY_TORCH), PackedPanel)
