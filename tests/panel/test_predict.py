"""Prediction on new images: the networks' own probabilities, the vote's own code, and no file left out silently."""

import dataclasses
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from tests.panel.models import CLASSES, save_panel, save_untrained
from tumorboard.base.errors import InputError
from tumorboard.base.params import Params
from tumorboard.base.tables import manifest_digest, probabilities_of
from tumorboard.data.new_files import list_new_files, open_decoders
from tumorboard.data.store import CropStore, write_store
from tumorboard.evaluation.held_out import HeldOut, assign_parts, write_held_out
from tumorboard.evaluation.summary import Judging
from tumorboard.images.crop import crop_image
from tumorboard.models.model_file import load_model, save_model
from tumorboard.panel import comparison, trained_model
from tumorboard.panel import panel as panel_module
from tumorboard.panel.comparison import HEADING, MemberOutputs, judge_panel
from tumorboard.panel.deciding import Deciding, unfitted
from tumorboard.panel.evaluate import evaluate_model
from tumorboard.panel.fits import Fitting
from tumorboard.panel.fitted import Fit
from tumorboard.panel.panel_file import read_panel, write_panel
from tumorboard.panel.predict import check_writable, predict_images, summarize_decisions
from tumorboard.panel.stacking import Column, Stacking
from tumorboard.panel.trained_model import load_panel


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


FITTED = Fit(
    vote="product",
    temperatures={"linear": 0.5, "cnn": 2.0},
    weights={"linear": 0.3, "cnn": 0.7},
    vote_temperatures={"soft": 1.5, "product": 3.0, "weighted": 0.8},
)


def decide(vote="soft", fit=None, positive=None, abstain=0.0):
    return Deciding(fit=fit or unfitted(["linear", "cnn"]), vote=vote, positive=positive, abstain=abstain)


def predict(
    files: list[Path],
    paths: list[Path],
    deciding: Deciding | None = None,
    known: dict[str, str] | None = None,
    workers: int = 1,
) -> pd.DataFrame:
    panel, pictures = load_panel(files, "cpu"), list_new_files(paths)
    with open_decoders(len(pictures), workers, None) as decoders:
        return predict_images(
            panel,
            pictures,
            deciding=deciding or decide(fit=unfitted(list(panel.models))),
            frames=None,
            known=known or {},
            decoders=decoders,
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
        *("path", "decided", "probability", "agreeing", "p_b", "p_a", "p_c", "threshold", "unlike", "known", "problem")
    ]  # fmt: skip


@pytest.mark.usefixtures("warm_children")
def test_several_processes_and_one_file_at_a_time_give_the_same(files, pictures):
    several = predict(files, [pictures], decide("product"), workers=2)
    pd.testing.assert_frame_equal(several, predict(files, [pictures], decide("product")))
    alone = predict(files, [pictures / "00, é.png"], decide("product"))
    same_file = several[several["path"] == alone["path"][0]].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone, same_file, atol=1e-6)


def tempered(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    powers = probabilities ** (1 / temperature)
    return powers / powers.sum(1, keepdims=True)


@pytest.mark.parametrize("vote", ["soft", "product", "weighted"])
def test_temperatures_are_those_of_members_before_the_folds_mean_and_of_the_vote(files, pictures, params, vote):
    decisions = predict(files, [pictures / "deeper"], decide(vote, FITTED))
    each = [probabilities_by_hand(file, decisions["path"].tolist(), params) for file in files]
    linear = (tempered(each[0], 0.5) + tempered(each[1], 0.5)) / 2
    cnn = (tempered(each[2], 2.0) + tempered(each[3], 2.0)) / 2
    pooled = {"soft": linear + cnn, "product": linear * cnn, "weighted": 0.3 * linear + 0.7 * cnn}[vote]
    expected = tempered(pooled, FITTED.vote_temperatures[vote])
    np.testing.assert_allclose(decisions[["p_b", "p_a", "p_c"]], expected, atol=1e-5)
    assert expected.max(1).min() < 0.9


def test_the_weighted_vote_needs_fitted_weights(files, pictures):
    for vote in ("weighted", "single", "stacking"):
        with pytest.raises(InputError, match=rf"{vote} vote needs the weights of a study's models/panel\.json: choose"):
            predict(files, [pictures], decide(vote))
    with pytest.raises(InputError, match=r"stacking vote was not fitted in this study .*: choose another --vote"):
        predict(files, [pictures], decide("stacking", FITTED))


def test_a_vote_with_columns_needs_a_table_and_uses_its_rows_by_path(files, pictures):
    """The members have no coefficients here, so that the vote is what the columns say."""
    nothing = (0.0,) * 6
    fit = replace(
        FITTED,
        stacking=Stacking(
            coefficients=(
                (*nothing, 0.0, 0.0, 0.0, 0.0),
                (*nothing, 1.0, 2.0, 3.0, 4.0),
                (*nothing, 0.0, 0.0, 0.0, 0.0),
            ),
            intercepts=(0.0, 0.0, 0.0),
            penalty=1.0,
            columns=(Column("age", (), 50.0, 10.0), Column("sex", ("f",), None, None)),
        ),
    )
    paths = sorted((pictures / "deeper").iterdir())[:3]
    with pytest.raises(InputError, match=r"needs age, sex of each image: .* columns path, age, sex: --columns"):
        predict(files, paths, decide("stacking", fit))
    cells = dict(zip(paths, (["70", "f"], ["", "m"], ["50", ""]), strict=True))
    decisions = predict(files, paths[::-1], replace(decide("stacking", fit), cells=cells))
    for column, odds in zip(decisions[["p_b", "p_a", "p_c"]].to_numpy(float), (0 + 4, 2 + 0, 2 + 3), strict=True):
        assert column == pytest.approx(np.exp([0, odds, 0]) / (2 + np.exp(odds)))
    assert predict(files, paths, decide("soft", fit))["p_a"].notna().all(), "other votes need no table"


@pytest.fixture
def two_classes(tmp_path: Path, params: Params) -> list[Path]:
    """Two models of the classes b and a, of two folds each."""
    models = [("linear", 0), ("linear", 1), ("cnn", 0), ("cnn", 1)]
    return [save_untrained(tmp_path, params, *model, seed, classes=("b", "a")) for seed, model in enumerate(models, 1)]


def test_the_threshold_decides_for_the_vote_that_it_was_fitted_for_alone(two_classes, pictures):
    paths = [pictures / "deeper"]
    p_a = predict(two_classes, paths, decide("product", FITTED))["p_a"].to_numpy(float)
    threshold = float(np.median(p_a[p_a < 0.5]) + 1e-9)
    fit = dataclasses.replace(FITTED, threshold=threshold)
    decided = predict(two_classes, paths, decide("product", fit, positive="a"))
    assert decided["decided"].tolist() == np.where(p_a >= threshold, "a", "b").tolist()
    assert 0 < ((p_a >= threshold) & (p_a < 0.5)).sum() < len(p_a)
    stated = decided["probability"].to_numpy(float)
    assert stated == pytest.approx(np.where(p_a >= threshold, p_a, 1 - p_a), abs=1e-12)
    assert (decided["p_a"].to_numpy(float) == p_a).all()
    assert decided["threshold"].tolist() == [threshold] * len(p_a)
    # A class that the threshold decides for may be the less probable one; only an image without a probable class is not
    # decided about.
    held_back = predict(two_classes, paths, decide("product", fit, positive="a", abstain=0.6))
    sure = np.maximum(p_a, 1 - p_a) >= 0.6
    assert held_back["decided"].tolist() == np.where(sure, decided["decided"], "").tolist()
    for deciding in (decide("soft", fit, positive="a"), decide("product", fit)):
        table = predict(two_classes, paths, deciding)
        assert table["decided"].tolist() == np.where(table["p_a"] > table["p_b"], "a", "b").tolist()
        assert table["threshold"].isna().all()
    on_it = dataclasses.replace(FITTED, threshold=float(p_a[3]))
    assert predict(two_classes, paths, decide("product", on_it, positive="a"))["decided"][3] == "a"
    first = predict(two_classes, paths, decide("product", fit, positive="b"))
    assert first["decided"].tolist() == np.where(1 - p_a >= threshold, "b", "a").tolist()


def test_an_image_below_the_least_probability_is_left_undecided(files, pictures):
    free = predict(files, [pictures], decide())
    usable = free["problem"] == ""
    limit = float(free["probability"][usable].median())
    held_back = predict(files, [pictures], decide(abstain=limit))
    below = usable & (free["probability"] < limit)
    assert 0 < below.sum() < usable.sum()
    assert (held_back["decided"][below] == "").all()
    pd.testing.assert_series_equal(held_back["decided"][~below], free["decided"][~below])
    pd.testing.assert_frame_equal(held_back.drop(columns="decided"), free.drop(columns="decided"))


@pytest.mark.parametrize("calibrate", [True, False])
def test_new_images_get_what_the_study_gave_its_test_images_to_the_last_digit(
    tmp_path, pictures, params, monkeypatch, calibrate
):
    """From the images' files by evaluation, the fits and their file, and by prediction."""
    monkeypatch.setattr(comparison, "score_part", lambda *_, **__: {})
    paths = sorted((pictures / "deeper").iterdir())
    ids = [str(path) for path in paths]
    crops = np.stack([crop_image(np.asarray(Image.open(path)), params.crop) for path in paths])
    write_store(tmp_path / "store", ids, crops, 2)
    manifest = pd.DataFrame({"id": ids, "path": ids, "label": [CLASSES[row % 3] for row in range(20)], "group": ids})
    manifest["split"] = ["test"] * 6 + ["train"] * 14
    manifest["fold"] = pd.array([None] * 6 + [0, 1] * 7, dtype="Int64")
    manifest = manifest.assign(source_id=ids, sha256=ids)
    changes = {"manifest": manifest_digest(manifest)}
    files, outputs = [], {"linear": {}, "cnn": {}}
    for seed, (model, fold) in enumerate((("linear", 0), ("linear", 1), ("cnn", 0), ("cnn", 1)), 1):
        files.append(save_untrained(tmp_path, params, model, fold, seed, changes))
        parts = assign_parts(manifest[manifest["fold"].eq(fold).fillna(False)]["group"].tolist())
        logits = np.random.default_rng(seed).normal(size=(6, 7, 3)).astype(np.float32)
        write_held_out(HeldOut(parts, logits, np.ones(6, np.int64), np.zeros(6)), tmp_path / "held_out")
        one = evaluate_model(
            files[-1],
            tmp_path / "held_out",
            model=model,
            fold=fold,
            manifest=manifest,
            crops=CropStore(tmp_path / "store"),
            runtime=params.runtime,
            test=True,
        )
        held_out = HeldOut(parts, logits, np.ones(6, np.int64), np.zeros(6))
        outputs[model][fold] = MemberOutputs(one.validation, held_out, one.test)
    fitting = Fitting(
        models=["linear", "cnn"], classes=CLASSES, vote="auto", calibrate=calibrate, positive=None, rule=None
    )
    results = judge_panel(outputs, fitting, Judging(evaluate=params.evaluate, seed=0))
    assert (len({1.0, *results.fit.temperatures.values()}) == 3) == calibrate
    write_panel(tmp_path / "panel.json", results.fit, classes=CLASSES, manifest=changes["manifest"], positive=None)
    panel = read_panel(tmp_path / "panel.json", ["linear", "cnn"], classes=CLASSES, manifest=changes["manifest"])
    for vote in (*results.fit.votes, HEADING):
        name = panel.vote if vote == HEADING else vote
        decisions = predict(files, paths[:6], decide(name, panel.fit))
        assert (decisions[["p_b", "p_a", "p_c"]].to_numpy(float) == probabilities_of(results.test.votes[vote])).all()


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


def test_where_no_file_can_be_used_the_first_is_named(files, tmp_path):
    (tmp_path / "link.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(InputError, match=r"none of 1 files can be used; the first is .*link.png: broken"):
        predict(files, [tmp_path / "link.png"])


def test_an_output_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "a_file").touch()
    with pytest.raises(InputError, match=r"is a folder: name a file in it"):
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
    assert summarize_decisions(decisions, load_panel(files, "cpu"), decide("hard")) == [
        "12 of 16 files classified by 2 models, hard vote: a 4, b 8",
        "in the panel's own data (column known): 1",
        r"not classified: 'two\nlines.png': empty: no bytes",
        "not classified: 7.png: empty: no bytes",
        "not classified: 11.png: empty: no bytes",
        "not classified: 15.png: empty: no bytes",
        "For research, not for diagnosis.",
    ]
    many = decisions.assign(problem="empty: no bytes")
    assert len(summarize_decisions(many, load_panel(files, "cpu"), decide("hard"))) == 1 + 1 + 10 + 1


def test_the_summary_names_threshold_undecided_and_unlike_images(files):
    decisions = pd.DataFrame({"path": list("1234"), "decided": ["b", "", "", "a"], "known": "", "problem": ""})
    decisions["unlike"] = [0.5, 1.0, 3.2, np.nan]
    deciding = Deciding(
        fit=dataclasses.replace(FITTED, threshold=0.12345), vote="product", positive="b", abstain=0.6, unlike=2.0
    )
    panel = load_panel(files, "cpu")
    assert summarize_decisions(decisions, panel, deciding) == [
        "4 of 4 files classified by 2 models, product vote: undecided 2, a 1, b 1",
        "b is decided from a probability of 0.1235 on, a threshold chosen on validation images",
        "unlike the training images (column unlike, 1 and above), so that the class is not to be trusted: 2",
        "For research, not for diagnosis.",
    ]
    other_vote = dataclasses.replace(deciding, vote="soft", unlike=None)
    assert len(summarize_decisions(decisions, panel, other_vote)) == 2


def test_a_card_adds_to_the_disclaimer_and_never_replaces_it(files):
    network, card = load_model(files[0], "cpu")
    use = "Cleared for diagnosis.\n\x1b[2K\rFor diagnosis." + "x" * 1000
    save_model(files[0], network, card.model_copy(update={"intended_use": use}))
    decisions = pd.DataFrame({"path": ["1.png"], "decided": ["b"], "known": [""], "problem": [""]})
    *_, said, ours = summarize_decisions(decisions, load_panel(files, "cpu"), decide())
    assert ours == "For research, not for diagnosis."
    assert said.startswith(r"the model file says of its use: 'Cleared for diagnosis.\n\x1b[2K\rFor diagnosis.xxx")
    assert said.isprintable()
    assert len(said) < 400


def test_large_crops_are_classified_in_smaller_batches_with_the_same_result(files, pictures, monkeypatch):
    whole = predict(files, [pictures])
    sizes = []
    forward = trained_model.crop_logits
    monkeypatch.setattr(panel_module, "_WHOLE_CHUNK_SIDE", 16)
    monkeypatch.setattr(
        trained_model, "crop_logits", lambda net, crops, **rest: sizes.append(len(crops)) or forward(net, crops, **rest)
    )
    parts = predict(files, [pictures])
    assert max(sizes) == 32 * 16**2 // 32**2
    pd.testing.assert_frame_equal(whole, parts, atol=1e-6)
