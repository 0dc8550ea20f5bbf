"""The stage evaluate: its files hold what the library returns, and looks at the test part are counted."""

import json
import re

import pandas as pd
import pytest

from stages import evaluate
from tests.panel.models import save_split_and_model
from tumorboard.base.errors import InputError
from tumorboard.base.files import read_table
from tumorboard.base.tables import read_manifest, read_predictions
from tumorboard.data.store import CropStore
from tumorboard.evaluation.summary import judging_of, summarize
from tumorboard.panel.evaluate import evaluate_model
from tumorboard.panel.ledger import count_models
from tumorboard.panel.unlike import load_unlike


@pytest.fixture
def tree(tmp_path, params, monkeypatch):
    save_split_and_model(tmp_path, params)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    return tmp_path


@pytest.fixture
def settings(params):
    changes = {
        "data": params.data.model_copy(update={"positive": "b"}),
        "evaluate": params.evaluate.model_copy(update={"bootstrap": 20}),
    }
    return params.model_copy(update=changes)


def run(tree, settings, model="linear", fold=1):
    evaluate.main(
        settings,
        model=model,
        fold=fold,
        store=tree / "store",
        manifest=tree / "manifest.csv",
        weights=tree / "model.safetensors",
        held_out=tree / "held_out.safetensors",
        out=tree / "predictions/out.csv",
        test_out=tree / "predictions/test/out.csv",
        unlike=tree / "predictions/unlike/out.safetensors",
        test_unlike=tree / "predictions/test/unlike/out.csv",
        metrics=tree / "metrics/out.json",
    )


def unscored(settings):
    return settings.model_copy(update={"evaluate": settings.evaluate.model_copy(update={"test": False})})


def test_files_hold_what_the_library_returns(tree, settings):
    run(tree, settings)
    evaluation = evaluate_model(
        tree / "model.safetensors",
        tree / "held_out.safetensors",
        model="linear",
        fold=1,
        manifest=read_manifest(tree / "manifest.csv"),
        crops=CropStore(tree / "store"),
        runtime=settings.runtime,
        test=True,
    )
    for name, table in (("out.csv", evaluation.validation), ("test/out.csv", evaluation.test)):
        written = read_predictions(tree / "predictions" / name)
        pd.testing.assert_frame_equal(written, table.reset_index(drop=True), check_dtype=False, check_exact=True)
    metrics = json.loads((tree / "metrics/out.json").read_text())
    assert list(metrics) == ["validation", "parameters", "epoch"]
    assert metrics["epoch"] == 7
    assert metrics["parameters"] == evaluation.card.parameters
    expected = summarize(evaluation.validation, judging_of(settings), held_out=True)
    assert list(metrics["validation"]) == list(expected)
    for name in ("images", "loss", "accuracy", "auc"):
        assert metrics["validation"][name] == expected[name]
    assert metrics["validation"]["images"] == 4
    statistics = load_unlike(tree / "predictions/unlike/out.safetensors")
    assert statistics.held_out.tolist() == evaluation.unlike.held_out.tolist()
    unlike = read_table(tree / "predictions/test/unlike/out.csv", number_prefix="unlike")
    assert unlike["id"].tolist() == evaluation.test["id"].tolist()
    assert unlike["unlike"].tolist() == evaluation.test_unlike.tolist()


def test_metrics_are_of_validation_images_and_equal_in_every_run_and_the_speed_is_printed(tree, settings, capsys):
    contents = set()
    for _ in range(2):
        run(tree, settings)
        contents.add((tree / "metrics/out.json").read_bytes())
        assert re.fullmatch(r"fold 1  linear  [\d.]+ test images/s\n", capsys.readouterr().out)
    manifest = read_manifest(tree / "manifest.csv")
    manifest.loc[manifest["split"] == "test", "label"] = "a"
    manifest.to_csv(tree / "manifest.csv", index=False)
    run(tree, settings)
    contents.add((tree / "metrics/out.json").read_bytes())
    assert len(contents) == 1
    assert b"test" not in contents.pop()


def test_each_set_of_weights_is_one_look_at_a_test_part(tree, settings):
    ledger, manifest = tree / ".cache/test-looks.jsonl", read_manifest(tree / "manifest.csv")
    run(tree, unscored(settings))
    assert not ledger.exists()
    for _ in range(2):
        run(tree, settings)
    assert count_models(ledger, manifest) == 1


def test_a_test_part_that_is_not_scored_has_a_table_without_rows(tree, settings, capsys):
    run(tree, unscored(settings))
    table = read_predictions(tree / "predictions/test/out.csv")
    assert (len(table), list(table)) == (0, list(read_predictions(tree / "predictions/out.csv")))
    assert (tree / "predictions/test/unlike/out.csv").read_text() == "id,unlike\n"
    assert capsys.readouterr().out == ""
    validation, metrics = (tree / "predictions/out.csv").read_bytes(), (tree / "metrics/out.json").read_bytes()
    run(tree, settings)
    assert (tree / "predictions/out.csv").read_bytes() == validation
    assert (tree / "metrics/out.json").read_bytes() == metrics


def test_nothing_is_written_for_a_model_that_does_not_fit(tree, settings):
    with pytest.raises(InputError, match="trained as fold 1, expected fold 0"):
        run(tree, settings, fold=0)
    for folder in ("predictions", "metrics", ".cache"):
        assert not (tree / folder).exists()
