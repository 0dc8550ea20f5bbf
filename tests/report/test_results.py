import dataclasses
import json
from pathlib import Path

import pandas as pd
import pytest

from tests.report.finished_run import GROUPS, IMAGES_PER_GROUP, inputs_of, record_looks
from tumorboard.base.errors import InputError
from tumorboard.base.tables import read_predictions
from tumorboard.panel.comparison import HEADING, UNCALIBRATED
from tumorboard.panel.votes import POOLS
from tumorboard.report.results import read_results

FILES = [
    "split/manifest.csv",
    "split/counts.csv",
    "split/duplicates.csv",
    "split/shortcuts.csv",
    "split/quarantined.csv",
    "crop/quarantined.csv",
    "crop/images.csv",
    "crop/attributes.csv",
    "recipes/cnn.json",
    "training/cnn/1/history.csv",
    "training/cnn/1/timings.json",
    "models/panel.json",
    "predictions/joined/cnn.csv",
    "predictions/votes/hard.csv",
    "predictions/votes/heading.csv",
    "predictions/test/joined/linear.csv",
    "predictions/test/votes/uncalibrated.csv",
    "metrics/split.json",
    "metrics/audit.json",
    "metrics/votes.json",
    "metrics/test/votes.json",
    "metrics/evaluate/cnn/1.json",
]


def test_results_are_read_per_model_and_fold(run, results, panel):
    for part in (results.validation, results.test):
        assert list(part.members) == list(results.recipes) == ["linear", "cnn"]
        assert list(part.votes) == [*POOLS, HEADING, UNCALIBRATED]
    for model in panel.models:
        for fold in panel.folds:
            folder = run / "training" / model / str(fold)
            history = pd.read_csv(folder / "history.csv", dtype=object)
            pd.testing.assert_frame_equal(results.histories[model][fold], history)
            assert results.timings[model][fold] == {"seconds": 61.5 + 2 * fold, "images_per_second": 321.5 + 10 * fold}
            evaluation = json.loads((run / "metrics" / "evaluate" / model / f"{fold}.json").read_text())
            assert results.evaluations[model][fold] == evaluation


def test_files_that_crop_and_the_audit_quarantined_are_both_there(results):
    assert results.quarantined["path"].tolist() == ["bad & ugly.jpg", "<two>.jpg"]


def test_crops_are_loaded_by_id(results):
    ids = results.manifest["id"].tolist()
    first, last = results.load_crops([ids[0]]), results.load_crops([ids[-1]])
    both = results.load_crops([ids[-1], ids[0]])
    assert both.shape == (2, 16, 16, 3)
    assert (both[0] == last[0]).all()
    assert (both[1] == first[0]).all()


def test_each_part_has_the_predictions_of_members_and_of_the_heading_vote(run, results):
    """Of 30 groups of three images 12 are test groups; the other 18 are validated in one of two folds."""
    for part, folder, split, groups in (
        (results.test, "predictions/test", "test", 12),
        (results.validation, "predictions", "val", 18),
    ):
        assert list(part.predictions) == ["linear", "cnn", "soft vote"]
        for table in part.predictions.values():
            assert set(table["split"]) == {split}
            assert len(table) == groups * IMAGES_PER_GROUP
        pd.testing.assert_frame_equal(
            part.predictions["soft vote"], read_predictions(run / folder / "votes/heading.csv")
        )
        assert list(part.calibrated_and_not) == ["soft vote, uncalibrated", "soft vote"]
        pd.testing.assert_frame_equal(
            part.calibrated_and_not["soft vote, uncalibrated"],
            read_predictions(run / folder / "votes/uncalibrated.csv"),
        )
        assert list(dataclasses.replace(part, vote="stacking").calibrated_and_not) == ["stacking vote"]
        assert dataclasses.replace(part, vote="hard").calibrated_and_not == {}
        assert list(part.listed_votes) == list(POOLS)
        assert part.headline is part.scores["votes"]["heading"]
    assert results.shown is results.test
    assert len(results.manifest) == GROUPS * IMAGES_PER_GROUP


def test_a_test_part_that_is_not_scored_leaves_validation_as_the_shown_part(judged):
    results = judged(changes={"evaluate": {"test": False}})
    assert results.test is None
    assert results.shown is results.validation
    assert results.looks == 0


def test_looks_are_those_of_the_ledger(run, panel, tmp_path):
    assert read_results(panel, **inputs_of(run)).looks == 4, "two models of two folds, in a clone without a ledger"
    paths = inputs_of(run) | {"ledger": inputs_of(tmp_path)["ledger"]}
    manifest = read_results(panel, **paths).manifest
    record_looks(tmp_path, manifest, 7)
    assert read_results(panel, **paths).looks == 7


def test_a_study_without_a_name_has_that_of_its_folder(run, panel, monkeypatch, tmp_path):
    folder = tmp_path / "a folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    results = read_results(panel.model_copy(update={"study": None}), **inputs_of(run))
    assert results.study == "a folder"
    assert results.run.endswith("UTC, not in a git repository")


@pytest.mark.parametrize(("unit", "units"), [("smear", "smears"), (None, "groups")])
def test_a_group_is_named_by_its_unit(run, panel, unit, units):
    data = panel.data.model_copy(update={"unit": unit})
    assert read_results(panel.model_copy(update={"data": data}), **inputs_of(run)).units == units


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(run: Path, panel, name):
    path = run / name
    hidden = path.with_name("hidden")
    path.rename(hidden)
    try:
        with pytest.raises(InputError, match=name.replace(".", r"\.")):
            read_results(panel, **inputs_of(run))
    finally:
        hidden.rename(path)


@pytest.mark.parametrize("table", ["joined/cnn.csv", "votes/heading.csv", "test/joined/linear.csv"])
def test_predictions_of_another_split_are_refused(run, panel, table):
    file = run / "predictions" / table
    text = file.read_text(encoding="utf-8")
    digest = pd.read_csv(file, dtype=object)["manifest"][0]
    try:
        file.write_text(text.replace(digest, "0" * len(digest)), encoding="utf-8")
        with pytest.raises(InputError, match=r"are of another split than .*split: run `dvc repro`"):
            read_results(panel, **inputs_of(run))
    finally:
        file.write_text(text, encoding="utf-8")
