"""The report's heat maps, filters and table of places: which models, captions, and what there is no map of."""

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from tests.report.finished_run import conclusions_of
from tests.report.sheets import pictures_of
from tests.report.test_page import PICTURES, text_of
from tumorboard.panel.filters import FirstLayer
from tumorboard.report.explained import Explained, _captions, decide_rows, draw_explained, draw_filters, to_webp
from tumorboard.report.page import render_page


@pytest.fixture(scope="module")
def explained(results):
    return draw_explained(results)


def page_of(results, explained):
    pictures = dict.fromkeys(PICTURES, b"picture")
    return render_page(results, conclusions_of(results), pictures, pictures, explained=explained)


def test_each_part_has_a_sheet_per_kind_with_the_models_that_have_a_map(results, explained):
    titles = ["The most confident mistakes", "The least certain images", "Typical right ones of each class"]
    assert [(sheet.part, sheet.title) for sheet in explained.sheets] == [
        (part, title) for part in ("test", "validation") for title in titles
    ]
    assert (explained.with_map, explained.without_map) == (["cnn"], ["linear"])
    for sheet in explained.sheets:
        picture = Image.open(io.BytesIO(sheet.picture))
        assert (picture.format, picture.width) == ("WEBP", 1210)
    ids = set(results.manifest["id"][results.manifest["split"] == "test"])
    assert all((set(sheet.examples["id"]) <= ids) == (sheet.part == "test") for sheet in explained.sheets)


def test_captions_have_the_label_and_each_models_own_class_and_probability(results):
    part = results.validation
    explained = results.explained["validation"]
    examples = explained.examples[explained.examples["kind"] == "mistake"]
    texts = {name: f"T{number}" for number, name in enumerate(sorted(results.validation.heading["label"].unique()))}
    captions = _captions(examples, {"cnn": part.members["cnn"], "vote": part.heading}, texts)
    for row, (label, member, vote) in zip(examples.to_dict("records"), captions, strict=True):
        assert label == f"label\n{texts[row['label']]}"
        assert vote == f"vote\n✗ {row['probability']:.2f} {texts[row['decided']]}"
        table = part.members["cnn"].set_index("id").loc[row["id"]]
        by_class = {name: table[f"p_{name}"] for name in texts}
        best = max(by_class, key=by_class.get)
        mark = "" if best == row["label"] else "✗ "
        assert member == f"cnn\n{mark}{by_class[best]:.2f} {texts[best]}"


def test_rows_are_found_by_id(results):
    table = results.validation.heading
    ids = table["id"].tolist()[5:2:-1]
    decided, probabilities = decide_rows(table, ids)
    columns = [name for name in table if name.startswith("p_")]
    for name, one, probability in zip(ids, decided, probabilities, strict=True):
        row = table[table["id"] == name][columns].iloc[0]
        assert (f"p_{one}", probability) == (row.idxmax(), row.max())


def test_the_page_has_the_sheets_and_says_what_has_no_map(results, explained):
    page = page_of(results, explained)
    text = text_of(page)
    assert "Heat maps (Grad-CAM) of cnn and of the vote" in text
    assert "linear: no layer keeps the places of the image, so there is no map." in text
    assert page.count("data:image/webp") == len(explained.sheets) + 1
    assert "The change of the whole layer has 25.0 % of the norm of its initial weights." in text
    order = [text.index(f"The most confident mistakes, {part} images") for part in ("test", "validation")]
    assert order == sorted(order)
    assert "Do the maps find the boxes?" not in text


def test_a_panel_without_maps_says_so(results):
    nothing = {name: dataclasses.replace(one, members={}, vote=None) for name, one in results.explained.items()}
    none = dataclasses.replace(results, explained=nothing, filters={})
    explained = draw_explained(none)
    assert explained == Explained([], [], ["linear", "cnn"], {}, [])
    text = text_of(page_of(none, explained))
    assert "No member of this panel has a layer that keeps the places of the image" in text
    assert "First layers" not in text


def test_a_vote_without_a_map_leaves_the_members(results):
    without = {name: dataclasses.replace(one, vote=None) for name, one in results.explained.items()}
    assert draw_explained(dataclasses.replace(results, explained=without)).with_map == ["cnn"]


def test_the_table_of_places_has_gains_and_their_ends(results):
    center = {"pointing": 0.25, "pointing_low": 0.1, "pointing_high": 0.4, "pointing_method": "Korn-Graubard"}
    center |= {"iou": 0.3, "iou_low": None, "iou_high": None, "iou_method": "too few patients for an interval (3)"}
    gains = {"pointing_gain": 0.5, "pointing_gain_low": 0.2, "pointing_gain_high": 0.8, "pointing_gain_p": 0.012}
    gains |= {f"iou_gain{end}": None for end in ("_low", "_high", "_p")} | {"iou_gain": -0.05}
    places = {"images": 1234, "groups": 8, "boxes": 1300, "outside": 7, "maps": {"center": center}}
    places["maps"]["cnn"] = center | gains | {"pointing": 0.75}
    text = text_of(page_of(results, Explained([], ["cnn"], [], {"test": places}, [])))
    assert "Do the maps find the boxes? Test images" in text
    assert "cnn 0.75 0.10 to 0.40 +0.50 (+0.20 to +0.80) 0.012 0.30 too few patients: 3 -0.05" in text
    assert "1,234 images of 8 patients with 1,300 boxes ( data.boxes ); the boxes of 7 more lie outside" in text
    assert "center 0.25 0.10 to 0.40 0.30 too few patients: 3" in text


def test_filters_are_drawn_on_one_scale_beside_their_change():
    """The change fills its scale; grey is 0; a filter that is no square leaves white."""
    before = np.zeros((2, 3, 1, 3), np.float32)
    after = before.copy()
    after[0, 0, 0] = [0.5, -0.5, 0]
    figure = draw_filters(FirstLayer(after, before, np.array([1.0], np.float32)))
    images = pictures_of(figure, 2)
    assert len(images) == 6
    side = images[0].shape[0]
    assert images[0][side // 2, 0].tolist() == [128, 128, 128]
    assert images[2][0, 0].tolist() == [255, 0, 128]
    assert images[0][0, -1].tolist() == [255, 255, 255]
    only = draw_filters(FirstLayer(after, before[:0], np.array([np.nan], np.float32)))
    assert len(pictures_of(only, 2)) == 2
    assert to_webp(figure) == to_webp(figure)
