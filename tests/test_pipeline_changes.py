"""What DVC runs again after a change, in a copy of a project that has run; each test builds on the ones before it."""

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.pipeline import Project, ran


@pytest.fixture(scope="module")
def project(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project.copy_of(finished, tmp_path_factory.mktemp("changes"))


def test_an_added_model_runs_only_that_model_and_what_depends_on_it(finished: Path) -> None:
    log = (finished / "added.log").read_text(encoding="utf-8")
    assert ran(log) == {"recipe", "train@cnn-0", "evaluate@cnn-0", "ensemble", "explain", "report"}


def test_a_removed_model_leaves_the_panel_and_its_predictions_go(project: Project) -> None:
    """Another one with a recipe of its own comes at the same time."""
    log = project("dvc", "exp", "run", "-S", "models=[cnn,cnn3]", "-S", "++recipes.cnn3.epochs=1")
    assert ran(log) == {"recipe", "train@cnn3-0", "evaluate@cnn3-0", "ensemble", "explain", "report"}
    for folder in ("members", "test/members", "held_out", "unlike"):
        assert not list((project.folder / "predictions" / folder / "linear").glob("*"))
    project.undo()


def test_another_side_of_the_crops_is_cropped_again_and_not_taken_from_the_cache(project: Project) -> None:
    project.write_params({"crop": {"side": 24}}, ["linear", "cnn"])
    assert {"crop", "split", "balance@0"} <= ran(project("dvc", "repro", "balance"))
    project.undo()


def test_weights_under_dvc_stay_out_of_git_and_are_a_dependency_of_the_recipes(project: Project) -> None:
    file = project.folder / "weights/start.safetensors"
    file.write_bytes(b"weights")
    project("dvc", "add", "weights/start.safetensors")
    assert project("git", "status", "--short").split() == ["A", "weights/start.safetensors.dvc"]
    assert "weights/start.safetensors.dvc" in project("dvc", "dag", "recipe")
    project("git", "reset", "--hard", "--quiet")
    file.unlink()


def test_an_added_image_costs_one_decode(project: Project) -> None:
    source = project.folder / "mine"
    shutil.copytree(project.folder / "data/phantom", source)
    project.write_params({"data": {"raw": "mine"}}, ["linear"])
    project("dvc", "repro", "split")
    first = next((source / "blast").glob("*.jpg"))
    (source / "blast" / "P99_001.jpg").write_bytes(first.read_bytes() + b"\0")
    with (source / "labels.csv").open("a", encoding="utf-8") as table:
        table.write("blast/P99_001.jpg,blast,P99,north\n")
    assert re.search(r"\b1 decoded", project("dvc", "repro", "split"))


# What describes all images, those of the test part among them.
DESCRIPTIONS = {
    *("metrics/crop.json", "metrics/split.json", "metrics/audit.json"),
    *("plots/images/data.png", "plots/images/duplicates.png"),
}


def owing_nothing_to_the_test_part(project: Project) -> dict[str, bytes]:
    """Returns the files of models, predictions, scores and charts, but for those of test images and for timings."""
    files = {}
    for folder in ("data/balance", "recipes", "models", "training", "predictions", "metrics", "plots"):
        for path in sorted((project.folder / folder).rglob("*")):
            name = path.relative_to(project.folder).as_posix()
            described = name in DESCRIPTIONS
            timed = "/dvclive" in name or path.name == "timings.json"
            if path.is_file() and not path.name.startswith(".") and not (described or timed or "/test" in name):
                files[name] = path.read_bytes()
    return files


@pytest.mark.slow
def test_noise_in_the_place_of_the_test_part_changes_nothing_that_choices_are_made_by(project: Project) -> None:
    """Other images and other labels: models, validation predictions, the panel and every validation score stay."""
    source = project.folder / "given"
    shutil.copytree(project.folder / "data/phantom", source)
    table = pd.read_csv(source / "labels.csv", dtype=str)
    patients = table["group"].drop_duplicates().tolist()
    test = table["group"].isin(patients[::5])
    table.assign(split=np.where(test, "test", "train")).to_csv(source / "labels.csv", index=False)
    project("git", "checkout", "--quiet", "params.yaml")
    # The phantom repeats pictures; a copy of a test image would leave the training part, and come back.
    project.write_params({"data": {"raw": "given"}, "audit": {"policy": "report"}}, ["linear", "cnn"])
    project("dvc", "repro")
    before, scores = owing_nothing_to_the_test_part(project), project.metrics("test/ensemble.json")
    assert {"models/panel.json", "models/cnn/0.safetensors", "metrics/votes.json", "plots/scores.csv"} <= set(before)
    assert {"predictions/held_out/cnn/0.safetensors", "predictions/votes/heading.csv"} <= set(before)
    random = np.random.default_rng(0)
    for path in table["path"][test]:
        Image.fromarray(random.integers(0, 256, (96, 96, 3), dtype=np.uint8)).save(source / path, quality=95)
    table.loc[test, "label"] = random.permutation(table["label"][test])
    table.assign(split=np.where(test, "test", "train")).to_csv(source / "labels.csv", index=False)
    project("dvc", "repro")
    after = owing_nothing_to_the_test_part(project)
    assert [name for name in {*before, *after} if before.get(name) != after.get(name)] == []
    assert project.metrics("test/ensemble.json") != scores


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("train", "loss", "crossentropy", "train.loss: is 'crossentropy'"),
        ("data", "raw", "nowhere", "nowhere"),
    ],
)
def test_a_users_error_is_one_message_and_a_failed_run(
    project: Project, section: str, key: str, value: str, message: str
) -> None:
    project("git", "checkout", "--quiet", "params.yaml")
    project.write_params({section: {key: value}}, ["linear", "cnn"])
    log = project("dvc", "repro", fails=True)
    assert message in log
    assert "Traceback" not in log
