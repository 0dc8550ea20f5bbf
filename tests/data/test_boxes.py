"""Boxes of lesions: rows that cannot be used, and places in the crop of drawn pictures."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from tumorboard.base.errors import InputError
from tumorboard.base.params import Params
from tumorboard.data.boxes import read_boxes, read_placed_boxes
from tumorboard.images.crop import crop_file

SIDE = 32
WHITE, GREY = (250, 250, 250), (120, 120, 120)
HEADER = "path,x,y,width,height\n"
IMAGES = pd.DataFrame({"id": ["a/1.png", "a/2.png"], "width": ["60", "40"], "height": ["40", "60"]})
NONE = pd.DataFrame({"path": ["a/broken.png"], "reason": ["truncated"], "detail": [""]})


def read(tmp_path: Path, rows: str, header: str = HEADER) -> pd.DataFrame:
    file = tmp_path / "boxes.csv"
    file.write_text(header + rows)
    return read_boxes(file, IMAGES, NONE)


def test_rows_are_read_and_those_of_quarantined_files_left_out(tmp_path: Path) -> None:
    boxes = read(
        tmp_path, "a/1.png,0,1.5,10,20,x\na/broken.png,0,0,900,900,x\na/1.png,50,30,10,10,x\n", HEADER[:-1] + ",note\n"
    )
    assert boxes.to_numpy().tolist() == [["a/1.png", 0, 1.5, 10, 20], ["a/1.png", 50, 30, 10, 10]]
    assert len(read(tmp_path, "")) == 0


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            "a/1.png,0,0,5,5\na/9.png,0,0,5,5\n",
            r"boxes\.csv: line 3: there is no image 'a/9\.png': .* such as 'a/1\.png'",
        ),
        ("a/1.png,0,0,-5,5\n", "line 2: width is -5, expected more than 0 pixels"),
        ("a/1.png,0,0,5,0\n", "line 2: height is 0, expected more than 0"),
        ("a/1.png,left,0,5,5\n", "line 2: x is 'left', expected a number of pixels"),
        ("a/1.png,0,,5,5\n", "line 2: y is '', expected a number"),
        ("a/1.png,0,0,nan,5\n", "line 2: width is 'nan', expected a number"),
        ("a/1.png,0,0,inf,5\n", "line 2: width is 'inf', expected a number"),
        (
            "a/1.png,55,0,10,5\n",
            r"line 2: the box from \(55, 0\) to \(65, 5\) is not inside its image of 60 x 40 pixels",
        ),
        ("a/2.png,0,-3,10,5\n", r"not inside its image of 40 x 60 pixels"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(tmp_path: Path, rows: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(tmp_path, rows)


def test_a_box_may_end_a_pixel_beyond_the_image_as_rounded_ones_do(tmp_path: Path) -> None:
    assert len(read(tmp_path, "a/1.png,55,0,6,5\n")) == 1


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"boxes\.csv: has no column width, expected path, x, y, width, height"):
        read(tmp_path, "a/1.png,0,0,5\n", "path,x,y,w\n")


def draw(file: Path, size: tuple[int, int], spot: tuple[int, int, int, int], border: int = 0) -> None:
    """Writes a grey picture (width, height) with a white spot (x, y, width, height) and a black border."""
    picture = np.full((size[1], size[0], 3), GREY, np.uint8)
    x, y, width, height = spot
    picture[y : y + height, x : x + width] = WHITE
    if border:
        picture[:border] = picture[-border:] = picture[:, :border] = picture[:, -border:] = 0
    file.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(file), picture)


@pytest.mark.parametrize(
    ("name", "size", "spot", "border"),
    [
        ("wide.png", (120, 64), (70, 10, 16, 12), 0),
        ("tall.png", (64, 150), (4, 60, 20, 10), 0),
        ("border.png", (110, 90), (60, 40, 18, 18), 11),
        ("large.png", (1030, 771), (500, 300, 130, 90), 0),  # decoded at a reduced size
        ("large.jpg", (1003, 777), (500, 300, 130, 90), 0),  # by libjpeg
        ("large_border.jpg", (1200, 900), (500, 300, 200, 160), 64),
    ],
)
def test_a_box_is_where_its_spot_is_in_the_crop(
    tmp_path: Path, params: Params, name: str, size: tuple[int, int], spot: tuple[int, int, int, int], border: int
) -> None:
    """The spot is found again in the crop by its brightness, to one pixel."""
    crop = params.crop.model_copy(update={"side": SIDE, "border": bool(border)})
    draw(tmp_path / "raw" / name, size, spot, border)
    placed = place(tmp_path, params, crop, name, size, [spot])
    square = crop_file((tmp_path / "raw" / name).read_bytes(), crop, None).square
    bright = np.argwhere((square if square.ndim == 2 else square[..., 0]) > (WHITE[0] + GREY[0]) / 2)
    top, left = bright.min(0)
    bottom, right = bright.max(0) + 1
    assert placed[name][0] == pytest.approx((left, top, right, bottom), abs=1.0)


def place(tmp_path, params, crop, name, size, boxes):
    (tmp_path / "raw").mkdir(exist_ok=True)
    rows = "".join(f"{name},{','.join(map(str, box))}\n" for box in boxes)
    (tmp_path / "raw/boxes.csv").write_text(HEADER + rows)
    (tmp_path / "images.csv").write_text(f"id,width,height\n{name},{size[0]},{size[1]}\n")
    (tmp_path / "quarantined.csv").write_text("path,reason,detail\n")
    data = params.data.model_copy(update={"raw": str(tmp_path / "raw"), "boxes": "boxes.csv"})
    return read_placed_boxes(data, tmp_path, crop)


def test_what_lies_outside_of_the_square_is_cut_off_or_left_out(tmp_path: Path, params: Params) -> None:
    """Of 128 x 64 pixels the square has the columns 32 to 96; a crop of 32 pixels has half the scale."""
    crop = params.crop.model_copy(update={"side": 32, "border": False})
    draw(tmp_path / "raw/w.png", (128, 64), (0, 0, 1, 1))
    placed = place(tmp_path, params, crop, "w.png", (128, 64), [(20, 8, 20, 16), (0, 0, 30, 30), (60, 40, 10, 24)])
    assert placed["w.png"] == [(0, 4, 4, 12), (14, 20, 19, 32)]
    assert place(tmp_path, params, crop, "w.png", (128, 64), [(0, 0, 30, 30)]) == {"w.png": []}


def test_a_table_that_is_not_there_is_named_and_none_is_none(tmp_path: Path, params: Params) -> None:
    data = params.data.model_copy(update={"raw": str(tmp_path), "boxes": None})
    assert read_placed_boxes(data, tmp_path, params.crop) == {}
    with pytest.raises(InputError, match=r"data\.boxes: there is no .*/lesions\.csv: name a CSV file inside"):
        read_placed_boxes(data.model_copy(update={"boxes": "lesions.csv"}), tmp_path, params.crop)
    (tmp_path / "set.npz").write_bytes(b"")
    packed = data.model_copy(update={"raw": str(tmp_path / "set.npz"), "boxes": "lesions.csv"})
    with pytest.raises(InputError, match=r"data\.boxes: .*set\.npz is no folder"):
        read_placed_boxes(packed, tmp_path, params.crop)


def test_a_box_of_stored_pixels_that_are_not_square_is_where_its_spot_is(tmp_path: Path, params: Params) -> None:
    """Stored 60 x 40 pixels with rows twice as far apart show 60 x 80; the square has the rows 5 to 35 as stored."""
    pytest.importorskip("pydicom")
    from tests.images.test_dicom import dicom

    values = np.full((40, 60), 120, np.uint8)
    values[12:20, 30:42] = 250
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/t.dcm").write_bytes(dicom(values, PixelSpacing=[2, 1]))
    crop = params.crop.model_copy(update={"side": 30, "border": False, "min_side": 1})
    # x halves: 15 to 21. y: (12 - 5) and (20 - 5) of 30 stored rows, which fill the 30 of the crop.
    boxes = [(30, 12, 12, 8), (0, 0, 60, 4)]
    assert place(tmp_path, params, crop, "t.dcm", (60, 40), boxes) == {"t.dcm": [(15, 7, 21, 15)]}
    square = crop_file((tmp_path / "raw/t.dcm").read_bytes(), crop, None).square
    bright = np.argwhere(square > 185)
    assert [*bright.min(0), *(bright.max(0) + 1)] == [7, 15, 15, 21]
    with pytest.raises(InputError, match=r"not inside its image of 60 x 40 pixels"):
        place(tmp_path, params, crop, "t.dcm", (60, 40), [(0, 39, 10, 5)])


def test_a_table_of_boxes_from_a_spreadsheet_is_read(tmp_path: Path) -> None:
    text = "path;x;y;width;height\r\n\r\na/1.png;0;1.5;10;20\r\na/1.png;1,5;0;5;5\r\n"
    (tmp_path / "boxes.csv").write_bytes(text.encode("utf-16"))
    with pytest.raises(InputError, match=r"boxes\.csv: line 4: x is '1,5', expected a number of pixels"):
        read_boxes(tmp_path / "boxes.csv", IMAGES, NONE)
    (tmp_path / "boxes.csv").write_bytes(text.replace("1,5", "1").encode("utf-16"))
    assert read_boxes(tmp_path / "boxes.csv", IMAGES, NONE)["y"].tolist() == [1.5, 0]
    with pytest.raises(InputError, match=r"boxes\.csv: line 1 is not a header \('Lesions'\); line 2 has the columns"):
        read(tmp_path, "a/1.png,0,0,5,5\n", "Lesions\n" + HEADER)
