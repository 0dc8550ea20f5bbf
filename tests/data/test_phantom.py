"""The synthetic data set: its names, counts, bytes and duplicates, and that no shortcut predicts the label."""

import re
from collections import Counter
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from tumorboard.base.errors import InputError
from tumorboard.base.params import Params, Phantom, load_params
from tumorboard.data.phantom import SITES, TABLE, _draw_patient, draw_phantom, draw_picture, site_of
from tumorboard.data.sources import list_images
from tumorboard.images.crop import remove_border
from tumorboard.images.decode import decode

SET = Phantom(images=300, patients=20, side=96)
CROP = load_params(Path(__file__).parents[2] / "params.yaml").crop


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """The content of each file, the table too, by its path."""
    return dict(draw_phantom(SET, 0))


@pytest.fixture(scope="module")
def pictures(files) -> dict[str, bytes]:
    """The content of each picture by its path."""
    return {path: content for path, content in files.items() if path != TABLE}


@pytest.fixture(scope="module")
def table(files) -> pd.DataFrame:
    """The label table."""
    return pd.read_csv(BytesIO(files[TABLE]), dtype=str, keep_default_na=False)


@pytest.fixture(scope="module")
def pixels(pictures) -> dict[str, np.ndarray]:
    """The decoded picture uint8[H, W, 3] by its path."""
    return {path: decode(content, CROP, None)[0] for path, content in pictures.items()}


def patient(path: str) -> str:
    return re.search(r"(P\d+)_", path)[1]


def name(path: str) -> str:
    return path.split("/")[1]


def test_count_names_and_patients(pictures):
    assert len(pictures) == 300
    for path in pictures:
        assert re.fullmatch(r"(blast|normal)/P\d\d_\d{3}\.jpg", path)
    images = Counter(map(patient, pictures))
    assert sorted(images) == [f"P{number:02d}" for number in range(1, 21)]
    assert max(images.values()) > 2 * min(images.values())


def test_numbers_of_a_patient_are_consecutive(pictures):
    images = Counter(map(patient, pictures))
    expected = {f"{who}_{number:03d}.jpg" for who, count in images.items() for number in range(1, count + 1)}
    assert {name(path) for path in pictures} == expected


def test_the_table_is_the_last_file_and_has_the_class_patient_and_site_of_every_picture(files, pictures, table):
    assert list(files)[-1] == "labels.csv"
    assert list(table.columns) == ["path", "label", "group", "site"]
    assert table["path"].tolist() == list(pictures)
    assert table["label"].tolist() == [path.split("/")[0] for path in pictures]
    assert table["group"].tolist() == [patient(path) for path in pictures]
    # Of the 20 patients, the 3rd, 6th ... 18th.
    south = set(table["group"][table["site"] == "south"])
    assert south == {"P03", "P06", "P09", "P12", "P15", "P18"}
    assert set(table["group"][table["site"] == "north"]) == set(table["group"]) - south


def test_the_default_params_read_the_table_and_show_the_sites(files, params: Params, tmp_path: Path):
    for path, content in files.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(content if path == TABLE else b"")
    images, ignored = list_images(tmp_path, params.data)
    assert images["group"].tolist() == [patient(path) for path in images["path"]]
    assert len(images) == 300
    assert ignored.empty
    assert params.evaluate.subgroups == ("site",)


def test_a_site_has_its_own_stain_and_microscopes_but_no_class_of_its_own(pixels, table):
    sites = table.set_index("path")["site"]
    south = np.array([sites[path] == "south" for path in pixels])
    # Its nuclei, in the middle of the picture, absorb less green light.
    absorbed = [np.log(glass(image)[1] / cell(image)[1]) for image in pixels.values()]
    assert roc_auc_score(south, absorbed) < 0.3
    # Blasts are as frequent there, within three standard errors of means of 14 and 6 patients that vary by 0.12.
    blast = table["label"].eq("blast")
    shares = blast.groupby(table["site"]).mean()
    assert abs(shares["south"] - shares["north"]) < 0.2
    microscopes = {site: set(SITES[site].microscopes) for site in SITES}
    assert not microscopes["north"] & microscopes["south"]


def test_one_patient_in_seven_is_atypical_in_turn_towards_either_class_and_at_both_sites():
    patients = [_draw_patient(0, number) for number in range(1, 73)]
    maturity = np.array([person.maturity for person in patients])
    mature, reactive = np.flatnonzero(maturity > 0.5) + 1, np.flatnonzero(maturity < -0.5) + 1
    assert mature.tolist() == [7, 21, 35, 49, 63]
    assert reactive.tolist() == [14, 28, 42, 56, 70]
    assert {site_of(number) for number in mature} == {site_of(number) for number in reactive} == {"north", "south"}
    typical = maturity[np.abs(maturity) < 0.5]
    assert np.std(typical) == pytest.approx(0.1, rel=0.3)  # 62 draws: a standard error of 9 %


def cell(image: np.ndarray) -> np.ndarray:
    """The mean color of the middle of a picture."""
    height, width = image.shape[:2]
    return image[int(0.4 * height) : int(0.6 * height), int(0.4 * width) : int(0.6 * width)].mean((0, 1))


def glass(image: np.ndarray) -> np.ndarray:
    """The color of bare glass: bright in all channels."""
    return np.percentile(image, 97, axis=(0, 1))


def test_about_two_in_three_pictures_are_blasts(pictures):
    assert 0.57 < np.mean([path.startswith("blast/") for path in pictures]) < 0.73


def test_most_patients_have_both_classes(pictures):
    classes = Counter(who for who, _ in {(patient(path), path.split("/")[0]) for path in pictures})
    assert sum(count == 2 for count in classes.values()) >= 16


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others():
    few = SET.model_copy(update={"images": 40, "patients": 10})
    first = list(draw_phantom(few, 5))
    assert first == list(draw_phantom(few, 5))
    assert not {content for _, content in first} & {content for _, content in draw_phantom(few, 6)}


def test_a_larger_set_contains_the_pictures_of_a_smaller_one(pictures):
    for larger in (Phantom(images=90, patients=20, side=96), Phantom(images=90, patients=40, side=96)):
        other = dict(draw_phantom(larger, 0))
        common = other.keys() & pictures.keys()  # without the table
        assert len(common) > 30
        assert all(other[path] == pictures[path] for path in common)


def test_a_picture_does_not_depend_on_those_drawn_before(pictures):
    for path in ("P20_003.jpg", "P02_005.jpg"):
        label, content = draw_picture(96, 0, int(path[1:3]), int(path[4:7]))
        assert pictures[f"{label}/{path}"] == content


def test_about_one_in_a_hundred_is_an_exact_duplicate_of_the_same_patient_and_class(pictures):
    owners: dict[bytes, set[str]] = {}
    for path, content in pictures.items():
        owners.setdefault(content, set()).add(path.split("_")[0])
    assert all(len(owner) == 1 for owner in owners.values())
    assert 0.003 < 1 - len(owners) / len(pictures) < 0.03


def test_about_one_in_a_hundred_is_the_same_picture_saved_again(pictures, pixels):
    saved_again = 0
    for path, image in pixels.items():
        for other, twin in pixels.items():
            if other < path and patient(other) == patient(path) and image.shape == twin.shape:
                same = np.abs(image.astype(int) - twin).mean() < 4
                assert not same or other.split("/")[0] == path.split("/")[0]
                saved_again += same and pictures[path] != pictures[other]
    assert 0.003 < saved_again / len(pictures) < 0.03


def field(image: np.ndarray) -> np.ndarray:
    """The picture without its dark border."""
    return remove_border(image, 24, 0.02)


def test_fields_have_the_requested_size_and_borders_vary(pixels):
    sides = np.array([sorted(field(image).shape[:2]) for image in pixels.values()])
    # Shorter side 0.94 to 1.1, longer side 1.1 to 1.25 of the size; JPEG smears an edge by a few pixels.
    assert sides[:, 0].min() >= 0.94 * 96 - 1
    assert sides[:, 0].max() <= 1.1 * 96 + 4
    assert sides[:, 1].min() >= 1.1 * 96 - 1
    assert sides[:, 1].max() <= 1.25 * 96 + 4
    borders = [image.shape[0] - field(image).shape[0] for image in pixels.values()]
    assert np.std(borders) > 3
    assert max(borders) > 15


def test_a_larger_size_scales_the_same_picture():
    small, large = (field(decode(draw_picture(size, 0, 1, 1)[1], CROP, None)[0]) for size in (96, 192))
    np.testing.assert_allclose(np.array(large.shape[:2]) / small.shape[:2], 2, atol=0.06)
    # Halved in size, the larger picture equals the smaller one except for noise and texture.
    halved = cv2.resize(large, small.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert np.corrcoef(halved.ravel(), small.ravel())[0, 1] > 0.8


def test_the_comment_of_every_file_states_that_it_is_synthetic(pictures):
    assert all(b"synthetic" in Image.open(BytesIO(content)).info["comment"] for content in pictures.values())


def test_no_statistic_of_the_file_or_the_colors_predicts_the_label(pictures, pixels):
    blast = [path.startswith("blast/") for path in pictures]
    statistics = {
        "bytes": [len(content) for content in pictures.values()],
        "height": [image.shape[0] for image in pixels.values()],
        "width": [image.shape[1] for image in pixels.values()],
    }
    for channel, color in enumerate(("red", "green", "blue")):
        statistics[f"mean of {color}"] = [image[..., channel].mean() for image in pixels.values()]
        statistics[f"spread of {color}"] = [image[..., channel].std() for image in pixels.values()]
    scores = {name: roc_auc_score(blast, values) for name, values in statistics.items()}
    assert all(abs(scores[name] - 0.5) < 0.1 for name in ("bytes", "height", "width")), scores
    assert all(abs(score - 0.5) < 0.2 for score in scores.values()), scores


def test_more_patients_than_images_is_an_error():
    with pytest.raises(InputError, match=r"phantom\.patients is 41: expected at most phantom\.images, 40"):
        next(draw_phantom(Phantom(images=40, patients=41, side=96), 0))
