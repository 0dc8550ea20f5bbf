import json
from pathlib import Path

import pandas as pd
import pytest

from tests.report.finished_run import folders_of
from tumorboard.base.errors import InputError
from tumorboard.panel.votes import VOTES
from tumorboard.report.results import read_results, select_test

FILES = [
    "split/manifest.csv",
    "split/counts.csv",
    "split/duplicates.csv",
    "split/shortcuts.csv",
    "split/quarantined.csv",
    "crop/quarantined.csv",
    "recipes/cnn.json",
    "training/cnn/1/history.csv",
    "training/cnn/1/timings.json",
    "predictions/joined/cnn.csv",
    "predictions/votes/hard.csv",
    "metrics/split.json",
    "metrics/audit.json",
    "metrics/votes.json",
    "metrics/evaluate/cnn/1.json",
]


def test_results_are_read_per_model_and_fold(run, results, panel):
    assert list(results.members) == list(results.recipes) == ["linear", "cnn"]
    assert list(results.votes) == list(VOTES)
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


def test_test_predictions_are_those_of_the_members_and_of_the_chosen_vote(results):
    tables = results.test_predictions
    assert list(tables) == ["linear", "cnn", "soft vote"]
    for table in tables.values():
        assert set(table["split"]) == {"test"}
        assert table.index.tolist() == list(range(36))
    pd.testing.assert_frame_equal(tables["cnn"], select_test(results.members["cnn"]))
    pd.testing.assert_frame_equal(tables["soft vote"], select_test(results.votes["soft"]))


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(run: Path, panel, name):
    path = run / name
    hidden = path.with_name("hidden")
    path.rename(hidden)
    try:
        with pytest.raises(InputError, match=name.replace(".", r"\.")):
            read_results(panel, **folders_of(run))
    finally:
        hidden.rename(path)


@pytest.mark.parametrize("table", ["joined/cnn.csv", "votes/soft.csv"])
def test_predictions_of_another_split_are_refused(run, panel, table):
    file = run / "predictions" / table
    text = file.read_text(encoding="utf-8")
    digest = pd.read_csv(file, dtype=object)["manifest"][0]
    file.write_text(text.replace(digest, "0" * len(digest)), encoding="utf-8")
    with pytest.raises(InputError, match=r"are of another split than .*split: run `dvc repro`"):
        read_results(panel, **folders_of(run))
