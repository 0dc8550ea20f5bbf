import base64
import contextlib
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
from tumorboard.tables import (
    make_predictions,
    manifest_digest,
    read_manifest,
    read_predictions,
    write_json,
    write_table,
)

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
    astray = [
        {"part": "fold_1", "label": classes[0], "wanted": 0.3333, "got": 0.25, "why": "groups stay <whole>"},
        {"part": "test", "label": "", "wanted": 0.2, "got": 0.4, "why": "another reason"},
    ]
    explained = {"outside_tolerance": 2, "explanations": astray}
    write_json(dropped | explained, root / "metrics" / "split.json")
    write_audit(root, manifest)
    quarantined = pd.DataFrame({"path": ["bad & ugly.jpg"], "reason": ["truncated"], "detail": ["<at byte 7>"]})
    write_table(quarantined, root / "crop" / "quarantined.csv")
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


def write_audit(root, manifest):
    """One pair of copies of each kind that the figure ranks, and a probe that could not be tried on a test part."""
    kinds = [("bytes", 1.0, False), ("near", 0.97, True), ("near", 0.951, False), ("near", 0.99, False)]
    rows = manifest.iloc[:8]
    pairs = pd.DataFrame(kinds, columns=["kind", "correlation", "mirrored"])
    pairs.insert(0, "first", rows["id"].to_numpy()[::2])
    pairs.insert(1, "second", rows["id"].to_numpy()[1::2])
    pairs["first_label"] = NASTY[0]
    pairs["second_label"] = [NASTY[0]] * 3 + [NASTY[1]]
    pairs["first_split"] = "train"
    pairs["second_split"] = ["test", "test", "train", "train"]
    write_table(pairs, root / "split" / "duplicates.csv")
    quarantined = pd.DataFrame({"path": ["<two>.jpg"], "reason": ["label conflict"], "detail": ["both"]})
    write_table(quarantined, root / "split" / "quarantined.csv")
    scores = {"accuracy": [0.71, 0.4], "majority": 0.33, "skill": [0.567, 0.0], "test_accuracy": np.nan}
    scores |= {"test_majority": np.nan, "test_skill": np.nan}
    probe = pd.DataFrame({"facts": ["width", "all of them"], "images": 90} | scores)
    write_table(probe, root / "split" / "shortcuts.csv")
    audited = {"policy": "regroup", "may_leak": False, "images": 1234, "pictures": 1200, "pairs_bytes": 3}
    audited |= {"pairs_pixels": 38, "pairs_near": 7, "pairs_mirrored": 1, "sets": 29, "largest_set": 5}
    audited |= {"sets_across_given_parts": 4, "too_faint_to_compare": 6, "label_conflicts": 2, "quarantined": 9}
    write_json(audited | {"dropped": 26, "shortcuts": 1}, root / "metrics" / "audit.json")


def run_stages(root, params):
    metrics = root / "metrics"
    members = root / "predictions" / "members"
    joined, votes = root / "predictions" / "joined", root / "predictions" / "votes"
    ensemble.main(params, members, joined, votes, metrics / "ensemble.json", metrics / "votes.json")
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
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        run_stages(root, panel)
    (root / "printed.txt").write_text(printed.getvalue())
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


def test_stage_prints_the_scores_with_the_heading_vote_last(run):
    headline = json.loads((run / "metrics" / "ensemble.json").read_text())
    lines = (run / "printed.txt").read_text().splitlines()
    assert lines[0] == "36 test images of 12 groups:"
    names = [re.split(r"\s{2,}", line.strip())[0] for line in lines[1:]]
    assert names == ["linear", "cnn", "hard vote", "product vote", "weighted vote", "soft vote"]
    low, high = headline["accuracy_low"], headline["accuracy_high"]
    said = (
        f"accuracy {100 * headline['accuracy']:.1f} % ({100 * low:.1f} to {100 * high:.1f})  AUC {headline['auc']:.3f}"
    )
    assert lines[-1] == f"  soft vote      {said}"


def test_page_is_self_contained_and_says_what_it_is_for(run):
    page = (run / "report" / "index.html").read_text("utf-8")
    assert set(re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?(.{14})""", page)) == {"data:image/png"}
    assert "<script" not in page
    assert page.count("For research, not for diagnosis.") == 2
    pictures = re.findall(r"data:image/png;base64,([^\"]+)", page)
    names = {path.stem for path in (run / "plots" / "images").iterdir()}
    assert len(pictures) == len(names) == 9
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
    assert "equal files 3 equal pixels in another file 38" in text
    assert "other brightness; mirrored: 1 7" in text
    assert "1,234 images show 1,200 different pictures; 29 of them are there several times, at most 5 times" in text
    assert "4 are in more than one of the parts" in text
    assert "width 71.0 % 0.57 undefined undefined" in text
    assert "1 of these facts give the class away" in text
    assert "11 given training or validation images were left out" in text
    assert "15 because another image of their group does" in text
    assert "2 pictures are there under two labels; 9 images were quarantined" in text
    assert "may leak" not in text
    assert "2 shares of classes or parts are farther than split.tolerance" in text
    assert "fold 1, class &lt;b&gt;&amp;: 25.0 % instead of 33.3 %, groups stay &lt;whole&gt;;" in text
    assert "test, all its images: 40.0 % instead of 20.0 %, another reason." in text
    assert re.search(r"cnn cnn none linear adamw 0.001 2,469,134 5, 6 1 322", text)
    assert "mean over its 2 folds' models" in text


def test_the_most_telling_pairs_come_first(run):
    page = (run / "report" / "index.html").read_text("utf-8")
    table = text_of(page[page.index("Pairs of copies:") : page.index("Shortcuts: the class")])
    # Under two labels, then across parts, then near, then equal files.
    found = [table.index(words) for words in ("near 0.990", "near, mirrored 0.970", "near 0.951", "bytes")]
    assert found == sorted(found)


def test_a_split_that_may_leak_says_so(tmp_path, panel):
    write_run(tmp_path, panel, ["a", "b"], groups=18)
    audited = json.loads((tmp_path / "metrics" / "audit.json").read_text())
    write_json(audited | {"policy": "report", "may_leak": True}, tmp_path / "metrics" / "audit.json")
    run_stages(tmp_path, panel)
    text = text_of((tmp_path / "report" / "index.html").read_text("utf-8"))
    assert "This split may leak: 29 pictures are there several times" in text
    assert "no two copies of a picture" not in text


def test_tables_for_plots(run, panel):
    confusion = pd.read_csv(run / "plots" / "confusion.csv")
    assert {"model", "actual", "predicted", "count"} <= set(confusion.columns)
    assert confusion.groupby("model")["count"].sum().to_dict() == {"linear": 36, "cnn": 36, "soft vote": 36}
    classes = set(confusion["actual"])
    assert all(len(part) == len(classes) ** 2 for _, part in confusion.groupby("model"))
    vote = read_predictions(run / "predictions" / "votes" / "soft.csv")
    expected = scores(vote[vote["split"] == "test"])
    of_vote = confusion[confusion["model"] == "soft vote"]
    right = of_vote[of_vote["actual"] == of_vote["predicted"]]
    assert right["count"].sum() / 36 == pytest.approx(expected["accuracy"])
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
    assert set(compared["folds"]["members"]) == {"linear", "cnn"}
    assert set(compared["folds"]["votes"]) == set(VOTES)


def test_the_spread_over_the_folds_is_in_the_headline_and_on_the_page(run, panel):
    accuracies = {"val": [], "test": []}
    for fold in panel.folds:
        tables = [read_predictions(run / "predictions" / "members" / model / f"{fold}.csv") for model in panel.models]
        probabilities = np.mean([table[[f"p_{name}" for name in NASTY]].to_numpy() for table in tables], axis=0)
        right = probabilities.argmax(1) == tables[0]["label"].map(NASTY.index)
        for part, found in accuracies.items():
            found.append(right[tables[0]["split"] == part].mean())
    headline = json.loads((run / "metrics" / "ensemble.json").read_text())
    text = text_of((run / "report" / "index.html").read_text("utf-8"))
    for part, prefix in (("val", "val_"), ("test", "")):
        mean, deviation = np.mean(accuracies[part]), np.std(accuracies[part], ddof=1)
        assert headline[f"{prefix}accuracy_mean"] == pytest.approx(mean)
        assert headline[f"{prefix}accuracy_sd"] == pytest.approx(deviation)
        assert re.search(rf"soft vote \S+ ± \S+ {100 * mean:.1f} % ± {100 * deviation:.1f} %", text)
    assert "54 of 54 training images were held out" in text


def test_every_training_image_is_judged_by_the_fold_that_held_it_out(run, panel):
    manifest = read_manifest(run / "split" / "manifest.csv")
    for model in panel.models:
        joined = read_predictions(run / "predictions" / "joined" / f"{model}.csv")
        judged = joined[joined["split"] == "val"]
        assert sorted(judged["id"]) == sorted(manifest["id"][manifest["split"] == "train"])
        folds = manifest.set_index("id")["fold"]
        for fold in panel.folds:
            own = read_predictions(run / "predictions" / "members" / model / f"{fold}.csv").set_index(["split", "id"])
            mine = judged[judged["id"].map(folds) == fold].set_index(["split", "id"])
            pd.testing.assert_frame_equal(mine, own.loc[mine.index])


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
