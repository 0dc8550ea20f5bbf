import base64
import io
import json
import re
from importlib.metadata import PackageNotFoundError

import numpy as np
import pytest
from PIL import Image

from tests.report.finished_run import CLASSES, folders_of, run_ensemble, write_finished_run
from tumorboard.base.files import write_json
from tumorboard.base.params import Params
from tumorboard.base.tables import read_predictions
from tumorboard.evaluation.metrics import scores
from tumorboard.panel.votes import VOTES
from tumorboard.report.figures import draw_figures, plot_tables
from tumorboard.report.page import render_page, summarize_scores
from tumorboard.report.plots import to_png
from tumorboard.report.results import read_results


def text_of(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page.replace("\N{NO-BREAK SPACE}", " ")))


def render(root, params: Params) -> str:
    """Returns the page of a run whose ensemble stage has yet to run."""
    run_ensemble(root, params)
    results = read_results(params, **folders_of(root))
    return render_page(
        results, {name: to_png(figure) for name, figure in draw_figures(results, plot_tables(results)).items()}
    )


@pytest.fixture(scope="module")
def page(run) -> str:
    return (run / "report" / "index.html").read_text("utf-8")


def test_headline_is_the_chosen_vote_on_the_test_set(run, page):
    vote = read_predictions(run / "predictions" / "votes" / "soft.csv")
    test = vote[vote["split"] == "test"]
    accuracy = (test[[f"p_{name}" for name in CLASSES]].to_numpy().argmax(1) == test["label"].map(CLASSES.index)).mean()
    headline = json.loads((run / "metrics" / "ensemble.json").read_text())
    text = text_of(page)
    assert f"A panel of 2 models, soft vote: accuracy on the test set {100 * accuracy:.1f} % 95 % interval" in text
    assert f"{100 * headline['accuracy_low']:.1f} % to {100 * headline['accuracy_high']:.1f} %" in text
    assert "36 test images of 12 groups (patients)" in text
    assert "Always predicting the most frequent class would score 33.3 %" in text


def test_summary_lists_the_scores_with_the_chosen_vote_last(run, results):
    headline = json.loads((run / "metrics" / "ensemble.json").read_text())
    lines = summarize_scores(results).splitlines()
    assert lines[0] == "36 test images of 12 groups:"
    names = [re.split(r"\s{2,}", line.strip())[0] for line in lines[1:]]
    assert names == ["linear", "cnn", *(f"{vote} vote" for vote in VOTES if vote != "soft"), "soft vote"]
    low, high = headline["accuracy_low"], headline["accuracy_high"]
    interval = f"({100 * low:.1f} to {100 * high:.1f})"
    assert lines[-1] == (
        f"  soft vote      accuracy {100 * headline['accuracy']:.1f} % {interval}  AUC {headline['auc']:.3f}"
    )


def test_page_is_self_contained_and_states_its_purpose(run, page):
    assert set(re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?(.{14})""", page)) == {"data:image/png"}
    assert "<script" not in page
    assert page.count("For research, not for diagnosis.") == 2
    pictures = re.findall(r"data:image/png;base64,([^\"]+)", page)
    files = [path.read_bytes() for path in (run / "plots" / "images").iterdir()]
    assert sorted(map(base64.b64decode, pictures)) == sorted(files)
    assert len(files) == 9
    for content in files:
        Image.open(io.BytesIO(content)).verify()


def test_names_are_escaped(page):
    assert "&lt;b&gt;&amp;" in page
    assert "<b>&" not in page
    assert "<i>" not in page
    assert "<at byte" not in page
    assert "bad &amp; ugly.jpg" in page
    assert "&lt;at byte 7&gt;" in page


def test_page_reports_the_audit_and_the_split(page):
    text = text_of(page)
    assert "identical files 3 identical pixels in a different file 38" in text
    assert "changed brightness; mirrored: 1 7" in text
    assert "1,234 images show 1,200 different pictures; 29 of them occur more than once, at most 5 times" in text
    assert "4 occur in more than one of the parts" in text
    assert "width 71.0 % 0.57 undefined undefined" in text
    assert "nothing: always the most frequent class 33.0 % 0.00 undefined 0.00" in text
    assert "1 of these sets of facts partly predict the class" in text
    assert "11 given training or validation images were removed" in text
    assert "15 because their group does" in text
    assert "2 pictures have more than one label; 9 images were quarantined" in text
    assert "6 images have too little detail to be compared" in text
    assert "may leak" not in text
    assert "2 shares of classes or parts differ by more than split.tolerance" in text
    assert "fold 1, class &lt;b&gt;&amp;: 25.0 % instead of 33.3 %, groups stay &lt;whole&gt;;" in text
    assert "test, all its images: 40.0 % instead of 20.0 %, another reason." in text
    assert "No group and no set of duplicates is divided between" in text


def test_counts_are_images_and_groups_per_class_and_part(page):
    """Each class has ten groups of three images: four in the test set and three in each fold."""
    head = "class train test fold 0 fold 1"
    row = "18 (6) 12 (4) 9 (3) 9 (3)"
    assert f"{head} {CLASSES[1]} {row} &lt;b&gt;&amp; {row} ordinary {row}" in text_of(page)


def test_training_table_has_seconds_summed_and_speed_averaged_over_folds(page):
    """The timings are 61.5 s and 63.5 s, 321.5 and 331.5 images/s; the kept epochs 5 and 6."""
    text = text_of(page)
    assert re.search(r"cnn cnn none linear adamw 0.001 2,469,134 5, 6 1 125 326 ", text)
    assert "Seconds are the sum over folds, images/s the mean." in text
    assert "mean over the models of its 2 folds" in text


def test_class_scores_are_those_of_the_chosen_vote_on_the_test_set(run, page):
    vote = read_predictions(run / "predictions" / "votes" / "soft.csv")
    expected = scores(vote[vote["split"] == "test"])
    by_class = [
        f"12 {100 * expected[f'precision_{name}']:.1f} % {100 * expected[f'recall_{name}']:.1f} % "
        f"{100 * expected[f'specificity_{name}']:.1f} % {100 * expected[f'f1_{name}']:.1f} % "
        f"{expected[f'auc_{name}']:.4f}"
        for name in CLASSES
    ]
    table = text_of(page[page.index("The soft vote by class") :])
    positions = [table.index(row) for row in by_class]
    assert positions == sorted(positions)


def test_the_member_with_the_lowest_validation_loss_is_highlighted(run, page):
    """The lowest loss belongs to cnn, whose logits favor the right class twice as far."""
    members = json.loads((run / "metrics" / "votes.json").read_text())["members"]
    assert members["cnn"]["val"]["loss"] < members["linear"]["val"]["loss"]
    assert f"{100 * members['cnn']['test']['accuracy']:.1f} % accuracy of cnn, the member with" in text_of(page)


def test_pairs_are_listed_by_urgency(page):
    """Different labels first, then across parts, then near, then exact duplicates."""
    table = text_of(page[page.index("Pairs of duplicates, sorted") : page.index("Shortcuts: the class")])
    positions = [table.index(words) for words in ("near 0.990", "near, mirrored 0.970", "near 0.951", "bytes")]
    assert positions == sorted(positions)


def test_mistakes_are_listed_with_the_highest_probability_first(page):
    table = text_of(page[page.index("The most confident mistakes</h2>") : page.index("<h2>Recipes")])
    probabilities = [float(number) for number in re.findall(r"(0\.\d{3})\b", table)]
    assert len(probabilities) > 5
    assert probabilities == sorted(probabilities, reverse=True)


def test_the_spread_over_folds_is_in_the_headline_and_on_the_page(run, page, panel):
    accuracies: dict[str, list[float]] = {"val": [], "test": []}
    for fold in panel.folds:
        tables = [read_predictions(run / "predictions" / "members" / model / f"{fold}.csv") for model in panel.models]
        probabilities = np.mean([table[[f"p_{name}" for name in CLASSES]].to_numpy() for table in tables], axis=0)
        right = probabilities.argmax(1) == tables[0]["label"].map(CLASSES.index)
        for part, values in accuracies.items():
            values.append(right[tables[0]["split"] == part].mean())
    headline = json.loads((run / "metrics" / "ensemble.json").read_text())
    text = text_of(page)
    for part, prefix in (("val", "val_"), ("test", "")):
        mean, deviation = np.mean(accuracies[part]), np.std(accuracies[part], ddof=1)
        assert headline[f"{prefix}accuracy_mean"] == pytest.approx(mean)
        assert headline[f"{prefix}accuracy_sd"] == pytest.approx(deviation)
        assert re.search(rf"soft vote \S+ ± \S+ {100 * mean:.1f} % ± {100 * deviation:.1f} %", text)
    assert "54 of 54 training images were held out" in text


def test_a_split_that_may_leak_is_reported_as_such(tmp_path, panel):
    write_finished_run(tmp_path, panel, ["a", "b"], groups=18)
    audit = json.loads((tmp_path / "metrics" / "audit.json").read_text())
    write_json(audit | {"policy": "report", "may_leak": True}, tmp_path / "metrics" / "audit.json")
    text = text_of(render(tmp_path, panel))
    assert "This split may leak: 29 pictures occur more than once" in text
    assert "Duplicates of an image may be" in text
    assert "no set of duplicates is divided" not in text


def test_one_model_on_one_fold_has_no_spread(tmp_path, panel):
    one = panel.model_copy(update={"models": ("cnn",), "folds": (1,)})
    write_finished_run(tmp_path, one, ["a", "b"], groups=18)
    text = text_of(render(tmp_path, one))
    assert "A panel of 1 model," in text
    assert "standard deviation" not in text
    assert "sum over folds" not in text
    assert re.search(r"cnn cnn none linear adamw 0.001 1,234,567 6 1 64 332 ", text)


def test_without_resamples_there_are_no_intervals(tmp_path, panel):
    write_finished_run(tmp_path, panel, ["a", "b"], groups=18)
    without = panel.model_copy(update={"evaluate": panel.evaluate.model_copy(update={"bootstrap": 0})})
    assert "interval" not in text_of(render(tmp_path, without))
    first_row = summarize_scores(read_results(without, **folders_of(tmp_path))).splitlines()[1]
    assert re.fullmatch(r"  linear +accuracy \d+\.\d %  AUC \d\.\d{3}", first_row)


def test_a_perfect_vote_has_no_mistakes_and_an_undefined_interval(tmp_path, panel):
    write_finished_run(tmp_path, panel, ["a", "b"], groups=18, skill=50)
    text = text_of(render(tmp_path, panel))
    assert "The vote made no mistakes." in text
    assert "95 % interval undefined" in text
    assert "it is undefined because all resamples agree" in text


def test_a_package_without_metadata_has_an_unknown_version(run, panel, monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("tumorboard.report.page.version", missing)
    assert "unknown" in render(run, panel)
