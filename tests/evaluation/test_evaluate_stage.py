import json

import numpy as np
import pandas as pd
import pytest
import torch

from stages import evaluate
from tumorboard.data.store import CropStore, write_store
from tumorboard.errors import InputError
from tumorboard.evaluation.metrics import scores
from tumorboard.models.registry import build_model
from tumorboard.models.weights import ModelCard, load_model, save_model
from tumorboard.params import resolve_recipe
from tumorboard.tables import manifest_digest, probabilities_of, read_manifest, read_predictions, write_table

CLASSES = ("b", "a")


@pytest.fixture
def tree(tmp_path, params):
    """A split of 12 images (test, validation of fold 0, of fold 1), their crops, and an untrained linear model."""
    ids = [f"i{k:02d}" for k in range(12)]
    manifest = pd.DataFrame({"id": ids, "path": ids, "label": ["a", "b"] * 6, "group": ids})
    manifest["split"] = ["test"] * 4 + ["train"] * 8
    manifest["fold"] = pd.array([None] * 4 + [0] * 4 + [1] * 4, dtype="Int64")
    manifest["source_id"] = ids
    manifest["sha256"] = ids
    write_table(manifest, tmp_path / "manifest.csv")
    crops = np.random.default_rng(0).integers(0, 255, (12, 32, 32, 3), dtype=np.uint8)
    write_store(tmp_path / "store", ids, crops, 2)
    recipe = resolve_recipe(params, "linear")
    mean_std = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    torch.manual_seed(0)
    model = build_model(recipe, 2, 32, mean_std)
    card = ModelCard(
        name="linear",
        classes=CLASSES,
        fold=1,
        crop=params.crop,
        mean=mean_std[0],
        std=mean_std[1],
        recipe=recipe,
        manifest=manifest_digest(read_manifest(tmp_path / "manifest.csv")),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        epoch=7,
        score={"loss": 0.5},
        versions={},
        seed=0,
    )
    save_model(tmp_path / "model.safetensors", model, card)
    return tmp_path


def judge(tree, params, model="linear", fold="1"):
    inputs = [str(tree / name) for name in ("store", "manifest.csv", "model.safetensors")]
    evaluate.main(params, model, fold, *inputs, str(tree / "out.csv"), str(tree / "metrics.json"))


def test_predictions_are_the_models_own_for_the_folds_validation_and_the_test_rows(tree, params):
    judge(tree, params)
    found = read_predictions(tree / "out.csv")
    assert found["id"].tolist() == ["i08", "i09", "i10", "i11", "i00", "i01", "i02", "i03"]
    assert found["split"].tolist() == ["val"] * 4 + ["test"] * 4
    assert found["label"].tolist() == ["a", "b"] * 4
    model, card = load_model(tree / "model.safetensors", "cpu")
    pixels = torch.from_numpy(CropStore(tree / "store")[found["id"].tolist()]).permute(0, 3, 1, 2)
    with torch.inference_mode():
        expected = model(pixels).double().softmax(1).numpy()
    assert [column for column in found if column.startswith("p_")] == ["p_b", "p_a"]
    assert probabilities_of(found) == pytest.approx(expected, abs=0.02), "up to bf16"
    assert found["manifest"].unique().tolist() == [card.manifest]


def test_metrics_are_of_each_part(tree, params):
    judge(tree, params)
    found = json.loads((tree / "metrics.json").read_text())
    predictions = read_predictions(tree / "out.csv")
    for part in ("val", "test"):
        expected = scores(predictions[predictions["split"] == part])
        assert {key: np.nan if value is None else value for key, value in found[part].items()} == pytest.approx(
            expected, nan_ok=True
        )
    assert found["epoch"] == 7
    assert found["parameters"] > 0
    assert found["images_per_second"] > 0
    assert {"accuracy_low", "auc_high"} <= set(found["intervals"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"fold": "0"}, "trained as fold 1, not 0"), ({"model": "cnn"}, "trained as model linear, not cnn")],
)
def test_a_model_of_another_name_or_fold_is_refused(tree, params, arguments, message):
    with pytest.raises(InputError, match=message):
        judge(tree, params, **arguments)


def test_a_model_of_another_split_is_refused(tree, params):
    manifest = read_manifest(tree / "manifest.csv")
    manifest.loc[0, ["split", "fold"]] = ["train", 0]
    write_table(manifest, tree / "manifest.csv")
    with pytest.raises(InputError, match=r"trained as manifest [0-9a-f]{16}, not [0-9a-f]{16}: train it again"):
        judge(tree, params)
    assert not (tree / "out.csv").exists()
