"""A panel on new images: the networks' own probabilities, the vote's own code, and nothing left out silently."""

from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from tumorboard import predict
from tumorboard.cli import app
from tumorboard.errors import InputError
from tumorboard.evaluation.vote import fit_weights
from tumorboard.images import crop_image
from tumorboard.models.registry import build_model
from tumorboard.models.weights import ModelCard, load_model, save_model
from tumorboard.params import Params, resolve_recipe
from tumorboard.tables import make_predictions, write_table

CLASSES = ("b", "a", "c")
SPREAD = ((0.5, 0.5, 0.5), (0.05, 0.05, 0.05))  # makes untrained networks decide differently


def save(
    folder: Path, params: Params, name: str, fold: int, seed: int, changes: dict[str, object] | None = None
) -> Path:
    """An untrained network of a recipe, under the names that a run would use."""
    architecture = {"linear": "linear", "cnn": "cnn", "other": "cnn3"}[name]
    recipe = resolve_recipe(params, "cnn").model_copy(
        update={"architecture": architecture, "precision": "off", "seed": seed}
    )
    model = build_model(recipe, len(CLASSES), 32, SPREAD)
    card = ModelCard(
        name=name,
        classes=CLASSES,
        fold=fold,
        crop=params.crop,
        mean=SPREAD[0],
        std=SPREAD[1],
        recipe=recipe,
        manifest="0" * 16,
        parameters=1,
        epoch=1,
        score={},
        versions={},
        seed=seed,
    )
    file = folder / f"models/{name}/{fold}.safetensors"
    save_model(file, model, card.model_copy(update=changes or {}))
    return file


@pytest.fixture
def files(tmp_path: Path, params: Params) -> list[Path]:
    return [save(tmp_path, params, name, fold, seed) for name, fold, seed in
            (("linear", 0, 1), ("linear", 1, 2), ("cnn", 0, 3), ("cnn", 1, 4))]  # fmt: skip


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Forty pictures in two folders, one of them no picture, one empty, beside a hidden file."""
    folder = tmp_path / "new"
    (folder / "deeper").mkdir(parents=True)
    for number in range(40):
        noise = np.random.default_rng(number).integers(0, 256, (50, 60, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / ("deeper" if number % 2 else ".") / f"{number:02d}, é.png")
    (folder / "notes.txt").write_text("no picture")
    (folder / "empty.png").touch()
    (folder / ".hidden.png").touch()
    return folder


def by_hand(file: Path, paths: list[str], params: Params) -> np.ndarray:
    model, _ = load_model(file, "cpu")
    crops = [crop_image(np.asarray(Image.open(path)), params.crop) for path in paths]
    with torch.inference_mode():
        return model(torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)).double().softmax(1).numpy()


def judge(files: list[Path], given: list[Path], vote: str = "soft", joined: Path | None = None, **known: str):
    panel = predict.load_panel(files, "cpu")
    return predict.judge_images(panel, predict.list_new(given), None, vote, joined, known, 1)


def test_a_row_a_file_with_the_mean_over_folds_and_models(files, pictures, params):
    found = judge(files, [pictures])
    assert found["path"].tolist() == sorted(str(path) for path in pictures.rglob("[!.]*") if path.is_file())
    bad = found[found["problem"] != ""].set_index("path")
    assert bad["problem"].str.partition(":")[0].to_dict() == {
        str(pictures / "notes.txt"): "not an image",
        str(pictures / "empty.png"): "empty",
    }
    assert bad[["decided", "probability", "p_a", "p_b", "p_c"]].isna().all(axis=None)
    good = found[found["problem"] == ""]
    assert len(good) == 40
    each = [by_hand(file, good["path"].tolist(), params) for file in files]
    models = [(each[0] + each[1]) / 2, (each[2] + each[3]) / 2]
    vote = (models[0] + models[1]) / 2
    np.testing.assert_allclose(good[["p_b", "p_a", "p_c"]], vote, atol=1e-5)
    assert good["decided"].tolist() == [CLASSES[choice] for choice in vote.argmax(1)]
    np.testing.assert_allclose(good["probability"].astype(float), vote.max(1), atol=1e-5)
    agreeing = sum((model.argmax(1) == vote.argmax(1)).astype(int) for model in models)
    assert good["agreeing"].tolist() == [f"{count} of 2" for count in agreeing]
    assert len(set(agreeing)) > 1


def test_the_same_from_several_processes_and_one_file_at_a_time(files, pictures):
    panel = predict.load_panel(files, "cpu")
    new = predict.list_new([pictures])
    several = predict.judge_images(panel, new, None, "product", None, {}, 2)
    pd.testing.assert_frame_equal(several, judge(files, [pictures], "product"))
    alone = judge(files, [pictures / "00, é.png"], "product")
    there = several[several["path"] == alone["path"][0]].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone, there, atol=1e-6)


def test_the_weighted_vote_has_the_weights_of_the_runs_validation(files, pictures, params, tmp_path):
    rng = np.random.default_rng(0)
    labels = [CLASSES[n % 3] for n in range(60)]
    rows = pd.DataFrame({"id": [f"v{n}" for n in range(60)], "group": "g", "split": "val", "label": labels})
    members = {}
    for model, skill in (("linear", 0.2), ("cnn", 2.0)):
        logits = rng.normal(size=(60, 3)) + skill * np.eye(3)[np.arange(60) % 3]
        shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        members[model] = make_predictions(rows, shares, CLASSES, "0" * 16)
        write_table(members[model], tmp_path / f"joined/{model}.csv")
    weights = fit_weights(members)
    assert 0 < weights["linear"] < weights["cnn"]
    found = judge(files, [pictures / "deeper"], "weighted", tmp_path / "joined")
    each = [by_hand(file, found["path"].tolist(), params) for file in files]
    vote = weights["linear"] * (each[0] + each[1]) / 2 + weights["cnn"] * (each[2] + each[3]) / 2
    np.testing.assert_allclose(found[["p_b", "p_a", "p_c"]], vote, atol=1e-5)


def test_weights_of_another_run_are_refused(files, pictures, tmp_path):
    with pytest.raises(InputError, match="weighted vote needs a run's validation rows"):
        judge(files, [pictures], "weighted")
    rows = pd.DataFrame({"id": ["v"], "group": "g", "split": "val", "label": "a"})
    for model in ("linear", "cnn"):
        table = make_predictions(rows, np.full((1, 3), 1 / 3), CLASSES, "1" * 16)
        write_table(table, tmp_path / f"joined/{model}.csv")
    with pytest.raises(InputError, match=r"linear\.csv: judges manifest 1{16}, but the models were trained on 0{16}"):
        judge(files, [pictures], "weighted", tmp_path / "joined")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"classes": ("a", "b", "c")},
            r" and .*linear/0.safetensors are no panel: their classes are \('a', ",
        ),
        ({"manifest": "1" * 16}, " and .*linear/0.safetensors are no panel: their manifest is 1{16} and 0{16}"),
        ({"fold": 0, "name": "linear"}, ": fold 0 of model 'linear' is there already"),
    ],
)
def test_members_that_do_not_belong_together_are_refused(files, tmp_path, params, changes, message):
    stranger = save(tmp_path, params, "other", 0, 5, changes)
    with pytest.raises(InputError, match=f"{stranger}{message}"):
        predict.load_panel([*files, stranger], "cpu")


def test_members_of_other_crops_are_refused(files, tmp_path, params):
    other = params.model_copy(update={"crop": params.crop.model_copy(update={"border": not params.crop.border})})
    stranger = save(tmp_path, other, "other", 0, 5)
    with pytest.raises(InputError, match=r"are no panel: crop\.border is False and True$"):
        predict.load_panel([*files, stranger], "cpu")


def test_a_network_that_gives_no_numbers_is_named(files, pictures):
    network, card = load_model(files[2], "cpu")
    network.head.bias.data[0] = torch.nan
    save_model(files[2], network, card)
    with pytest.raises(InputError, match=r"cnn/0\.safetensors: gives outputs that are not finite"):
        judge(files, [pictures])


def test_where_the_table_cannot_go_is_said_before_anything_is_judged(files, pictures, tmp_path):
    (tmp_path / "a_file").write_text("")
    for out, message in ((tmp_path, "is a folder: name a file"), (tmp_path / "a_file/new.csv", "cannot be written: ")):
        done = CliRunner().invoke(app, ["predict", str(pictures), "--model", str(files[0]), "--out", str(out)])
        assert done.exit_code == 1
        assert done.stderr.startswith(f"predict: {out}: {message}")
        assert "judge" not in done.stderr


def test_what_is_not_there_is_named(files, tmp_path):
    with pytest.raises(InputError, match="nowhere: there is no such file or folder"):
        predict.list_new([tmp_path / "nowhere"])
    (tmp_path / "bare").mkdir()
    with pytest.raises(InputError, match=r"no files in .*bare"):
        predict.list_new([tmp_path / "bare"])
    (tmp_path / "link.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(InputError, match=r"none of 1 files can be judged; the first: .*link.png: broken"):
        judge(files, [tmp_path / "link.png"])


def test_a_file_of_the_panels_own_data_is_told(files, pictures):
    own = pictures / "00, é.png"
    found = judge(files, [pictures], **{sha256(own.read_bytes()).hexdigest(): "train"})
    assert found[found["known"] != ""][["path", "known"]].to_numpy().tolist() == [[str(own), "train"]]


def test_the_command(files, pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(
        (Path(__file__).parents[1] / "params.yaml").read_text(encoding="utf-8"), encoding="utf-8"
    )
    named = [argument for file in files for argument in ("--model", str(file))]
    done = CliRunner().invoke(app, ["predict", "new/deeper", *named, "--out", "told/new.csv"])
    assert (done.exit_code, done.stdout) == (0, ""), done.output
    assert done.stderr.startswith("20 of 20 files judged by 2 models, soft vote: ")
    assert done.stderr.endswith("For research, not for diagnosis.\n")
    table = pd.read_csv("told/new.csv", keep_default_na=False)
    assert table["path"].tolist() == sorted(f"new/deeper/{path.name}" for path in (pictures / "deeper").iterdir())
    done = CliRunner().invoke(app, ["predict", "new", *named, "--vote", "hard"])
    assert done.exit_code == 1
    assert len(done.stdout.splitlines()) == 1 + 42
    assert "not judged: new/notes.txt: not an image" in done.stderr
    for arguments, message in (
        (["new", "--vote", "loud"], "predict: --vote is 'loud', expected one of hard, soft, product, weighted"),
        (["new"], "predict: models/resnet18/0.safetensors is not there: `dvc repro` trains it, `dvc pull` fetches it"),
        (["nowhere", *named], "predict: nowhere: there is no such file"),
    ):
        done = CliRunner().invoke(app, ["predict", *arguments])
        assert done.exit_code == 1
        assert done.stderr.startswith(message)
