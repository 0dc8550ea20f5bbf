"""Test-time augmentation: a test image, a validation image and a new image get the same logits; `unlike` sees none."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from tests.panel.models import CLASSES, save_untrained
from tumorboard.base.params import Params
from tumorboard.base.tables import manifest_digest, probabilities_of
from tumorboard.data.store import CropStore, write_store
from tumorboard.evaluation.held_out import HeldOut, assign_parts, write_held_out
from tumorboard.images.crop import crop_image
from tumorboard.models.model_file import load_model, save_model
from tumorboard.panel.deciding import Deciding, unfitted
from tumorboard.panel.evaluate import Evaluation, evaluate_model
from tumorboard.panel.panel import Panel
from tumorboard.panel.predict import predict_images
from tumorboard.panel.trained_model import TrainedModel

VIEWS = ("hflip", "quarter_turns")


@pytest.fixture
def study(tmp_path: Path, params: Params) -> dict[str, Any]:
    """Twenty images in files and in a store, six of them for testing, and a model whose recipe is yet without views."""
    crops, paths = [], []
    for number in range(20):
        noise = np.random.default_rng(number).integers(0, 256, (50, 60, 3), dtype=np.uint8)
        paths.append(tmp_path / f"{number:02d}.png")
        Image.fromarray(noise).save(paths[-1])
        crops.append(crop_image(noise, params.crop))
    ids = [path.name for path in paths]
    write_store(tmp_path / "store", ids, crops, 2)
    manifest = pd.DataFrame({"id": ids, "path": ids, "label": [CLASSES[row % 3] for row in range(20)], "group": ids})
    manifest["split"] = ["test"] * 6 + ["train"] * 14
    manifest["fold"] = pd.array([None] * 6 + [0, 1] * 7, dtype="Int64")
    manifest = manifest.assign(source_id=ids, sha256=ids)
    file = save_untrained(tmp_path, params, "cnn", 0, 1, {"manifest": manifest_digest(manifest)})
    parts = assign_parts(manifest[manifest["fold"].eq(0).fillna(False)]["group"].tolist())
    write_held_out(HeldOut(parts, np.zeros((6, 7, 3), np.float32), np.ones(6, np.int64), np.zeros(6)), tmp_path / "out")
    return {"folder": tmp_path, "file": file, "paths": paths, "manifest": manifest, "runtime": params.runtime}


def evaluate(study: dict[str, Any], tta: tuple[str, ...]) -> Evaluation:
    """Evaluates the study's model with these views in its recipe."""
    network, card = load_model(study["file"], "cpu")
    recipe = card.recipe.model_copy(update={"tta": tta, "batch_size": 4})
    save_model(study["file"], network, card.model_copy(update={"recipe": recipe}))
    return evaluate_model(
        study["file"],
        study["folder"] / "out",
        model="cnn",
        fold=0,
        manifest=study["manifest"],
        crops=CropStore(study["folder"] / "store"),
        runtime=study["runtime"],
        test=True,
    )


def predict(study: dict[str, Any], evaluation: Evaluation) -> pd.DataFrame:
    """Predicts all images of the study from their files."""
    network, card = load_model(study["file"], "cpu")
    panel = Panel({"cnn": [TrainedModel(study["file"], network, card, evaluation.unlike)]})
    deciding = Deciding(fit=unfitted(["cnn"]), vote="soft", positive=None, abstain=0.0, unlike=1.0)
    return predict_images(panel, study["paths"], deciding=deciding, frames=None, known={})


def test_test_images_and_new_images_have_the_mean_of_their_views_logits(study: dict[str, Any]) -> None:
    plain, averaged = evaluate(study, ()), evaluate(study, VIEWS)
    crops = CropStore(study["folder"] / "store")[averaged.test["id"].tolist()]
    turned = [np.rot90(images, turns, (1, 2)) for images in (crops, crops[:, :, ::-1]) for turns in range(4)]
    network, _ = load_model(study["file"], "cpu")
    with torch.inference_mode():
        logits = [network(torch.from_numpy(view.copy()).permute(0, 3, 1, 2)).double() for view in turned]
    expected = torch.stack(logits).mean(0).softmax(1).numpy()
    np.testing.assert_allclose(probabilities_of(averaged.test), expected, atol=1e-6)
    assert np.abs(probabilities_of(plain.test) - expected).max() > 1e-3
    decisions = predict(study, averaged)
    columns = [column for column in averaged.test if column.startswith("p_")]
    np.testing.assert_allclose(decisions[columns][:6].astype(float), averaged.test[columns], atol=1e-6)


def test_whether_an_image_is_unlike_is_told_from_the_image_itself(study: dict[str, Any]) -> None:
    plain, averaged = evaluate(study, ()), evaluate(study, VIEWS)
    for name, value in vars(plain.unlike).items():
        np.testing.assert_array_equal(value, getattr(averaged.unlike, name))
    with_views = predict(study, averaged)["unlike"]
    evaluate(study, ())
    np.testing.assert_allclose(with_views.astype(float), predict(study, plain)["unlike"].astype(float), atol=1e-9)
    assert with_views.nunique() == 20
