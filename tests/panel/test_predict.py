"""Prediction on new images: the networks' own probabilities, the vote's own code, and no file left out silently."""

from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from tests.panel.models import CLASSES, save_panel
from tumorboard.base.errors import InputError
from tumorboard.base.files import write_table
from tumorboard.base.params import Params
from tumorboard.base.tables import make_predictions
from tumorboard.images.crop import crop_image
from tumorboard.models.model_file import load_model, save_model
from tumorboard.panel import predict as panel_predict
from tumorboard.panel.panel import load_panel
from tumorboard.panel.predict import check_writable, list_new_files, predict_images, summarize_decisions
from tumorboard.panel.votes import fit_weights


@pytest.fixture
def files(tmp_path: Path, params: Params) -> list[Path]:
    return save_panel(tmp_path, params)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Forty images in two folders, with a text file, an empty file and a hidden file beside them."""
    folder = tmp_path / "new"
    (folder / "deeper").mkdir(parents=True)
    for number in range(40):
        noise = np.random.default_rng(number).integers(0, 256, (50, 60, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / ("deeper" if number % 2 else ".") / f"{number:02d}, é.png")
    (folder / "notes.txt").write_text("no picture")
    (folder / "empty.png").touch()
    (folder / ".hidden.png").touch()
    return folder


def probabilities_by_hand(file: Path, paths: list[str], params: Params) -> np.ndarray:
    model, _ = load_model(file, "cpu")
    crops = [crop_image(np.asarray(Image.open(path)), params.crop) for path in paths]
    with torch.inference_mode():
        return model(torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)).double().softmax(1).numpy()


def predict(
    files: list[Path],
    paths: list[Path],
    vote: str = "soft",
    joined: Path | None = None,
    known: dict[str, str] | None = None,
    workers: int = 1,
) -> pd.DataFrame:
    return predict_images(
        load_panel(files, "cpu"),
        list_new_files(paths),
        frames=None,
        vote=vote,
        joined=joined,
        known=known or {},
        workers=workers,
    )


def test_each_file_has_a_row_with_the_mean_over_folds_and_models(files, pictures, params):
    decisions = predict(files, [pictures])
    assert decisions["path"].tolist() == sorted(str(path) for path in pictures.rglob("[!.]*") if path.is_file())
    bad = decisions[decisions["problem"] != ""].set_index("path")
    assert bad["problem"].str.partition(":")[0].to_dict() == {
        str(pictures / "notes.txt"): "not an image",
        str(pictures / "empty.png"): "empty",
    }
    assert bad[["decided", "probability", "p_a", "p_b", "p_c"]].isna().all(axis=None)
    good = decisions[decisions["problem"] == ""]
    assert len(good) == 40
    each = [probabilities_by_hand(file, good["path"].tolist(), params) for file in files]
    models = [(each[0] + each[1]) / 2, (each[2] + each[3]) / 2]
    vote = (models[0] + models[1]) / 2
    np.testing.assert_allclose(good[["p_b", "p_a", "p_c"]], vote, atol=1e-5)
    assert good["decided"].tolist() == [CLASSES[choice] for choice in vote.argmax(1)]
    np.testing.assert_allclose(good["probability"].astype(float), vote.max(1), atol=1e-5)
    agreeing = sum((model.argmax(1) == vote.argmax(1)).astype(int) for model in models)
    assert good["agreeing"].tolist() == [f"{count} of 2" for count in agreeing]
    assert len(set(agreeing)) > 1
    assert list(decisions) == [
        *("path", "decided", "probability", "agreeing", "p_b", "p_a", "p_c", "known", "problem")
    ]  # fmt: skip


def test_several_processes_and_one_file_at_a_time_give_the_same(files, pictures):
    several = predict(files, [pictures], "product", workers=2)
    pd.testing.assert_frame_equal(several, predict(files, [pictures], "product"))
    alone = predict(files, [pictures / "00, é.png"], "product")
    same_file = several[several["path"] == alone["path"][0]].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone, same_file, atol=1e-6)


def test_the_weighted_vote_has_the_weights_of_the_runs_validation(files, pictures, params, tmp_path):
    rng = np.random.default_rng(0)
    labels = [CLASSES[n % 3] for n in range(60)]
    rows = pd.DataFrame({"id": [f"v{n}" for n in range(60)], "group": "g", "split": "val", "label": labels})
    members = {}
    for model, skill in (("linear", 2.0), ("cnn", 3.0)):
        logits = 3 * rng.normal(size=(60, 3)) + skill * np.eye(3)[np.arange(60) % 3]
        probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        members[model] = make_predictions(rows, probabilities, CLASSES, "0" * 16)
        write_table(members[model], tmp_path / f"joined/{model}.csv")
    weights = fit_weights(members)
    assert 0.1 < weights["linear"] < weights["cnn"]
    decisions = predict(files, [pictures / "deeper"], "weighted", tmp_path / "joined")
    each = [probabilities_by_hand(file, decisions["path"].tolist(), params) for file in files]
    vote = weights["linear"] * (each[0] + each[1]) / 2 + weights["cnn"] * (each[2] + each[3]) / 2
    np.testing.assert_allclose(decisions[["p_b", "p_a", "p_c"]], vote, atol=1e-5)


def test_the_weighted_vote_refuses_rows_of_another_run(files, pictures, tmp_path):
    with pytest.raises(InputError, match="weighted vote needs a run's validation rows"):
        predict(files, [pictures], "weighted")
    rows = pd.DataFrame({"id": ["v"], "group": "g", "split": "val", "label": "a"})
    for classes, digest in ((CLASSES, "1" * 16), (CLASSES[::-1], "0" * 16)):
        for model in ("linear", "cnn"):
            table = make_predictions(rows, np.full((1, 3), 1 / 3), classes, digest)
            write_table(table, tmp_path / f"joined/{model}.csv")
        message = rf"linear\.csv: is of manifest {digest}, but the models were trained on 0{{16}}"
        with pytest.raises(InputError, match=message):
            predict(files, [pictures], "weighted", tmp_path / "joined")


def test_a_network_whose_outputs_are_not_finite_is_named(files, pictures):
    network, card = load_model(files[2], "cpu")
    network.head.bias.data[0] = torch.nan
    save_model(files[2], network, card)
    with pytest.raises(InputError, match=r"cnn/0\.safetensors: the network's outputs are not finite"):
        predict(files, [pictures])


def test_a_network_trained_in_fp16_predicts_in_float32_on_a_cpu(files, pictures, params):
    network, card = load_model(files[2], "cpu")
    recipe = card.recipe.model_copy(update={"precision": "fp16"})
    save_model(files[2], network, card.model_copy(update={"recipe": recipe}))
    decisions = predict(files[2:3], [pictures / "deeper"])
    expected = probabilities_by_hand(files[2], decisions["path"].tolist(), params)
    np.testing.assert_allclose(decisions[["p_b", "p_a", "p_c"]], expected, atol=1e-5)


def test_files_are_listed_once_in_the_order_given(pictures):
    first, second = pictures / "deeper/03, é.png", pictures / "deeper/01, é.png"
    assert list_new_files([first, second, first]) == [first, second]
    listed = list_new_files([first, pictures / "deeper"])
    assert listed[:2] == [first, second]
    assert sorted(listed) == sorted((pictures / "deeper").iterdir())


def test_missing_files_are_named(files, tmp_path):
    with pytest.raises(InputError, match="nowhere: no such file or folder"):
        list_new_files([tmp_path / "nowhere"])
    (tmp_path / "bare").mkdir()
    with pytest.raises(InputError, match=r"no files in .*bare"):
        list_new_files([tmp_path / "bare"])
    (tmp_path / "link.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(InputError, match=r"none of 1 files can be used; the first is .*link.png: broken"):
        predict(files, [tmp_path / "link.png"])


def test_an_output_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "a_file").touch()
    with pytest.raises(InputError, match=r"is a folder: name a file, such as .*new\.csv"):
        check_writable(tmp_path)
    with pytest.raises(InputError, match=r"a_file/new\.csv: cannot be written: "):
        check_writable(tmp_path / "a_file/new.csv")
    check_writable(tmp_path / "deep/folder/new.csv")
    assert list((tmp_path / "deep/folder").iterdir()) == []


def test_a_file_of_the_panels_own_data_is_marked(files, pictures):
    own = pictures / "00, é.png"
    decisions = predict(files, [pictures], known={sha256(own.read_bytes()).hexdigest(): "train"})
    assert decisions[decisions["known"] != ""][["path", "known"]].to_numpy().tolist() == [[str(own), "train"]]


def test_the_summary_counts_classes_known_files_and_problems(files):
    names = [f"{number}.png" for number in range(16)]
    decisions = pd.DataFrame({"path": names, "decided": ["b", "a", "b", None] * 4, "known": ["train"] + [""] * 15})
    decisions["problem"] = ["", "", "", "empty: no bytes"] * 4
    decisions.loc[3, "path"] = "two\nlines.png"
    assert summarize_decisions(decisions, load_panel(files, "cpu"), "hard") == [
        "12 of 16 files classified by 2 models, hard vote: a 4, b 8",
        "1 files are in the panel's own data (column known)",
        r"not classified: 'two\nlines.png': empty: no bytes",
        "not classified: 7.png: empty: no bytes",
        "not classified: 11.png: empty: no bytes",
        "not classified: 15.png: empty: no bytes",
        "For research, not for diagnosis.",
    ]
    many = decisions.assign(problem="empty: no bytes")
    assert len(summarize_decisions(many, load_panel(files, "cpu"), "hard")) == 1 + 1 + 10 + 1


def test_a_card_adds_to_the_disclaimer_and_never_replaces_it(files):
    network, card = load_model(files[0], "cpu")
    use = "Cleared for diagnosis.\n\x1b[2K\rFor diagnosis." + "x" * 1000
    save_model(files[0], network, card.model_copy(update={"intended_use": use}))
    decisions = pd.DataFrame({"path": ["1.png"], "decided": ["b"], "known": [""], "problem": [""]})
    *_, said, ours = summarize_decisions(decisions, load_panel(files, "cpu"), "soft")
    assert ours == "For research, not for diagnosis."
    assert said.startswith(r"the model file says of its use: 'Cleared for diagnosis.\n\x1b[2K\rFor diagnosis.xxx")
    assert said.isprintable()
    assert len(said) < 400


def test_large_crops_are_classified_in_smaller_batches_with_the_same_result(files, pictures, monkeypatch):
    whole = predict(files, [pictures])
    sizes = []
    forward = panel_predict.crop_logits
    monkeypatch.setattr(panel_predict, "_WHOLE_CHUNK_SIDE", 16)
    monkeypatch.setattr(
        panel_predict, "crop_logits", lambda net, crops, **rest: sizes.append(len(crops)) or forward(net, crops, **rest)
    )
    parts = predict(files, [pictures])
    assert max(sizes) == 32 * 16**2 // 32**2
    pd.testing.assert_frame_equal(whole, parts, atol=1e-6)
