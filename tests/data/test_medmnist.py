"""MedMNIST's .npz files, from small ones of that form: paths, names, pixels in any order, refusals, the download."""

import sys
import types
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.lib import format as npy

from tests.data.cropping import data_section
from tumorboard.base.errors import ImageError, InputError
from tumorboard.base.files import read_table
from tumorboard.base.params import Params
from tumorboard.base.tables import read_manifest
from tumorboard.data import medmnist
from tumorboard.data.crop import CropJob, crop_images
from tumorboard.data.sources import list_images, read_content
from tumorboard.data.store import CropStore
from tumorboard.images.crop import crop_image

DATA = data_section()
COUNTS = {"train": 12, "val": 4, "test": 6}
BLOOD = {"0": "basophil", "1": "eosinophil", "2": "immature granulocytes(myelocytes, metamyelocytes)"}


def images(part: str, shape: tuple[int, ...] = (20, 20, 3)) -> np.ndarray:
    return np.random.default_rng(len(part)).integers(0, 256, (COUNTS[part], *shape), dtype=np.uint8)


def write(file: Path, compress: bool = True, **changes: Any) -> Path:
    arrays = {}
    for part, count in COUNTS.items():
        arrays[f"{part}_images"] = images(part)
        arrays[f"{part}_labels"] = (np.arange(count) % 3).astype(np.uint8)[:, None]
    arrays = {name: array for name, array in (arrays | changes).items() if array is not None}
    (np.savez_compressed if compress else np.savez)(file, **arrays)
    return file


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    """The medmnist package's table, with one set in it."""
    entry = {"label": BLOOD, "MD5": "", "MD5_224": "", "python_class": "BloodMNIST", "url_224": "https://example.org/b"}
    monkeypatch.setattr(medmnist, "_sets", lambda: {"bloodmnist": entry})


@pytest.mark.parametrize("file", ["bloodmnist_224.npz", "bloodmnist.npz", "medmnist:bloodmnist_224"])
@pytest.mark.usefixtures("names")
def test_images_have_stable_paths_given_splits_and_the_class_names_of_the_package(tmp_path: Path, file: str) -> None:
    write(tmp_path / "some.npz").rename(tmp_path / file)
    rows, ignored = list_images(tmp_path / file, DATA)
    assert ignored.empty
    expected = [
        (f"{part}/{row:05d}", BLOOD[str(row % 3)], part)
        for part in ("test", "train", "val")
        for row in range(COUNTS[part])
    ]
    assert list(rows[["path", "label", "split"]].itertuples(index=False, name=None)) == expected
    assert (rows["group"] == "").all()


@pytest.mark.parametrize("file", ["mine.npz", "bloodmnist_64.npz"])
@pytest.mark.usefixtures("names")
def test_labels_without_known_names_are_the_numbers(tmp_path: Path, file: str) -> None:
    shifted = {f"{part}_labels": np.arange(count) % 2 + 7 for part, count in COUNTS.items()}
    rows, _ = list_images(write(tmp_path / file, **shifted), DATA)
    assert set(rows["label"]) == {"7", "8"}


@pytest.mark.usefixtures("names")
def test_labels_of_which_only_some_have_names_are_the_numbers(tmp_path: Path) -> None:
    unknown = {f"{part}_labels": np.arange(count) % 2 * 7 for part, count in COUNTS.items()}
    rows, _ = list_images(write(tmp_path / "bloodmnist.npz", **unknown), DATA)
    assert set(rows["label"]) == {"0", "7"}


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("shape", [(20, 20, 3), (17, 23)])
def test_the_pixels_of_an_image_are_read_in_any_order(tmp_path: Path, compress: bool, shape: tuple[int, ...]) -> None:
    pictures = {part: images(part, shape) for part in COUNTS}
    file = write(tmp_path / "a.npz", compress, **{f"{part}_images": array for part, array in pictures.items()})
    for part, row in [("train", 11), ("val", 0), ("train", 3), ("train", 4), ("test", 5), ("train", 0)]:
        content = read_content(file, f"{part}/{row:05d}")
        np.testing.assert_array_equal(np.load(BytesIO(content)), pictures[part][row])


def test_a_file_replaced_under_its_name_is_read_again(tmp_path: Path) -> None:
    file = write(tmp_path / "x.npz")
    before = read_content(file, "train/00001")
    other = write(tmp_path / "y.npz", train_images=255 - images("train"))
    other.replace(file)
    after = np.load(BytesIO(read_content(file, "train/00001")))
    assert (after == 255 - np.load(BytesIO(before))).all()


def test_paths_have_as_many_digits_as_the_last_one_needs(tmp_path: Path) -> None:
    for count, first, last in [
        (100_000, "train/00000", "train/99999"),
        (100_001, "train/000000", "train/100000"),
    ]:
        pixels = np.zeros((count, 1, 1), np.uint8)
        file = write(tmp_path / "a.npz", train_images=pixels, train_labels=np.arange(count) % 2)
        paths = [path for path, _, _ in medmnist.list_npz_images(file)]
        assert (paths[0], paths[count - 1]) == (first, last)
    assert [path for path in paths if path.startswith("val/")] == [f"val/0000{row}" for row in range(4)]


def test_files_of_version_2_headers_are_read(tmp_path: Path) -> None:
    pixels = images("train")
    buffer = BytesIO()
    np.lib.format.write_array(buffer, pixels, version=(2, 0))
    file = write(tmp_path / "a.npz", train_images=None)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("train_images.npy", buffer.getvalue())
    assert len(list_images(file, DATA)[0]) == 22
    np.testing.assert_array_equal(np.load(BytesIO(read_content(file, "train/00005"))), pixels[5])


def test_the_pipeline_crops_an_npz_as_it_crops_files(tmp_path: Path, params: Params) -> None:
    again = images("train").copy()
    again[7] = images("val")[2]
    file = write(tmp_path / "a.npz", train_images=again)
    crop = params.crop.model_copy(update={"side": 16})
    rows, ignored = list_images(file, DATA)
    job = CropJob(raw=file, out=tmp_path / "out", cache=tmp_path / "cache", crop=crop, frames=None, max_quarantined=0)
    counts = crop_images(rows, ignored, job).counts
    assert (counts["images"], counts["equal_files"], counts["equal_pixels"]) == (22, 1, 1)
    store = CropStore(tmp_path / "out/store")
    np.testing.assert_array_equal(store[["test/00004"]][0], crop_image(images("test")[4], crop))
    manifest = read_manifest(tmp_path / "out/manifest.csv").set_index("id")
    assert manifest.loc["train/00007", "sha256"] == manifest.loc["val/00002", "sha256"]
    assert manifest.loc["val/00002", "split"] == "val"
    assert set(read_table(tmp_path / "out/images.csv")["format"]) == {"NPY"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train_images": None}, "no train_images"),
        ({"train_labels": None}, "train_labels"),
        ({"val_labels": np.zeros((4, 14), np.uint8)}, r"several labels per image"),
        ({"val_labels": np.zeros(4)}, "val_labels is float64"),
        ({"val_labels": np.zeros(3, np.uint8)}, "4 val_images, but 3 val_labels"),
        ({"test_images": np.zeros((6, 8, 8, 8, 1), np.uint8)}, r"test_images is uint8\[6, 8, 8, 8, 1\]"),
        ({"test_images": np.zeros((6, 8, 8, 1), np.uint8)}, r"test_images is uint8\[6, 8, 8, 1\]"),
        ({"test_images": np.zeros((6, 8, 9), np.uint8, order="F")}, r"test_images is uint8\[6, 8, 9\]"),
        ({"test_images": np.zeros((6, 8, 8))}, "test_images is float64"),
        ({"val_labels": np.array([{}] * 4)}, "val_labels is object"),
        ({"val_labels": np.zeros((4, 2, 2), np.uint8)}, r"4 val_images, but 16 val_labels"),
        ({f"{part}_labels": np.zeros(n, np.uint8) for part, n in COUNTS.items()}, "only one class, '0'"),
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        list_images(write(tmp_path / "a.npz", **changes), DATA)
    assert str(tmp_path / "a.npz") in str(caught.value)


def header_of(shape: tuple[int, ...], kind: str = "|u1") -> bytes:
    """Returns the start of a .npy file that states a shape, whatever follows."""
    text = str({"descr": kind, "fortran_order": False, "shape": shape}).ljust(117) + "\n"
    return b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize(
    ("member", "shape", "words"),
    [
        ("train_labels", (400_000_000,), "12 train_images, but 400000000 train_labels"),
        ("train_labels", (400_000_000, 1), "12 train_images, but 400000000 train_labels"),
        ("train_images", (400_000_000, 1, 1), "train_images holds 400000000 images, more than 10000000"),
        ("train_images", (12, 20, 20), "train_images holds 400000000 bytes, more than its 12 images have"),
    ],
)
def test_a_small_file_that_states_millions_of_images_is_refused_by_its_headers(
    tmp_path: Path, member: str, shape: tuple[int, ...], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "a.npz", **{member: None})
    with (
        zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open(f"{member}.npy", "w", force_zip64=True) as stream,
    ):
        stream.write(header_of(shape))
        for _ in range(400):
            stream.write(bytes(1_000_000))
    assert file.stat().st_size < 3_000_000
    monkeypatch.delattr(npy, "read_array")  # nothing of the array is to be read
    with pytest.raises(InputError, match=words):
        list_images(file, DATA)


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\3\4"])
def test_a_file_that_is_not_an_npz_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(InputError, match="MedMNIST's arrays"):
        list_images(tmp_path / "a.npz", DATA)


def damaged(file: Path, member: str, position: int, new: bytes) -> Path:
    """The file with other bytes at a position, from the end if negative, of an array as it is stored."""
    with zipfile.ZipFile(file) as archive:
        info = archive.getinfo(f"{member}.npy")
    content = bytearray(file.read_bytes())
    # Before an array lie 30 bytes, its name and an extra field; the lengths of these two are given at 26 and 28.
    start = info.header_offset + 30 + content[info.header_offset + 26] + content[info.header_offset + 28]
    start += position + (info.compress_size if position < 0 else 0)
    content[start : start + len(new)] = new
    file.write_bytes(content)
    return file


@pytest.mark.parametrize("member", ["train_images", "test_images", "val_labels"])
@pytest.mark.parametrize("compress", [True, False])
def test_damage_in_an_array_refuses_the_whole_file(tmp_path: Path, compress: bool, member: str) -> None:
    file = write(tmp_path / "a.npz", compress)
    assert len(list_images(file, DATA)[0]) == 22
    # Stored, these are the last pixels or labels of the array.
    with pytest.raises(InputError, match=rf"a\.npz: {member}: "):
        list_images(damaged(file, member, -4, b"\2\1\2\1"), DATA)


def test_damage_that_stops_the_decompression_is_reported(tmp_path: Path) -> None:
    for member in ("train_images", "val_labels"):
        file = damaged(write(tmp_path / "a.npz"), member, 0, b"\xff")  # DEFLATE has no block of the kind 3
        with pytest.raises(InputError, match=rf"a\.npz: {member}: Error -3 while decompressing"):
            list_images(file, DATA)
    with pytest.raises(ImageError, match=r"corrupt: .*train_images: Error -3"):
        read_content(damaged(write(tmp_path / "b.npz"), "train_images", 0, b"\xff"), "train/00000")


@pytest.mark.parametrize(("position", "value", "words"), [(8, 1, "encrypted"), (10, 99, "compression method")])
def test_encrypted_and_oddly_compressed_files_are_refused(
    tmp_path: Path, position: int, value: int, words: str
) -> None:
    content = bytearray(write(tmp_path / "a.npz").read_bytes())
    content[content.index(b"PK\1\2") + position] = value  # in the first entry of the directory
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(InputError, match=f"train_images: .*{words}"):
        list_images(tmp_path / "a.npz", DATA)


def test_an_array_shorter_than_its_header_states_refuses_the_file(tmp_path: Path) -> None:
    buffer = BytesIO()
    np.save(buffer, images("test"))
    file = write(tmp_path / "a.npz", test_images=None)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("test_images.npy", buffer.getvalue()[:-1])
    with pytest.raises(InputError, match="test_images ends before its 6 images do"):
        list_images(file, DATA)


def test_a_damaged_image_is_corrupt(tmp_path: Path) -> None:
    content = bytearray(write(tmp_path / "a.npz").read_bytes())
    start = content.index(b"train_images.npy")
    content[start + 4000 : start + 4100] = bytes(100)
    (tmp_path / "b.npz").write_bytes(content)
    with pytest.raises(ImageError) as caught:
        read_content(tmp_path / "b.npz", "train/00011")
    assert caught.value.reason == "corrupt"


def test_an_image_beyond_the_last_one_is_truncated(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="the train_images end within it") as caught:
        read_content(write(tmp_path / "a.npz"), "train/00012")
    assert caught.value.reason == "truncated"


def test_a_set_not_yet_downloaded_is_explained(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"not downloaded yet: set medmnist: \[bloodmnist_224\].*dvc repro"):
        list_images(tmp_path / "medmnist:bloodmnist_224", DATA)


@pytest.fixture
def package(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A stand-in for the medmnist package, whose download is a file already there."""
    request.getfixturevalue("names")
    package = types.ModuleType("medmnist")

    class BloodMNIST:
        def __init__(self, split: str, download: bool, size: int) -> None:
            assert download
            assert split in COUNTS
            self.root = str(tmp_path / "root")
            (tmp_path / "root").mkdir()
            write(tmp_path / "root" / f"bloodmnist{'' if size == 28 else f'_{size}'}.npz")

    package.BloodMNIST = BloodMNIST  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "medmnist", package)
    return package


@pytest.mark.parametrize("name", ["bloodmnist", "bloodmnist_224"])
@pytest.mark.usefixtures("package")
def test_a_download_is_written_to_its_target(tmp_path: Path, name: str) -> None:
    medmnist.download(name, tmp_path / f"medmnist:{name}")
    assert len(list_images(tmp_path / f"medmnist:{name}", DATA)[0]) == 22


def test_a_failed_download_says_how_to_do_without_internet(
    tmp_path: Path, package: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(**_: object) -> None:
        raise RuntimeError("Automatic download failed!")

    monkeypatch.setattr(package, "BloodMNIST", offline)
    with pytest.raises(InputError, match=r"https://example\.org/b .*~/\.medmnist/bloodmnist_224\.npz.*data\.raw"):
        medmnist.download("bloodmnist_224", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "words"), [("bloodmnist_99", "bloodmnist_224"), ("bloodmist", "known: bloodmnist")])
@pytest.mark.usefixtures("names")
def test_a_wrong_name_lists_the_right_ones(tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        medmnist.download(name, tmp_path / "out")


def test_the_real_package_lists_the_sets() -> None:
    pytest.importorskip("medmnist")
    assert medmnist._sets()["bloodmnist"]["label"]["7"] == "platelet"


def test_without_the_package_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(medmnist, "_sets", dict)
    with pytest.raises(InputError, match=r"tumorboard\[medmnist\]"):
        medmnist.download("bloodmnist", tmp_path / "out")
