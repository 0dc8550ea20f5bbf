"""A trained model's predictions: whose output each validation and each test image has, and what is refused."""

import numpy as np
import pytest
import torch

from tests.panel.models import save_split_and_model
from tumorboard.base.errors import InputError
from tumorboard.base.tables import probabilities_of, read_manifest
from tumorboard.data.crop_record import write_record
from tumorboard.data.store import CropStore, write_store
from tumorboard.evaluation.held_out import HeldOut, read_held_out, write_held_out
from tumorboard.models.model_file import load_model, save_model
from tumorboard.panel.evaluate import evaluate_model
from tumorboard.panel.fit_unlike import collected_features
from tumorboard.panel.unlike import unlike_scores


@pytest.fixture
def folder(tmp_path, params):
    save_split_and_model(tmp_path, params)
    return tmp_path


def evaluate(folder, params, *, model="linear", fold=1, manifest=None, test=True):
    return evaluate_model(
        folder / "model.safetensors",
        folder / "held_out.safetensors",
        model=model,
        fold=fold,
        manifest=read_manifest(folder / "manifest.csv") if manifest is None else manifest,
        crops=CropStore(folder / "store"),
        runtime=params.runtime,
        test=test,
    )


def test_a_test_image_has_the_models_own_output_in_float32(folder, params):
    model, card = load_model(folder / "model.safetensors", "cpu")
    save_model(
        folder / "model.safetensors",
        model,
        card.model_copy(update={"recipe": card.recipe.model_copy(update={"precision": "bf16"})}),
    )
    test = evaluate(folder, params).test
    assert test["id"].tolist() == ["i00", "i01", "i02", "i03"]
    assert test["split"].tolist() == ["test"] * 4
    assert test["label"].tolist() == ["a", "b", "a", "b"]
    pixels = torch.from_numpy(CropStore(folder / "store")[test["id"].tolist()]).permute(0, 3, 1, 2)
    with torch.inference_mode():
        expected = model(pixels).double().softmax(1).numpy()
    assert [column for column in test if column.startswith("p_")] == ["p_b", "p_a"]
    assert probabilities_of(test) == pytest.approx(expected, abs=1e-6), "bf16 differs by about 1e-3"
    assert test["manifest"].unique().tolist() == [card.manifest]


@pytest.mark.parametrize("tta", [(), ("hflip",)])
def test_a_test_image_is_as_unlike_as_predict_says(folder, params, tta):
    """Views at prediction change the logits; how unlike an image is follows the image itself."""
    model, card = load_model(folder / "model.safetensors", "cpu")
    recipe = card.recipe.model_copy(update={"tta": tta, "batch_size": 3})  # two batches
    save_model(folder / "model.safetensors", model, card.model_copy(update={"recipe": recipe}))
    evaluation = evaluate(folder, params)
    crops = CropStore(folder / "store")[evaluation.test["id"].tolist()]
    expected = []
    for crop in crops:
        with collected_features(model) as features, torch.inference_mode():
            model(torch.from_numpy(crop[None]).permute(0, 3, 1, 2))
        expected.append(unlike_scores(evaluation.unlike, features[0], crop[None])[0])
    assert evaluation.test_unlike == pytest.approx(expected, abs=1e-4)
    assert np.ptp(evaluation.test_unlike) > 0.01


def test_a_validation_image_has_the_output_of_the_epoch_that_was_chosen_without_it(folder, params):
    evaluation = evaluate(folder, params)
    validation = evaluation.validation
    assert validation["id"].tolist() == ["i08", "i09", "i10", "i11"]
    assert validation["split"].tolist() == ["val"] * 4
    assert validation["label"].tolist() == ["a", "b", "a", "b"]
    held_out = read_held_out(folder / "held_out.safetensors", 4, 2)
    assert sorted(held_out.parts) == [0, 1, 2, 3]
    logits = np.array([held_out.logits[part, row] for row, part in enumerate(held_out.parts)]).astype(np.float64)
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert probabilities_of(validation) == pytest.approx(expected, rel=1e-12)
    assert evaluation.card.epoch == 7
    assert np.isfinite(evaluation.images_per_second)
    assert evaluation.images_per_second > 0


def test_a_test_part_that_is_not_scored_is_not_even_read(folder, params, monkeypatch):
    read = []
    get = CropStore.__getitem__
    monkeypatch.setattr(CropStore, "__getitem__", lambda store, ids: read.extend(ids) or get(store, ids))
    evaluation = evaluate(folder, params, test=False)
    assert not {"i00", "i01", "i02", "i03"} & set(read)
    expected = evaluate(folder, params)
    assert len(evaluation.test) == 0
    assert list(evaluation.test) == list(expected.test)
    assert evaluation.validation.equals(expected.validation)
    assert evaluation.images_per_second == 0


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


def test_another_test_part_needs_no_other_model(folder, params):
    """What is trained does not depend on the test images, so that they may be exchanged."""
    manifest = read_manifest(folder / "manifest.csv")
    manifest.loc[:3, "label"] = ["b", "b", "a", "a"]
    manifest.loc[:3, "sha256"] = "noise"
    evaluation = evaluate(folder, params, manifest=manifest)
    assert evaluation.test["label"].tolist() == ["b", "b", "a", "a"]
    assert evaluation.validation.equals(evaluate(folder, params).validation)


def test_outputs_for_other_validation_images_are_refused(folder, params):
    held_out = read_held_out(folder / "held_out.safetensors", 4, 2)
    fewer = HeldOut(held_out.parts[:3] % 3, held_out.logits[:4, :3], held_out.epochs[:4], held_out.scores[:4])
    write_held_out(fewer, folder / "held_out.safetensors")
    with pytest.raises(InputError, match=r"held_out\.safetensors: .*expected .*4.*run `dvc repro`"):
        evaluate(folder, params)
    (folder / "held_out.safetensors").unlink()
    with pytest.raises(InputError, match=r"held_out\.safetensors: is not there"):
        evaluate(folder, params)


def test_crops_of_another_side_than_the_models_are_refused(folder, params):
    ids = CropStore(folder / "store").ids
    write_store(folder / "store", ids, np.zeros((len(ids), 5, 5, 3), np.uint8), 1)
    with pytest.raises(InputError, match=r"holds crops of 5 pixels, but crop\.side is \d+: run `dvc repro crop`"):
        evaluate(folder, params)


def test_crops_that_were_made_otherwise_than_the_models_are_refused(folder, params):
    made = params.crop.model_copy(update={"background": (9, 9, 9)})
    write_record(folder / "store", made, params.data.frames, None)
    with pytest.raises(InputError, match=r"crop\.background: \[9, 9, 9\], but crop\.background is \[\d"):
        evaluate(folder, params)
