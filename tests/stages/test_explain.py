"""The stage explain on untrained networks: its files, noise in the test part, a part that is not scored, boxes."""

import json

import cv2
import numpy as np
import pandas as pd
import pytest

from stages import explain
from tests.panel.models import save_untrained
from tests.panel.statistics import made_up_statistics
from tumorboard.base.errors import InputError
from tumorboard.base.files import write_table
from tumorboard.base.tables import make_predictions
from tumorboard.data.store import write_store
from tumorboard.models.model_file import load_model
from tumorboard.panel.filters import read_filters
from tumorboard.panel.fitted import Fit
from tumorboard.panel.heat_maps import read_explained
from tumorboard.panel.panel_file import write_panel
from tumorboard.panel.unlike import save_unlike

CLASSES = ("a", "b")
MODELS = ("linear", "cnn")
DIGEST = "0" * 16  # of the models of `save_untrained`


@pytest.fixture
def settings(params, tmp_path):
    data = params.data.model_copy(update={"raw": str(tmp_path / "raw"), "boxes": None})
    crop = params.crop.model_copy(update={"border": False})
    return params.model_copy(update={"models": MODELS, "folds": (0, 1), "data": data, "crop": crop})


def write(folder, settings, *, tests=6, noise=0):
    """Writes 12 validation and some test images, models and predictions; `noise` is the seed of the test part."""
    ids = [f"v{number:02d}.png" for number in range(12)] + [f"t{number:02d}.png" for number in range(tests)]
    rows = pd.DataFrame({"id": ids, "path": ids, "label": [CLASSES[number % 2] for number in range(len(ids))]})
    rows["group"] = [name[:3] for name in ids]
    rows["split"] = ["train"] * 12 + ["test"] * tests
    rows["fold"] = pd.array([number % 2 for number in range(12)] + [None] * tests, dtype="Int64")
    rows["source_id"] = rows["sha256"] = ids
    crops = np.random.default_rng(0).integers(0, 255, (len(ids), 32, 32, 3), dtype=np.uint8)
    if tests:
        crops[12:] = np.random.default_rng(noise).integers(0, 255, (tests, 32, 32, 3), dtype=np.uint8)
    (folder / "raw").mkdir(parents=True, exist_ok=True)
    for name, crop in zip(ids, crops, strict=True):
        cv2.imwrite(str(folder / "raw" / name), crop[..., ::-1])
    write_store(folder / "crop/store", ids, crops, 2)
    write_table(rows, folder / "manifest.csv")
    write_table(rows[["id"]].assign(width=32, height=32), folder / "crop/images.csv")
    write_table(pd.DataFrame({"path": [], "reason": [], "detail": []}), folder / "crop/quarantined.csv")
    for seed, (name, fold) in enumerate([(name, fold) for name in MODELS for fold in (0, 1)]):
        file = save_untrained(folder, settings, name, fold, seed, classes=CLASSES)
        features = load_model(file, "cpu")[0].head.in_features
        save_unlike(made_up_statistics(features), folder / f"unlike/{name}/{fold}.safetensors")
    fit = Fit(
        vote="soft", temperatures=dict.fromkeys(MODELS, 1.0), weights=dict.fromkeys(MODELS, 0.5), vote_temperatures={}
    )
    write_panel(folder / "panel.json", fit, classes=CLASSES, manifest=DIGEST, positive=None)
    for part, chosen, seed in (("votes", rows[:12].assign(split="val"), 5), ("test/votes", rows[12:], noise)):
        probabilities = np.random.default_rng(seed).dirichlet([1, 1], len(chosen))
        write_table(make_predictions(chosen, probabilities, CLASSES, DIGEST), folder / part / "heading.csv")


def run(folder, settings):
    explain.main(
        settings,
        models=folder / "models",
        panel=folder / "panel.json",
        crop=folder / "crop",
        store=folder / "crop/store",
        manifest=folder / "manifest.csv",
        unlike=folder / "unlike",
        votes=folder / "votes",
        test_votes=folder / "test/votes",
        out=folder / "out/maps",
        test_out=folder / "out/test/maps",
        filters=folder / "out/filters.safetensors",
        places=folder / "out/places.json",
        test_places=folder / "out/test/places.json",
    )
    files = (folder / "out").rglob("*.*")
    return {file.relative_to(folder / "out").as_posix(): file.read_bytes() for file in files}


def test_it_writes_maps_of_the_models_that_have_one_and_the_filters_of_all(tmp_path, settings):
    write(tmp_path, settings)
    run(tmp_path, settings)
    for part, prefix in (("maps", "v"), ("test/maps", "t")):
        explained = read_explained(tmp_path / "out" / part)
        assert set(explained.members) == {"cnn"}
        assert explained.vote == pytest.approx(explained.members["cnn"])
        assert explained.members["cnn"].shape == (len(explained.examples), 32, 32)
        assert {name[0] for name in explained.examples["id"]} == {prefix}
    assert list(read_filters(tmp_path / "out/filters.safetensors", MODELS)) == ["linear", "cnn"]
    assert json.loads((tmp_path / "out/places.json").read_text()) == {}


def test_noise_in_the_test_part_changes_only_the_files_of_the_test_part(tmp_path, settings):
    write(tmp_path, settings)
    (tmp_path / "raw/boxes.csv").write_text("path,x,y,width,height\nv00.png,2,2,9,9\nt00.png,2,2,9,9\n")
    boxed = settings.model_copy(update={"data": settings.data.model_copy(update={"boxes": "boxes.csv"})})
    before = run(tmp_path, boxed)
    write(tmp_path, settings, noise=7)
    after = run(tmp_path, boxed)
    changed = {name for name in before if before[name] != after[name]}
    assert {"test/maps/examples.csv", "test/maps/maps.safetensors"} <= changed
    assert all(name.startswith("test/") for name in changed)
    assert set(before) == set(after)


def test_a_test_part_that_is_not_scored_has_files_without_images(tmp_path, settings):
    write(tmp_path, settings, tests=0)
    run(tmp_path, settings)
    explained = read_explained(tmp_path / "out/test/maps")
    assert len(explained.examples) == 0
    assert explained.members["cnn"].shape == (0, 32, 32)
    assert json.loads((tmp_path / "out/test/places.json").read_text()) == {}


def test_boxes_are_scored_by_part_and_a_wrong_row_writes_nothing(tmp_path, settings):
    write(tmp_path, settings)
    data = settings.data.model_copy(update={"boxes": "boxes.csv"})
    settings = settings.model_copy(update={"data": data})
    rows = [f"v{number:02d}.png,0,0,32,32" for number in range(3)] + ["t00.png,4,4,8,8", "t01.png,4,4,8,8"]
    (tmp_path / "raw/boxes.csv").write_text("\n".join(["path,x,y,width,height", *rows]))
    run(tmp_path, settings)
    places = json.loads((tmp_path / "out/places.json").read_text())
    assert (places["images"], list(places["maps"])) == (3, ["center", "cnn", "vote"])
    # Each box is the whole image. Maps of untrained networks may be without any evidence, and then point nowhere.
    assert places["maps"]["center"]["pointing"] == 1
    shown = read_explained(tmp_path / "out/maps")
    assert (places["maps"]["vote"]["pointing"] > 0) == (shown.vote.max() > 0)
    assert json.loads((tmp_path / "out/test/places.json").read_text())["images"] == 2
    (tmp_path / "raw/boxes.csv").write_text("path,x,y,width,height\nv00.png,0,0,33.5,32\n")
    other = tmp_path / "other"
    write(other, settings)
    (other / "raw").rename(other / "unused")
    with pytest.raises(InputError, match=r"boxes\.csv: line 2: the box"):
        run(other, settings)
    assert not (other / "out").exists()


def test_what_a_run_reads_is_listed(settings, tmp_path):
    files = explain._inputs(settings, {"models": tmp_path / "models", "crop": tmp_path / "crop"})
    names = [file.relative_to(tmp_path).as_posix() for file in files]
    models = [f"models/{name}/{fold}.safetensors" for name in MODELS for fold in (0, 1)]
    assert names == [*models, "crop/images.csv", "crop/quarantined.csv", "raw"]
