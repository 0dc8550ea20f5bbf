import numpy as np
import pytest
import torch

from tests.panel.models import save_split_and_model
from tumorboard.base.errors import InputError
from tumorboard.base.params import Evaluate
from tumorboard.base.tables import probabilities_of, read_manifest
from tumorboard.data.store import CropStore, write_store
from tumorboard.evaluation.intervals import bootstrap_intervals
from tumorboard.evaluation.metrics import scores
from tumorboard.models.model_file import load_model
from tumorboard.panel.evaluate import evaluate_model

SETTINGS = Evaluate(bootstrap=40, confidence=0.8)


@pytest.fixture
def folder(tmp_path, params):
    save_split_and_model(tmp_path, params)
    return tmp_path


def evaluate(folder, params, *, model="linear", fold=1, manifest=None):
    return evaluate_model(
        folder / "model.safetensors",
        model=model,
        fold=fold,
        manifest=read_manifest(folder / "manifest.csv") if manifest is None else manifest,
        crops=CropStore(folder / "store"),
        runtime=params.runtime,
        evaluate=SETTINGS,
        seed=3,
    )


def test_predictions_are_the_models_own_for_the_folds_validation_and_the_test_rows(folder, params):
    predictions = evaluate(folder, params).predictions
    assert predictions["id"].tolist() == ["i08", "i09", "i10", "i11", "i00", "i01", "i02", "i03"]
    assert predictions["split"].tolist() == ["val"] * 4 + ["test"] * 4
    assert predictions["label"].tolist() == ["a", "b"] * 4
    model, card = load_model(folder / "model.safetensors", "cpu")
    pixels = torch.from_numpy(CropStore(folder / "store")[predictions["id"].tolist()]).permute(0, 3, 1, 2)
    with torch.inference_mode():
        expected = model(pixels).double().softmax(1).numpy()
    assert [column for column in predictions if column.startswith("p_")] == ["p_b", "p_a"]
    assert probabilities_of(predictions) == pytest.approx(expected, abs=0.02), "up to bf16"
    assert predictions["manifest"].unique().tolist() == [card.manifest]


def test_metrics_are_computed_per_split(folder, params):
    predictions, metrics, images_per_second = evaluate(folder, params)
    parts = {split: predictions[predictions["split"] == split] for split in ("val", "test")}
    for split, table in parts.items():
        assert metrics[split] == pytest.approx(scores(table), nan_ok=True)
    assert metrics["intervals"] == pytest.approx(bootstrap_intervals(parts["test"], SETTINGS, 3), nan_ok=True)
    assert metrics["epoch"] == 7
    model, _ = load_model(folder / "model.safetensors", "cpu")
    assert metrics["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert np.isfinite(images_per_second)
    assert images_per_second > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fold": 0}, r"model\.safetensors: trained as fold 1, expected fold 0: train it again"),
        ({"model": "cnn"}, r"model\.safetensors: trained as model linear, expected model cnn: train it again"),
    ],
)
def test_a_model_of_another_name_or_fold_is_refused(folder, params, arguments, message):
    with pytest.raises(InputError, match=message):
        evaluate(folder, params, **arguments)


def test_a_model_of_another_split_is_refused(folder, params):
    manifest = read_manifest(folder / "manifest.csv")
    manifest.loc[0, ["split", "fold"]] = ["train", 0]
    with pytest.raises(InputError, match=r"trained as manifest [0-9a-f]{16}, expected manifest [0-9a-f]{16}: train it"):
        evaluate(folder, params, manifest=manifest)


def test_crops_of_another_side_than_the_models_are_refused(folder, params):
    ids = CropStore(folder / "store").ids
    write_store(folder / "store", ids, np.zeros((len(ids), 5, 5, 3), np.uint8), 1)
    with pytest.raises(InputError, match=r"holds crops of 5 pixels, but crop\.side is \d+: run `dvc repro crop`"):
        evaluate(folder, params)
