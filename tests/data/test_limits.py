"""Large files: looked at before they are read, decoded by as few processes as fit into the memory."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.cropping import build, picture, save
from tumorboard.base.errors import ImageError
from tumorboard.base.files import read_table
from tumorboard.base.params import Crop
from tumorboard.data import crop as crop_module
from tumorboard.data import workers
from tumorboard.data.sources import read_content, read_image_bytes
from tumorboard.data.store import CropStore
from tumorboard.data.workers import limit_workers

GIB = 1 << 30


def sparse(path: Path, head: bytes, size: int) -> Path:
    """Writes a file that states a size, but takes no space."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(head)
        file.truncate(size)
    return path


@pytest.mark.parametrize(
    ("head", "size", "reason"),
    [
        (b"PK\3\4", 6 * GIB, "not an image: a ZIP archive"),
        (b"PK\3\4", 2 << 20, "not an image: a ZIP archive"),
        (b"\0" * 512, 6 * GIB, "not an image"),
        (b"\x89PNG\r\n\x1a\n", 3 * GIB, "too many bytes: 3221225472 bytes, expected at most 500000000"),
        (b"II*\0", 6 * GIB, "too many bytes"),
        (bytes(128) + b"DICM", 6 * GIB, "too many bytes"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", 2 << 20, "unsupported: a HEIC picture"),
    ],
)
def test_a_large_file_is_recognized_by_its_size_and_first_bytes(
    head: bytes, size: int, reason: str, tmp_path: Path
) -> None:
    file = sparse(tmp_path / "raw/a/1.png", head, size)
    with pytest.raises(ImageError) as caught:
        read_content(tmp_path / "raw", "a/1.png", 500_000_000)
    assert str(caught.value).startswith(reason)
    with pytest.raises(ImageError):
        read_image_bytes(file, 500_000_000)


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("description", ["Aperio Image Library v12.0.15 \r\n46000x32914", "a slide of another maker"])
def test_a_whole_slide_image_beyond_the_limit_is_named_by_its_content(
    big: bool, description: str, tmp_path: Path
) -> None:
    """Its description lies behind the pixels, far from the first bytes."""
    path = tmp_path / "1.svs"
    Image.new("RGB", (64, 64)).save(path, "TIFF", tiffinfo={270: description}, big_tiff=big)
    with path.open("r+b") as file:
        file.truncate(3 * GIB)
    reason = "unsupported: a whole-slide image" if description.startswith("Aperio") else "too many bytes: 3221225472"
    with pytest.raises(ImageError, match=f"^{reason}"):
        read_image_bytes(path, 500_000_000)


@pytest.mark.parametrize("head", [b"II*\0" + b"\xff" * 12, b"MM\0+" + b"\xff" * 12, b"II*\0", b"II*\0" + bytes(12)])
def test_a_large_tiff_with_an_impossible_directory_is_too_large_and_nothing_else(head: bytes, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"^too many bytes"):
        read_image_bytes(sparse(tmp_path / "1.tif", head, 3 * GIB), 500_000_000)


def test_a_large_image_is_read_whole(tmp_path: Path) -> None:
    content = b"BM" + bytes(2 << 20)
    (tmp_path / "1.bmp").write_bytes(content)
    assert read_image_bytes(tmp_path / "1.bmp", len(content)) == content
    assert read_image_bytes(tmp_path / "1.bmp", None) == content


def test_large_files_are_decoded_after_the_others_with_the_same_result(
    raw: Path, tmp_path: Path, crop: Crop, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(raw / "a/large.png", picture(5, 90, 80))
    save(raw / "b/many bytes.bmp", picture(6, 50, 60))
    Image.new("RGB", (8, 8)).save(raw / "b/small.png")  # quarantined: shorter than crop.min_side
    plain = build(raw, tmp_path / "plain", crop, tmp_path / "cache", max_quarantined=1)
    monkeypatch.setattr(crop_module, "LARGE_PIXELS", 5000)
    monkeypatch.setattr(crop_module, "LARGE_BYTES", 8000)
    lanes: list[int] = []
    monkeypatch.setattr(crop_module, "limit_workers", lambda count, memory: (lanes.append(memory), count)[1])
    counts = build(raw, tmp_path / "out", crop, tmp_path / "other cache", max_quarantined=1)
    assert counts == plain
    assert lanes == [workers.SMALL_MEMORY, workers.LARGE_MEMORY]
    for table in ("images", "manifest", "quarantined"):
        assert read_table(tmp_path / f"out/{table}.csv").equals(read_table(tmp_path / f"plain/{table}.csv"))
    ids = read_table(tmp_path / "out/images.csv")["id"].tolist()
    np.testing.assert_array_equal(CropStore(tmp_path / "out/store")[ids], CropStore(tmp_path / "plain/store")[ids])


def test_a_file_for_which_memory_runs_out_is_quarantined(
    raw: Path, tmp_path: Path, crop: Crop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(crop_module, "facts_of", fail)
    with pytest.raises(Exception, match="not enough memory"):
        build(raw, tmp_path / "out", crop, tmp_path / "cache")


def test_processes_are_limited_by_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "free_memory", lambda: 10 * GIB)
    assert limit_workers(16, 3 * GIB) == 3
    assert limit_workers(2, 3 * GIB) == 2
    assert limit_workers(16, 20 * GIB) == 1
    monkeypatch.undo()
    assert 0 < workers.free_memory() < 1 << 50
