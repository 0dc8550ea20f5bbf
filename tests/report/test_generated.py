"""Generated training images on the report's page, beside the training images that they resemble most."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.report.finished_run import NOTHING_EXPLAINED
from tests.report.sheets import pictures_of, show
from tests.report.test_page import PICTURES, render, text_of
from tumorboard.base.files import write_table
from tumorboard.data.store import write_store
from tumorboard.report.conclusions import draw_conclusions
from tumorboard.report.generated import Generated, count_alike, draw_generated, read_generated
from tumorboard.report.page import render_page

SIDE = 4
COLUMNS = ["id", "label", "nearest", "nearest_label", "turns", "mirrored", "correlation", "detail"]


def table_of(labels: list[str], details: list[float]) -> pd.DataFrame:
    """Returns rows with ids a//g1, a//g2 … per class, whose nearest images are t0, t1, … of class a."""
    rows = pd.DataFrame({"label": labels, "detail": details, "correlation": 0.9, "nearest_label": "a"})
    rows["id"] = [f"{label}//g{labels[: n + 1].count(label)}" for n, label in enumerate(labels)]
    rows["nearest"] = [f"t{n}" for n in range(len(rows))]
    return rows.assign(turns=[n % 4 for n in range(len(rows))], mirrored=[n % 2 == 1 for n in range(len(rows))])[
        COLUMNS
    ]


def crops_of(ids: list[str]) -> dict[str, np.ndarray]:
    """Returns crops of noise, which differ in every position."""
    generator = np.random.default_rng(0)
    return {name: generator.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8) for name in ids}


def generated_of(table: pd.DataFrame) -> Generated:
    crops = crops_of([*table["id"], *table["nearest"]])
    return Generated(2, table, lambda ids: np.stack([crops[name] for name in ids]))


def test_each_class_has_its_first_images_and_those_most_alike_beside_their_neighbors() -> None:
    table = table_of(["a"] * 8 + ["b"] * 2, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.96, 0.2, 0.98])
    generated = generated_of(table)
    crops = crops_of([*table["id"], *table["nearest"]])
    figure = draw_generated(generated, {"a": "A", "b": "B"})
    drawn = pictures_of(figure, 12)
    texts = [text.get_text() for text in figure.texts]
    assert len(drawn) == len(texts) == 4 * 12
    alike = [7, 6, 5, 4, 3, 2]
    for row, numbers in enumerate([[0, 1, 2, 3, 4, 5], alike, [8, 9], [9, 8]]):
        for place, number in enumerate(numbers):
            left, right = 12 * row + 2 * place, 12 * row + 2 * place + 1
            entry = table.iloc[number]
            assert show(crops[entry["id"]], drawn[left])
            picture = crops[entry["nearest"]]
            picture = picture[:, ::-1] if entry["mirrored"] else picture
            assert show(np.rot90(picture, entry["turns"]), drawn[right])
            assert texts[right] == f"{entry['detail']:.2f}" + ("\nA" if entry["label"] == "b" else "")
        assert texts[12 * row] == f"{'AABB'[row]}\n{['generated', 'most alike'][row % 2]}"
    assert (drawn[-1] == 255).all(), "a class with fewer images leaves white places"


def test_the_table_and_the_crops_of_a_fold_are_read(tmp_path: Path) -> None:
    table = table_of(["a", "a"], [0.5, 0.96])
    crops = crops_of([*table["id"], *table["nearest"]])
    for folder, column in ((tmp_path / "balance" / "3" / "store", "id"), (tmp_path / "store", "nearest")):
        write_store(folder, table[column].tolist(), np.stack([crops[name] for name in table[column]]), 2)
    assert read_generated(tmp_path / "balance", tmp_path / "store", [3, 0]) is None
    write_table(table, tmp_path / "balance" / "3" / "generated.csv")
    generated = read_generated(tmp_path / "balance", tmp_path / "store", [3, 0])
    assert generated is not None
    assert generated.fold == 3
    assert generated.table[COLUMNS].to_numpy().tolist() == table.to_numpy().tolist()
    np.testing.assert_array_equal(generated.load_crops(["t1", "a//g1"]), np.stack([crops["t1"], crops["a//g1"]]))
    assert [count_alike(generated, near) for near in (0.96, 0.97, 0.5, None)] == [1, 0, 2, 0]


@pytest.mark.parametrize(("near", "sentence"), [(0.96, "1 of them nearly equal a training image"), (None, "")])
def test_the_page_shows_generated_images_where_there_are_any(results, near: float | None, sentence: str) -> None:
    assert results.generated is None
    assert "Generated training images" not in text_of(render(results))
    label = results.manifest["label"].iloc[0]
    table = table_of(["a", "a"], [0.5, 0.97]).assign(label=label, nearest_label=label)
    changed = dataclasses.replace(results, generated=generated_of(table), near=near)
    pictures = dict.fromkeys([*PICTURES, "generated"], b"picture")
    page = render_page(changed, draw_conclusions(changed), pictures, pictures, explained=NOTHING_EXPLAINED)
    text = text_of(page)
    assert "2 images of the smaller classes were drawn by a network that was fitted" in text
    assert "training images of fold 2 alone" in text
    assert sentence in text
    assert ("nearly equal" in text) == bool(sentence)
    assert 'alt="Generated images and the training images nearest to them"' in page
