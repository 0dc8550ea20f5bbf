import base64
import io
import json
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from stages import ensemble, report
from tumorboard.data.split import count_table
from tumorboard.data.store import write_store
from tumorboard.errors import InputError
from tumorboard.evaluation.metrics import scores
from tumorboard.evaluation.vote import VOTES
from tumorboard.params import Params, resolve_recipe
from tumorboard.tables import make_predictions, manifest_digest, read_predictions, write_json, write_table

NASTY = ["<b>&", "$x_1$ with a name that is really long", "ordinary"]
PARTS_LEFT_OUT = [("train", "twins", 5), ("val", "twins", 6), ("train", "patients", 7), ("val", "patients", 8)]


def write_run(root, params: Params, classes, images_a_group=3, groups=30, size=16, skill=1.0):
    """What the stages before `ensemble` leave: crops, split, models' recipes and histories, predictions, metrics."""
    generator = np.random.default_rng(0)
    n = images_a_group * groups
    label_of_group = np.arange(groups) % len(classes)
    group = np.repeat(np.arange(groups), images_a_group)
    labels = label_of_group[group]
    ids = [f"{classes[label]}/p{g} \n<i>{k}.jpg" for k, (label, g) in enumerate(zip(labels, group, strict=True))]
    manifest = pd.DataFrame({"id": ids, "path": ids, "label": np.array(classes, dtype=object)[labels]})
    manifest["group"] = [f"p{g}" for g in group]
    part = group // len(classes) % 3
    manifest["split"] = np.where(part == 0, "test", "train")
    manifest["fold"] = pd.array(np.where(part == 0, -1, part - 1), dtype="Int64")
    manifest["fold"] = manifest["fold"].mask(part == 0)
    manifest["source_id"] = ids
    manifest["sha256"] = [f"{k:064x}" for k in range(n)]
    crops = generator.integers(0, 255, (n, size, size, 3), dtype=np.uint8)
    write_store(root / "crop" / "store", ids, crops, 2)
    write_json({"equal_files": 3, "equal_pixels": 41}, root / "metrics" / "crop.json")
    dropped = {f"dropped_{part}_{why}": count for part, why, count in PARTS_LEFT_OUT}
    write_json({"label_conflicts": 2} | dropped, root / "metrics" / "split.json")
    rejected = pd.DataFrame({"path": ["bad & ugly.jpg"], "reason": ["truncated"], "detail": ["<at byte 7>"]})
    write_table(rejected, root / "crop" / "rejected.csv")
    write_table(manifest, root / "split" / "manifest.csv")
    write_table(count_table(manifest), root / "split" / "counts.csv")
    for number, model in enumerate(params.models):
        write_json(resolve_recipe(params, model).model_dump(mode="json"), root / "recipes" / f"{model}.json")
        for fold in params.folds:
            rows = manifest[(manifest["split"] == "test") | manifest["fold"].eq(fold).fillna(False)]
            rows = rows.assign(split=np.where(rows["split"] == "test", "test", "val"))
            right = np.array([classes.index(label) for label in rows["label"]])
            odds = generator.normal(size=(len(rows), len(classes))) * 1.5
            odds[np.arange(len(rows)), right] += skill * (1 + number)
            p = np.exp(odds) / np.exp(odds).sum(1, keepdims=True)
            table = make_predictions(rows, p, classes, manifest_digest(manifest))
            write_table(table, root / "predictions" / "members" / model / f"{fold}.csv")
            epochs = np.arange(1, 9)
            history = pd.DataFrame({"epoch": epochs, "lr": 0.1})
            for name, high, speed in (("train", 1.5, 0.5), ("val", 1.6, 0.4)):
                noise = generator.normal(size=8) * 0.03
                history[f"{name}_loss"] = high * np.exp(-speed * epochs / 4) / (1 + 0.2 * number) + noise
                history[f"{name}_accuracy"] = 1 - 0.3 * history[f"{name}_loss"]
            write_table(history, root / "training" / model / str(fold) / "history.csv")
            measured = {"parameters": 1234567 * (number + 1), "epoch": 5 + fold, "images_per_second": 321.5}
            write_json(measured, root / "metrics" / "evaluate" / model / f"{fold}.json")


def run_stages(root, params):
    metrics = root / "metrics"
    members = root / "predictions" / "members"
    ensemble.main(params, members, root / "predictions" / "votes", metrics / "ensemble.json", metrics / "votes.json")
    folders = [root / name for name in ("crop", "split", "recipes", "training", "predictions", "metrics", "plots")]
    report.main(params, *folders, root / "report" / "index.html")


@pytest.fixture(scope="module")
def panel(params):
    """Params of two models on two folds, few resamples."""
    return params.model_copy(
        update={
            "models": ("linear", "cnn"),
            "ensemble": params.ensemble.model_copy(update={"vote": "soft"}),
            "folds": (0, 1),
            "evaluate": params.evaluate.model_copy(update={"bootstrap": 50}),
        }
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory, panel):
    """A finished run with classes and paths that HTML, matplotlib and CSV have to escape."""
    root = tmp_path_factory.mktemp("run")
    write_run(root, panel, NASTY, skill=0.4)
    (root / "plots" / "images").mkdir(parents=True)
    (root / "plots" / "images" / "stale.png").write_bytes(b"old")
    run_stages(root, panel)
    return root


def text_of(page):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page.replace("\N{NO-BREAK SPACE}", " ")))


def test_headline_is_the_vote_on_the_test_part(run):
    vote = read_predictions(run / "predictions" / "votes" / "soft.csv")
    test = vote[vote["split"] == "test"]
    accuracy = (test[[f"p_{name}" for name in NASTY]].to_numpy().argmax(1) == test["label"].map(NASTY.index)).mean()
    headline = json.loads((run / "metrics" / "ensemble.json").read_text())
    assert headline["vote"] == "soft"
    assert headline["accuracy"] == pytest.approx(accuracy)
    assert headline["accuracy_low"] <= accuracy <= headline["accuracy_high"]
    assert headline["images"] == len(test) == 36
    text = text_of((run / "report" / "index.html").read_text("utf-8"))
    assert f"{100 * accuracy:.1f} %" in text
    assert f"{100 * headline['accuracy_low']:.1f} % to {100 * headline['accuracy_high']:.1f} %" in text
    assert "36 test images of 12 groups" in text
    assert "Always naming the commonest would score 33.3 %" in text


def test_page_is_self_contained_and_says_what_it_is_for(run):
    page = (run / "report" / "index.html").read_text("utf-8")
    assert set(re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?(.{14})""", page)) == {"data:image/png"}
    assert "<script" not in page
    assert page.count("For research, not for diagnosis.") == 2
    pictures = re.findall(r"data:image/png;base64,([^\"]+)", page)
    names = {path.stem for path in (run / "plots" / "images").iterdir()}
    assert len(pictures) == len(names) == 8
    for picture in pictures:
        Image.open(io.BytesIO(base64.b64decode(picture))).verify()


def test_names_are_escaped(run):
    page = (run / "report" / "index.html").read_text("utf-8")
    assert "&lt;b&gt;&amp;" in page
    assert "<b>&" not in page
    assert "<i>" not in page
    assert "<at byte" not in page
    assert "bad &amp; ugly.jpg" in page
    assert "&lt;at byte 7&gt;" in page


def test_page_tells_of_the_data_and_the_models(run):
    text = text_of((run / "report" / "index.html").read_text("utf-8"))
    assert "41 images repeat the pixels of another, 3 of them its whole file" in text
    assert "11 given training or validation images were left out" in text
    assert "15 because another image of their group does" in text
    assert "2 pictures are there under two labels" in text
    assert re.search(r"cnn cnn none linear adamw 0.001 2,469,134 5, 6 1 322", text)
    assert "mean over its 2 folds' models" in text


def test_tables_for_plots(run, panel):
    confusion = pd.read_csv(run / "plots" / "confusion.csv")
    assert list(confusion.columns) == ["model", "actual", "predicted"]
    assert confusion.groupby("model").size().to_dict() == {"linear": 36, "cnn": 36, "soft vote": 36}
    vote = read_predictions(run / "predictions" / "votes" / "soft.csv")
    expected = scores(vote[vote["split"] == "test"])
    of_vote = confusion[confusion["model"] == "soft vote"]
    assert (of_vote["actual"] == of_vote["predicted"]).mean() == pytest.approx(expected["accuracy"])
    table = pd.read_csv(run / "plots" / "scores.csv").set_index("model")
    assert table.loc["soft", "accuracy"] == pytest.approx(expected["accuracy"])
    assert table["kind"].to_dict() == dict.fromkeys(panel.models, "member") | dict.fromkeys(VOTES, "vote")
    curves = pd.read_csv(run / "plots" / "curves.csv")
    assert curves[curves["kept"]][["model", "fold", "epoch"]].to_numpy().tolist() == [
        ["linear", 0, 5],
        ["linear", 1, 6],
        ["cnn", 0, 5],
        ["cnn", 1, 6],
    ]
    history = pd.read_csv(run / "training" / "cnn" / "1" / "history.csv")
    own = curves[(curves["model"] == "cnn") & (curves["fold"] == 1)]
    assert own["val_loss"].tolist() == history["val_loss"].tolist()
    roc = pd.read_csv(run / "plots" / "roc.csv", keep_default_na=False)
    assert set(roc["class"]) == set(NASTY)
    assert not (run / "plots" / "images" / "stale.png").exists()


def test_metrics_are_strict_json_and_the_headline_is_flat(run):
    def refuse(constant):
        raise AssertionError(constant)

    for path in (run / "metrics").glob("*.json"):
        json.loads(path.read_text(), parse_constant=refuse)
    headline = json.loads((run / "metrics" / "ensemble.json").read_text())
    assert all(not isinstance(value, dict) for value in headline.values())
    compared = json.loads((run / "metrics" / "votes.json").read_text())
    assert set(compared["members"]) == {"linear", "cnn"}
    assert set(compared["folds"]["cnn"]) >= {"accuracy_mean", "accuracy_sd"}


def test_a_second_run_writes_the_same_bytes(run, panel):
    files = [path for path in run.rglob("*") if path.is_file()]
    before = {path: path.read_bytes() for path in files}
    run_stages(run, panel)
    assert {path: path.read_bytes() for path in files} == before


def test_a_shorter_list_leaves_nothing_of_the_others(tmp_path, panel):
    write_run(tmp_path, panel, ["a", "b"], groups=18)
    own = tmp_path / "training" / "mine.safetensors"
    own.write_bytes(b"a user's file")
    run_stages(tmp_path, panel.model_copy(update={"models": ("cnn",), "folds": (1,)}))
    for folder in ("training", "predictions/members", "metrics/evaluate"):
        assert not (tmp_path / folder / "linear").exists()
        assert {path.stem for path in (tmp_path / folder / "cnn").iterdir()} <= {"1", "recipe"}
    assert own.exists()
    page = (tmp_path / "report" / "index.html").read_text("utf-8")
    assert "A panel of 1 model," in page
    assert "linear vote" not in page


def test_no_resamples_no_intervals(tmp_path, panel):
    write_run(tmp_path, panel, ["a", "b"], groups=18)
    run_stages(tmp_path, panel.model_copy(update={"evaluate": panel.evaluate.model_copy(update={"bootstrap": 0})}))
    assert "interval" not in text_of((tmp_path / "report" / "index.html").read_text("utf-8"))


def test_a_perfect_vote_has_no_mistakes_to_show_and_no_interval(tmp_path, panel):
    write_run(tmp_path, panel, ["a", "b"], groups=18, skill=50)
    run_stages(tmp_path, panel)
    text = text_of((tmp_path / "report" / "index.html").read_text("utf-8"))
    assert "The vote made none." in text
    assert "95 % interval undefined" in text
    assert not (tmp_path / "plots" / "images" / "mistakes.png").exists()


def test_a_missing_file_is_named(tmp_path, panel):
    write_run(tmp_path, panel, ["a", "b"], groups=18)
    (tmp_path / "predictions" / "members" / "cnn" / "1.csv").unlink()
    with pytest.raises(InputError, match=r"cnn/1\.csv"):
        run_stages(tmp_path, panel)
