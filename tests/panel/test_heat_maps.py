"""The file of the maps, and how maps are drawn over pictures."""

import numpy as np
import pytest

from tests.panel.test_examples import table
from tumorboard.base.errors import InputError
from tumorboard.panel.examples import choose_examples
from tumorboard.panel.heat_maps import ExplainedExamples, draw_maps, read_explained, write_explained

EXAMPLES = choose_examples(table([("x", "p1", "a", 0.02), ("y", "p2", "b", 0.3)]))
N = len(EXAMPLES)


def maps(value):
    return np.full((N, 4, 4), value, np.float32)


def test_maps_are_read_back_to_one_of_256_levels(tmp_path):
    # A model may be called "vote": its map is not the panel's.
    written = ExplainedExamples(EXAMPLES, {"cnn": maps(0.3), "vote": maps(1.0)}, maps(0.65))
    write_explained(written, tmp_path)
    read = read_explained(tmp_path)
    assert read.examples["id"].tolist() == EXAMPLES["id"].tolist()
    assert read.examples["probability"].tolist() == pytest.approx(EXAMPLES["probability"].tolist())
    assert list(read.members) == ["cnn", "vote"]
    assert read.members["cnn"] == pytest.approx(0.3, abs=0.5 / 255)
    assert read.members["vote"] == pytest.approx(1.0)
    assert read.vote == pytest.approx(0.65, abs=0.5 / 255)


def test_models_are_read_in_the_order_of_their_names(tmp_path):
    """safetensors has another order in each process."""
    names = [f"m{number}" for number in range(20)]
    write_explained(ExplainedExamples(EXAMPLES, {name: maps(0.3) for name in names[::-1]}, None), tmp_path)
    assert list(read_explained(tmp_path).members) == sorted(names)


def test_a_panel_without_maps_and_a_part_without_images_are_read_back(tmp_path):
    write_explained(ExplainedExamples(EXAMPLES[:0], {}, None), tmp_path)
    read = read_explained(tmp_path)
    assert (len(read.examples), read.members, read.vote) == (0, {}, None)


def test_missing_damaged_and_foreign_files_are_named(tmp_path):
    with pytest.raises(InputError, match=r"examples\.csv"):
        read_explained(tmp_path)
    write_explained(ExplainedExamples(EXAMPLES, {"cnn": maps(0.3)}, maps(0.3)), tmp_path)
    (tmp_path / "examples.csv").write_text("kind,id,label,decided,probability\nmistake,x,a,b,0.9\n")
    with pytest.raises(InputError, match=r"has no map per row of examples\.csv: run `dvc repro explain`"):
        read_explained(tmp_path)
    (tmp_path / "examples.csv").write_text("id\nx\n")
    with pytest.raises(InputError, match="columns are"):
        read_explained(tmp_path)
    write_explained(ExplainedExamples(EXAMPLES, {"cnn": maps(0.3)}, maps(0.3)), tmp_path)
    (tmp_path / "maps.safetensors").write_bytes(b"no tensors")
    with pytest.raises(InputError, match=r"maps\.safetensors: is damaged"):
        read_explained(tmp_path)
    (tmp_path / "maps.safetensors").unlink()
    with pytest.raises(InputError, match=r"maps\.safetensors: is not there"):
        read_explained(tmp_path)


def test_a_warm_place_is_seen_on_white_and_on_black():
    """And a place without evidence is the picture in grey."""
    crops = np.zeros((1, 2, 2, 3), np.uint8)
    crops[0, :, 0] = 255
    crops[0, 0] = np.where(crops[0, 0] == 255, 255, [200, 40, 40])  # a red place without evidence
    one = np.array([[[0, 0], [1, 1]]], np.float32)
    drawn = draw_maps(crops, one).astype(int)
    assert drawn[0, 0, 0].tolist() == [255, 255, 255]
    assert len(set(drawn[0, 0, 1].tolist())) == 1
    for place in (drawn[0, 1, 0], drawn[0, 1, 1]):
        assert place[0] > place[2] + 80, "red over blue: warm"
