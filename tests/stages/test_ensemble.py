import json

import pandas as pd
import pytest

from stages import ensemble
from tests.panel.tables import predictions_of
from tumorboard.base.files import write_table
from tumorboard.base.tables import read_predictions
from tumorboard.panel.comparison import compare_votes, headline
from tumorboard.panel.votes import VOTES

FOLDS = {
    "linear": {
        0: [("t1", "test", "a", 0.9, 0.1), ("t2", "test", "b", 0.6, 0.4), ("v0", "val", "a", 0.7, 0.3)],
        2: [("t1", "test", "a", 0.4, 0.6), ("t2", "test", "b", 0.2, 0.8), ("v2", "val", "b", 0.1, 0.9)],
    },
    "cnn": {
        0: [("t1", "test", "a", 0.8, 0.2), ("t2", "test", "b", 0.3, 0.7), ("v0", "val", "a", 0.6, 0.4)],
        2: [("t1", "test", "a", 0.6, 0.4), ("t2", "test", "b", 0.4, 0.6), ("v2", "val", "b", 0.3, 0.7)],
    },
}


@pytest.fixture
def settings(params):
    """Two models and two folds, where the product vote heads the report."""
    return params.model_copy(
        update={
            "models": ["linear", "cnn"],
            "folds": [0, 2],
            "ensemble": params.ensemble.model_copy(update={"vote": "product"}),
            "evaluate": params.evaluate.model_copy(update={"bootstrap": 20}),
        }
    )


@pytest.fixture
def tables():
    return {model: {fold: predictions_of(rows) for fold, rows in folds.items()} for model, folds in FOLDS.items()}


def run(folder, settings, tables):
    for model, folds in tables.items():
        for fold, table in folds.items():
            write_table(table, folder / f"members/{model}/{fold}.csv")
    ensemble.main(
        settings,
        members=folder / "members",
        joined=folder / "joined",
        votes=folder / "votes",
        metrics=folder / "metrics/ensemble.json",
        comparison=folder / "metrics/votes.json",
    )


def test_files_hold_what_the_library_returns(tmp_path, settings, tables):
    run(tmp_path, settings, tables)
    compared = compare_votes(tables, settings.evaluate, settings.seed)
    assert sorted(path.name for path in (tmp_path / "joined").iterdir()) == ["cnn.csv", "linear.csv"]
    assert sorted(path.stem for path in (tmp_path / "votes").iterdir()) == sorted(VOTES)
    for folder, expected in (("joined", compared.members), ("votes", compared.votes)):
        for name, table in expected.items():
            written = read_predictions(tmp_path / folder / f"{name}.csv")
            pd.testing.assert_frame_equal(written, table, check_dtype=False)
    # By hand: the mean of linear's folds is 0.65 for t1, that of cnn's 0.7.
    assert read_predictions(tmp_path / "votes/soft.csv")["p_a"].tolist()[0] == pytest.approx(0.675)
    written = json.loads((tmp_path / "metrics/votes.json").read_text())
    assert list(written) == ["votes", "members", "weights", "folds"]
    assert written["weights"] == pytest.approx(compared.scores["weights"])
    assert written["members"]["cnn"]["test"]["accuracy"] == 1
    assert written["folds"]["members"]["linear"]["test"]["accuracy_mean"] == 0.5


def test_the_metrics_are_those_of_the_vote_that_heads_the_report(tmp_path, settings, tables):
    run(tmp_path, settings, tables)
    written = json.loads((tmp_path / "metrics/ensemble.json").read_text())
    assert written["vote"] == "product"
    expected = headline(compare_votes(tables, settings.evaluate, settings.seed).scores, "product")
    assert list(written) == list(expected)
    assert written["loss"] == pytest.approx(expected["loss"])
    assert written["loss"] != pytest.approx(
        headline(compare_votes(tables, settings.evaluate, 0).scores, "soft")["loss"]
    )


def test_tables_of_models_and_folds_no_longer_listed_are_deleted(tmp_path, settings, tables):
    (tmp_path / "members/linear").mkdir(parents=True)
    (tmp_path / "members/retired").mkdir()
    for name in ("linear/1.csv", "retired/0.csv"):
        (tmp_path / "members" / name).write_text("old")
    run(tmp_path, settings, tables)
    remaining = sorted(str(path.relative_to(tmp_path / "members")) for path in (tmp_path / "members").rglob("*.csv"))
    assert remaining == ["cnn/0.csv", "cnn/2.csv", "linear/0.csv", "linear/2.csv"]
    assert not (tmp_path / "members/retired").exists()
