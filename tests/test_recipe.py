"""The stage that writes resolved recipes."""

import json
from pathlib import Path

import pytest

import stages.recipe
from tumorboard.errors import InputError
from tumorboard.params import Params, Recipe, resolve_recipe


def test_stage_writes_the_whole_resolved_recipe_of_each_model_that_runs(tmp_path: Path, params: Params) -> None:
    stages.recipe.main(params, str(tmp_path))
    assert {file.stem for file in tmp_path.iterdir()} == set(params.models) < set(params.recipes)
    written = json.loads((tmp_path / "linear.json").read_text())
    assert written["architecture"] == "linear"
    assert written["lr"] == params.recipes["linear"].lr != params.train.lr
    assert written["epochs"] == params.train.epochs
    assert Recipe.model_validate_json(json.dumps(written)) == resolve_recipe(params, "linear")


def test_stage_refuses_a_wrong_architecture_of_any_model(tmp_path: Path, params: Params) -> None:
    wrong = params.recipes["cnn"].model_copy(update={"architecture": "resnet_18"})
    params = params.model_copy(update={"recipes": params.recipes | {"cnn": wrong}})
    with pytest.raises(InputError, match=r"recipes\.cnn: unknown architecture 'resnet_18'; did you mean resnet18"):
        stages.recipe.main(params, str(tmp_path))


def test_stage_writes_what_the_balancing_strategy_sets(tmp_path: Path, params: Params) -> None:
    params = params.model_copy(update={"balance": params.balance.model_copy(update={"strategy": "focal"})})
    stages.recipe.main(params, str(tmp_path))
    for model in params.models:
        written = json.loads((tmp_path / f"{model}.json").read_text())
        assert (written["loss"], written["class_weights"], written["sampler"]) == ("focal", "balanced", "shuffle")


def test_a_recipe_that_does_not_run_may_be_at_odds_with_the_shared_numbers(tmp_path: Path, params: Params) -> None:
    frozen = params.recipes["vgg16"].model_copy(update={"freeze_epochs": params.train.epochs + 1})
    params = params.model_copy(update={"recipes": params.recipes | {"vgg16": frozen}})
    stages.recipe.main(params, str(tmp_path))
    with pytest.raises(InputError, match=r"recipes\.vgg16: freeze_epochs 2 leaves the backbone none of 1 epochs"):
        stages.recipe.main(params.model_copy(update={"models": ("vgg16",)}), str(tmp_path))


def test_a_loss_that_has_no_label_smoothing_is_refused_before_any_training(tmp_path: Path, params: Params) -> None:
    smooth = params.recipes["cnn"].model_copy(update={"label_smoothing": 0.1})
    params = params.model_copy(update={"recipes": params.recipes | {"cnn": smooth}})
    stages.recipe.main(params, str(tmp_path))
    params = params.model_copy(update={"balance": params.balance.model_copy(update={"strategy": "focal"})})
    with pytest.raises(InputError, match=r"recipes\.cnn: label_smoothing is 0\.1, but the focal loss has none"):
        stages.recipe.main(params, str(tmp_path))


def test_a_model_without_recipe_is_refused(params: Params) -> None:
    with pytest.raises(InputError, match="model 'linea' has no entry under recipes; did you mean linear"):
        resolve_recipe(params, "linea")


def test_a_file_of_weights_is_pinned_by_its_digest(
    tmp_path: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SHA-256 of 'abc', from FIPS 180-2."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights/start.pth").write_bytes(b"abc")
    started = params.recipes["cnn"].model_copy(update={"pretrained": "weights/start.pth"})
    stages.recipe.main(params.model_copy(update={"recipes": params.recipes | {"cnn": started}}), str(tmp_path))
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert json.loads((tmp_path / "cnn.json").read_text())["pretrained_sha256"] == digest
    assert "pretrained_sha256" not in json.loads((tmp_path / "linear.json").read_text())


@pytest.mark.parametrize(
    ("pretrained", "message"),
    [
        (
            "imgenet",
            "'imgenet': expected none, imagenet, packaged or a .safetensors, .pth or .pt file; did you mean",
        ),
        ("weights/nowhere.pth", "weights/nowhere.pth: no such file"),
        (
            "/elsewhere/start.pth",
            "the folder weights, which DVC watches, and write weights/start.pth",
        ),
        ("weights/../start.pth", "put the file into the folder weights"),
        ("imagenet", "imagenet: there are no weights for cnn"),
        ("packaged", "packaged holds weights of architecture timm/tf_efficientnet_lite0, not of cnn"),
    ],
)
def test_weights_that_cannot_be_are_refused_before_anything_is_trained(
    tmp_path: Path, params: Params, pretrained: str, message: str
) -> None:
    wrong = params.recipes["cnn"].model_copy(update={"pretrained": pretrained})
    with pytest.raises(InputError, match=message):
        stages.recipe.main(params.model_copy(update={"recipes": params.recipes | {"cnn": wrong}}), str(tmp_path))
