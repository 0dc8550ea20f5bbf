import json
import re

import pandas as pd
import pytest

from stages import evaluate
from tests.panel.models import save_split_and_model
from tumorboard.base.errors import InputError
from tumorboard.base.tables import read_manifest, read_predictions
from tumorboard.data.store import CropStore
from tumorboard.panel.evaluate import evaluate_model


@pytest.fixture
def tree(tmp_path, params):
    save_split_and_model(tmp_path, params)
    return tmp_path


def run(tree, params, model="linear", fold=1):
    evaluate.main(
        params,
        model=model,
        fold=fold,
        store=tree / "store",
        manifest=tree / "manifest.csv",
        weights=tree / "model.safetensors",
        out=tree / "predictions/out.csv",
        metrics=tree / "metrics/out.json",
    )


def test_files_hold_what_the_library_returns(tree, params):
    run(tree, params)
    evaluation = evaluate_model(
        tree / "model.safetensors",
        model="linear",
        fold=1,
        manifest=read_manifest(tree / "manifest.csv"),
        crops=CropStore(tree / "store"),
        runtime=params.runtime,
        evaluate=params.evaluate,
        seed=params.seed,
    )
    written = read_predictions(tree / "predictions/out.csv")
    pd.testing.assert_frame_equal(written, evaluation.predictions.reset_index(drop=True), check_dtype=False)
    metrics = json.loads((tree / "metrics/out.json").read_text())
    assert list(metrics) == ["test", "intervals", "val", "parameters", "epoch"]
    for part in ("test", "intervals", "val"):
        defined = {name: value for name, value in metrics[part].items() if value is not None}
        assert defined
        assert defined == pytest.approx({name: evaluation.metrics[part][name] for name in defined})
        assert list(metrics[part]) == list(evaluation.metrics[part])
    assert {"accuracy_low", "auc_high"} <= set(metrics["intervals"])


def test_metrics_are_equal_in_every_run_and_the_speed_is_printed(tree, params, capsys):
    contents = set()
    for _ in range(2):
        run(tree, params)
        contents.add((tree / "metrics/out.json").read_bytes())
        assert re.fullmatch(r"fold 1  linear  [\d.]+ images/s\n", capsys.readouterr().out)
    assert len(contents) == 1


def test_nothing_is_written_for_a_model_that_does_not_fit(tree, params):
    with pytest.raises(InputError, match="trained as fold 1, expected fold 0"):
        run(tree, params, fold=0)
    assert not (tree / "predictions").exists()
    assert not (tree / "metrics").exists()
