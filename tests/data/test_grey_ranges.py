"""One range for all files of a set: what is told, what is proposed, what `crop.window: set` crops; values by hand."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.data.cropping import build, data_section, picture, save
from tumorboard.base.errors import InputError
from tumorboard.base.files import read_table
from tumorboard.base.params import Crop, Params
from tumorboard.data.check import check_folder, params_for
from tumorboard.data.crop import CropJob, CropSummary, crop_images
from tumorboard.data.crop_record import resolve_window
from tumorboard.data.grey_ranges import common_range, describe_blank, describe_narrow, describe_ranges, summarize_ranges
from tumorboard.data.sources import list_images
from tumorboard.data.store import CropStore


def summary_of(raw: Path, out: Path, crop: Crop, **changes: Any) -> CropSummary:
    data = data_section(max_quarantined=99)
    job = CropJob(raw=raw, out=out, cache=out / "cache", crop=crop, frames=None, max_quarantined=99, **changes)
    return crop_images(*list_images(raw, data), job)


@pytest.fixture
def deep(tmp_path: Path) -> Path:
    """Six 16-bit PNGs per class; the brightest pixel of class a is 1000, of class b 1040."""
    ramp = np.linspace(100, 900, 40 * 50).reshape(40, 50)
    for label, brightest in (("a", 1000), ("b", 1040)):
        for number in range(6):
            values = np.roll(ramp, 7 * number, axis=1).astype(np.uint16)
            values[20, 20] = brightest
            save(tmp_path / "deep" / label / f"{number}.png", values)  # type: ignore[arg-type]
    return tmp_path / "deep"


def test_files_that_are_scaled_each_by_its_own_range_are_counted_and_told(
    deep: Path, tmp_path: Path, crop: Crop
) -> None:
    summary = summary_of(deep, tmp_path / "out", crop)
    assert summary.counts["own_range"] == 12
    (warning,) = summary.warnings
    assert warning.startswith("12 files are scaled each by its own range: 2 different ranges in this set")
    assert "set crop.window, for example to [103, 896], or to set" in warning  # 0.5 and 99.5 % of 100 to 900
    images = read_table(tmp_path / "out/images.csv")
    assert set(images["scaling"]) == {"depth"}
    assert set(zip(images["low"], images["high"], strict=True)) == {("0.0", "1023.0"), ("0.0", "4095.0")}


def test_one_range_for_the_set_gives_equal_values_equal_levels(deep: Path, tmp_path: Path, crop: Crop) -> None:
    summary = summary_of(deep, tmp_path / "out", crop.model_copy(update={"window": "set"}))
    assert summary.warnings == ()
    assert summary.counts["own_range"] == 0
    images = read_table(tmp_path / "out/images.csv")
    assert set(images["scaling"]) == {"params"}
    assert set(zip(images["low"], images["high"], strict=True)) == {("103.0", "896.0")}
    store = CropStore(tmp_path / "out/store")
    crops = store[["a/0.png", "b/0.png"]].astype(int)
    assert np.median(np.abs(crops[0] - crops[1])) == 0
    fixed = summary_of(deep, tmp_path / "fixed", crop.model_copy(update={"window": (103.0, 896.0)}))
    assert fixed.warnings == ()
    np.testing.assert_array_equal(CropStore(tmp_path / "fixed/store")[["a/3.png"]], store[["a/3.png"]])


def test_the_range_of_the_set_goes_with_the_store(deep: Path, tmp_path: Path, crop: Crop) -> None:
    by_set = crop.model_copy(update={"window": "set"})
    summary_of(deep, tmp_path / "out", by_set)
    assert resolve_window(by_set, tmp_path / "out/store") == crop.model_copy(update={"window": (103.0, 896.0)})
    assert resolve_window(crop, tmp_path / "out/store") == crop
    with pytest.raises(InputError, match=r"was not made with crop\.window: set"):
        resolve_window(by_set, tmp_path)


def test_a_set_of_8_bits_has_no_range(raw: Path, tmp_path: Path, crop: Crop) -> None:
    by_set = crop.model_copy(update={"window": "set"})
    counts = build(raw, tmp_path / "out", by_set, tmp_path / "cache")
    assert counts == build(raw, tmp_path / "plain", crop, tmp_path / "cache")
    ids = read_table(tmp_path / "out/images.csv")["id"].tolist()
    np.testing.assert_array_equal(CropStore(tmp_path / "out/store")[ids], CropStore(tmp_path / "plain/store")[ids])
    assert resolve_window(by_set, tmp_path / "out/store") == crop


def test_floating_point_files_share_the_range_of_the_set(tmp_path: Path, crop: Crop) -> None:
    for label, factor in (("a", 1.0), ("b", 2.0)):
        values = (np.arange(1600, dtype=np.float32).reshape(40, 40) / 1600 - 0.5) * factor
        (tmp_path / "raw" / label).mkdir(parents=True)
        Image.fromarray(values).save(tmp_path / "raw" / label / "1.tif")
    with pytest.raises(InputError, match=r"floats.*set crop\.window"):
        summary_of(tmp_path / "raw", tmp_path / "none", crop)
    assert (
        summary_of(tmp_path / "raw", tmp_path / "out", crop.model_copy(update={"window": "set"})).counts["quarantined"]
        == 0
    )
    images = read_table(tmp_path / "out/images.csv")
    # Half of the values are evenly spread from -0.5 to 0.5, the others from -1 to 1: 1 % of these lie below -0.98.
    assert [float(images[end][0]) for end in ("low", "high")] == pytest.approx([-0.98, 0.98], abs=0.015)


def test_the_report_gets_one_sentence_from_images_csv(deep: Path, tmp_path: Path, crop: Crop) -> None:
    summary_of(deep, tmp_path / "out", crop)
    (sentence,) = summarize_ranges(read_table(tmp_path / "out/images.csv"))
    assert sentence == (
        "12 files are scaled each by its own range: 2 different ranges in this set, so that the same value becomes "
        "different grey levels: crop.window gives all files one range"
    )
    summary_of(deep, tmp_path / "set", crop.model_copy(update={"window": "set"}))
    images = read_table(tmp_path / "set/images.csv")
    assert summarize_ranges(images) == []
    images.loc[0, "warning"] = "premature end"
    assert summarize_ranges(images) == [
        "1 file was read, but may be damaged, as the decoder reports (column warning): a/0.png (premature end)"
    ]


def facts(*rows: tuple[str, float, float]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["scaling", "low", "high"])
    return table.assign(id=[f"{row}.png" for row in table.index], levels=[tuple(range(100))] * len(table))


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([("", np.nan, np.nan), ("depth", 0, 1023)], None),
        ([("depth", 0, 1023), ("depth", 0, 1023)], None),
        ([("params", 5, 9), ("params", 5, 9)], None),
        ([("own range", -53, 300), ("own range", -53, 3071)], "2 files are scaled each by its own range: 2 different"),
        (
            [("own range", -53, 300), ("header", 0, 80)],
            "1 file is scaled each by its own range, 1 file by",
        ),
        ([("header", 0, 100), ("header", 0, 80)], "2 files by the window in the header: 2 different"),
        ([("stored bits", 0, 4095), ("stored bits", -1024, 3071)], "2 files are scaled by the bits"),
    ],
)
def test_ranges_that_differ_are_reported(rows: list[tuple[str, float, float]], words: str | None) -> None:
    warnings = describe_ranges(facts(*rows))
    assert [warning.split(" ranges")[0][: len(words or "")] for warning in warnings] == ([words] if words else [])
    assert all("[0, 99], or to set" in warning for warning in warnings)


def test_the_common_range_counts_each_file_the_same_and_has_a_width() -> None:
    assert common_range([[0.0] * 99 + [5000.0], range(100), range(100)]) == (0.0, 99.0)
    assert common_range([[7.0] * 100]) == (7.0, 8.0)
    assert common_range([(), ()]) is None


def test_check_compares_the_ranges_of_a_folder_without_labels(deep: Path, params: Params) -> None:
    for label in "ab":
        for file in (deep / label).iterdir():
            file.rename(deep / f"{label}{file.name}")
        (deep / label).rmdir()
    (deep / "notes.txt").write_text("no image")
    account = check_folder(deep, params_for(params, deep, None))
    assert account.refused is not None
    assert [warning[:50] for warning in account.warnings] == ["12 files are scaled each by its own range: 2 diffe"]


def test_check_tells_ranges_and_decoder_warnings(deep: Path, tmp_path: Path, params: Params) -> None:
    account = check_folder(deep, params_for(params, deep, None))
    assert any("12 files are scaled each by its own range" in warning for warning in account.warnings)
    jpegs = tmp_path / "jpegs"
    for label in "ab":
        for number in range(4):
            save(jpegs / label / f"{number}.jpg", picture(number + 4 * (label == "b"), 64, 64))
    content = (jpegs / "a/0.jpg").read_bytes()
    (jpegs / "a/0.jpg").write_bytes(content[:-2] + b"\x55" * 300 + content[-2:])
    account = check_folder(jpegs, params_for(params, jpegs, None))
    (warning,) = [warning for warning in account.warnings if "decoder" in warning]
    assert warning.startswith("1 file was read, but may be damaged")
    assert "a/0.jpg (Corrupt JPEG data: " in warning


def test_files_that_are_nearly_all_black_or_white_are_told_with_the_cause() -> None:
    rows = [("", 0.0, 0.0, 1.9), ("", 0.0, 0.0, 2.0), ("header", 255.0, 254.0, 253.5), ("", 253.0, 254.0, 254.0)]
    table = pd.DataFrame(rows, columns=["scaling", "red", "green", "blue"]).assign(id=["a", "b", "c", "d"])
    black, white = describe_blank(table)
    assert black.startswith("1 file is nearly all black (mean levels within 2 of 255), the first a: leave them out")
    assert white.startswith("1 file is nearly all white (mean levels within 2 of 255), the first c: 1 of them by the")
    assert "crop.window" in white
    assert "crop.window" not in black
    assert describe_blank(table[table["id"].isin(["b", "d"])]) == []


@pytest.fixture
def colored(tmp_path: Path) -> Path:
    """Sixteen PNGs of 16 bits per channel; the brightest value of class a is below 1024, of class b below 4096."""
    for number in range(16):
        label, end = ("a", 1000) if number % 2 else ("b", 4000)
        values = np.random.default_rng(number).integers(0, end, (32, 32, 3)).astype(np.uint16)
        values[0, 0] = end
        (tmp_path / "colored" / label).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / "colored" / label / f"{number}.png"), values)
    return tmp_path / "colored"


def test_colors_of_16_bits_have_ranges_as_grey_has(colored: Path, tmp_path: Path, crop: Crop) -> None:
    summary = summary_of(colored, tmp_path / "out", crop)
    (warning,) = summary.warnings
    assert warning.startswith("16 files are scaled each by its own range: 2 different ranges in this set")
    by_set = summary_of(colored, tmp_path / "set", crop.model_copy(update={"window": "set"}))
    assert by_set.warnings == ()
    images = read_table(tmp_path / "set/images.csv")
    assert set(images["scaling"]) == {"params"}
    # Half of the values are evenly spread to 1000, half to 4000: 1 % of these are above 3960.
    assert float(images["high"][0]) == pytest.approx(3960, abs=40)


def narrow_facts(*rows: tuple[str, float, float, float]) -> pd.DataFrame:
    """Returns facts of files with values evenly spread from the second to the third number of each row."""
    table = pd.DataFrame([row[:1] + row[3:] for row in rows], columns=["scaling", "filled"])
    levels = [tuple(np.linspace(low, high, 100)) for _, low, high, _ in rows]
    return table.assign(id=[f"{row}.png" for row in table.index], levels=levels)


def test_values_that_fill_little_of_their_range_are_told_with_a_range() -> None:
    wide = ("depth", 0, 900, 0.88)
    # The ends of 300 levels, of three are lowest, are those of each file. 2000 / 65535 * 255 = 7.8.
    ct = ("depth", 31768, 33768, 0.0305)
    (warning,) = describe_narrow(narrow_facts(ct, ct, ct))
    assert warning.startswith(
        "the values of 3 files fill less than 1/16 of the range over which they are scaled, those of the first, 0.png, "
        "9 of 256 levels"
    )
    assert "set crop.window, for example to [31768, 33768], or to set" in warning
    assert describe_narrow(narrow_facts(wide, ("stored bits", 0, 256, 0.0625))) == []  # 1/16 itself is enough
    assert describe_narrow(narrow_facts(("params", 0, 10, 0.01))) == []  # a window that the user has set
    assert describe_narrow(narrow_facts(("depth", 7, 7, 0.0), ("depth", 7, 7, 0.0))) == []  # no window would help
    assert describe_narrow(narrow_facts(("", 0, 1, 1.0))) == []
    # One dark file among others: a range for all, to about 900, shows it no better than its own, to 1023.
    assert describe_narrow(narrow_facts(*[wide] * 9, ("stored bits", 0, 20, 0.02))) == []
    # One file with a bright dot, which spreads its range to 16 bits, is helped by it.
    (warning,) = describe_narrow(narrow_facts(*[wide] * 9, ("depth", 0, 900, 0.0137)))
    assert warning.startswith("the values of 1 file fill")


@pytest.mark.parametrize("kind", ["HU + 32768", "12 bits stored"])
def test_check_and_crop_tell_values_that_fill_few_levels(kind: str, tmp_path: Path, crop: Crop, params: Params) -> None:
    raw = tmp_path / "raw"
    for number in range(16):
        picture = np.random.default_rng(number).random((40, 40))
        folder = raw / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        if kind == "HU + 32768":
            cv2.imwrite(str(folder / f"{number}.png"), (picture * 2000 - 1000 + 32768).astype(np.uint16))
        else:
            pytest.importorskip("pydicom")
            from tests.images.test_dicom import dicom

            content = dicom((picture * 200).astype(np.uint16), BitsStored=12, HighBit=11)
            (folder / f"{number}.dcm").write_bytes(content)
    found = [text for text in summary_of(raw, tmp_path / "out", crop).warnings if "fill less than 1/16" in text]
    account = check_folder(raw, params_for(params, raw, None))
    assert found == [text for text in account.warnings if "fill less than 1/16" in text]
    assert found[0].startswith("the values of 16 files fill")
    assert summary_of(raw, tmp_path / "set", crop.model_copy(update={"window": "set"})).warnings == ()
