import base64
import dataclasses
import io
import json
import math
import re
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError

import numpy as np
import pytest
from PIL import Image

from tests.report.finished_run import CLASSES, NOTHING_EXPLAINED, conclusions_of, inputs_of, panel_params
from tumorboard.base.files import write_json
from tumorboard.base.tables import read_predictions
from tumorboard.evaluation.calibration import calibration_scores
from tumorboard.evaluation.metrics import scores
from tumorboard.panel.comparison import HEADING
from tumorboard.panel.votes import POOLS
from tumorboard.report.explained import Sheet
from tumorboard.report.page import p_text, render_page, summarize_scores
from tumorboard.report.results import read_results

PICTURES = ["scores", "curves", "data", "duplicates", "suspects", "confusion_normalised", "confusion", "roc"]
PICTURES += ["precision_recall", "reliability", "mistakes", "decision_curve"]


def text_of(page: str) -> str:
    page = re.sub(r"<head>.*</head>", "", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page.replace("\N{NO-BREAK SPACE}", " ")))


def render(results) -> str:
    """Returns the page of a run, with a word in place of each picture."""
    pictures = dict.fromkeys(PICTURES, b"picture")
    return render_page(results, conclusions_of(results), pictures, pictures, explained=NOTHING_EXPLAINED)


@pytest.fixture(scope="module")
def page(run) -> str:
    return (run / "report" / "index.html").read_text("utf-8")


def test_headline_is_the_heading_vote_on_the_test_set(run, page):
    vote = read_predictions(run / "predictions" / "test" / "votes" / "heading.csv")
    accuracy = (vote[[f"p_{name}" for name in CLASSES]].to_numpy().argmax(1) == vote["label"].map(CLASSES.index)).mean()
    headline = json.loads((run / "metrics" / "test" / "ensemble.json").read_text())
    text = text_of(page)
    interval = f"{100 * headline['test_accuracy_low']:.1f} % to {100 * headline['test_accuracy_high']:.1f} %"
    assert (
        f"A &lt;study&gt; &amp; more {100 * accuracy:.1f} % accuracy on test images, 95 % interval {interval}" in text
    )
    assert f"<title>A &lt;study&gt; &amp; more: {100 * accuracy:.1f}\N{NO-BREAK SPACE}%</title>" in page


def test_summary_lists_the_scores_with_the_heading_vote_last(run, results):
    headline = json.loads((run / "metrics" / "ensemble.json").read_text())
    *lines, last = summarize_scores(results).splitlines()
    assert last == "Choose by these. The soft vote heads the report, which has the test scores."
    assert re.fullmatch(r"\d+ validation images of \d+ patients:", lines[0])
    names = [re.split(r"\s{2,}", line.strip())[0] for line in lines[1:]]
    assert names == ["linear", "cnn", *(f"{vote} vote" for vote in POOLS if vote != "soft"), "soft vote"]
    low, high = headline["accuracy_low"], headline["accuracy_high"]
    interval = f"({100 * low:.1f} to {100 * high:.1f})"
    assert headline["auc_method"].startswith("too few patients of ")
    assert lines[-1] == f"  soft vote      accuracy {100 * headline['accuracy']:.1f} % {interval}  AUC undefined"
    hard = next(line for line in lines if "hard vote" in line)
    assert "AUC" not in hard, "shares of votes are no probabilities"


def test_page_is_self_contained_and_states_its_purpose(run, page):
    assert set(re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?(.{14})""", page)) == {"data:image/png", "data:image/web"}
    assert "<script" not in page
    assert page.count("For research, not for diagnosis.") == 2
    pictures = re.findall(r"data:image/png;base64,([^\"]+)", page)
    files = [path.read_bytes() for folder in ("images", "test") for path in (run / "plots" / folder).iterdir()]
    assert sorted(map(base64.b64decode, pictures)) == sorted(files)
    assert len(files) == 18
    for content in files:
        Image.open(io.BytesIO(content)).verify()


def test_names_are_escaped(page):
    assert "&lt;b&gt;&amp;" in page
    assert "<b>&" not in page
    assert "<i>" not in page
    assert "<at byte" not in page
    assert "<south>" not in page
    assert "<study>" not in page
    assert "bad &amp; ugly.jpg" in page
    assert "&lt;at byte 7&gt;" in page


def test_page_reports_the_audit_and_the_split(page):
    text = text_of(page)
    assert "identical files 3 identical pixels in a different file 38" in text
    assert "changed brightness; mirrored: 1 7" in text
    assert "1,234 images show 1,200 different pictures. Of the copies that were found, 29 pictures occur" in text
    assert "4 occur in more than one of the parts" in text
    assert "width 0.57 0.01 0.25" in text
    assert "all of them 0.00 undefined" in text
    assert "1 of these sets of facts partly predict the class" in text
    assert "11 given training or validation images were removed" in text
    assert "15 because their group does" in text
    assert "2 pictures have more than one label; 9 images were quarantined" in text
    assert "6 images have too little detail to be compared" in text
    assert "may leak" not in text
    assert "2 shares of classes or parts differ by more than split.tolerance" in text
    assert "fold 1, class &lt;b&gt;&amp;: 25.0 % instead of 33.3 %, groups stay &lt;whole&gt;;" in text
    assert "test, all its images: 40.0 % instead of 20.0 %, another reason." in text
    assert "No patient and no set of duplicates that was found is divided between" in text


def test_ranges_of_grey_and_damaged_files_are_reported_where_there_are_any(run, panel, page):
    assert "different grey levels" not in page
    images = run / "crop" / "images.csv"
    whole = images.read_text("utf-8")
    try:
        table = read_predictions(run / "predictions" / "joined" / "cnn.csv")[["id"]]
        table = table.assign(scaling="own range", low=0, high=range(1, len(table) + 1), warning="")
        table.loc[0, "warning"] = "<cut> off"
        table.to_csv(images, index=False)
        results = read_results(panel, **inputs_of(run))
    finally:
        images.write_text(whole, "utf-8")
    text = text_of(render(results))
    assert "54 files are scaled each by its own range: 54 different ranges in this set" in text
    assert "1 file was read, but may be damaged" in text
    assert "(&lt;cut&gt; off)." in text


def test_counts_are_images_and_groups_per_class_and_part(page):
    """Each class has ten groups of three images: four in the test set and three in each fold."""
    head = "class train test fold 0 fold 1"
    row = "18 (6) 12 (4) 9 (3) 9 (3)"
    text = text_of(page)
    assert "Images (patients) by class and part" in text
    assert f"{head} {CLASSES[1]} {row} &lt;b&gt;&amp; {row} ordinary {row}" in text


def test_training_table_has_seconds_summed_and_speed_averaged_over_folds(page):
    """The timings are 61.5 s and 63.5 s, 321.5 and 331.5 images/s; the kept epochs 5 and 6."""
    text = text_of(page)
    assert re.search(r"cnn cnn none linear adamw 0.001 2,469,134 5, 6 1 125 326 ", text)
    assert "Seconds are the sum over folds, images/s the mean." in text


def test_class_scores_of_each_part_are_those_of_the_heading_vote(run, page):
    sections = {"test": page[page.index("<h2>Test images") :], "": page[page.index("<h2>Validation images") :]}
    for folder, section in sections.items():
        expected = scores(read_predictions(run / "predictions" / folder / "votes" / "heading.csv"))
        headline = json.loads((run / "metrics" / "ensemble.json").read_text())
        assert headline["auc"] is None, "the study has few patients"
        auc = {name: f"{expected[f'auc_{name}']:.4f}" if folder else "undefined" for name in CLASSES}
        by_class = [
            f"{expected[f'support_{name}']:.0f} {100 * expected[f'precision_{name}']:.1f} % "
            f"{100 * expected[f'recall_{name}']:.1f} % {100 * expected[f'specificity_{name}']:.1f} % "
            f"{100 * expected[f'f1_{name}']:.1f} % {auc[name]}"
            for name in CLASSES
        ]
        table = text_of(section[section.index("<h3>By class") :])
        positions = [table.index(row) for row in by_class]
        assert positions == sorted(positions)


def test_the_primary_comparison_is_apart_from_the_exploratory_ones(page):
    section = page[page.index("<h2>Test images") : page.index("<h2>Validation images")]
    primary = section[section.index("fixed before the run") : section.index("Exploratory comparisons")]
    assert primary.count("<tr><td>soft vote</td><td>cnn</td><td>accuracy</td>") == 1
    exploratory = text_of(section[section.index("Exploratory comparisons") : section.index("<h3>By class")])
    assert "p (Holm)" in exploratory
    assert "p (Holm)" not in primary
    for name in ("linear", "hard vote", "product vote", "weighted vote"):
        assert f"soft vote {name} accuracy" in exploratory


def test_the_losses_of_an_automatic_choice_name_the_votes_that_were_no_choices(results):
    """The vote of `results` was named in params.yaml."""
    losses = {"single": 0.1, "soft": 0.2}
    chosen = dataclasses.replace(results, fit=dataclasses.replace(results.fit, losses=losses))
    sentence = "others than in the table): single 0.1000, soft 0.2000; single was not among the choices"
    assert sentence in text_of(render(chosen))
    assert "of losses less than 0.001 apart the simpler vote's is taken." in text_of(render(chosen))
    assert "Losses by which" not in text_of(render(dataclasses.replace(chosen, fit=results.fit)))


def test_a_stacking_vote_has_no_temperature_and_no_scores_before_it(results):
    stacked = dataclasses.replace(results, fit=dataclasses.replace(results.fit, vote="stacking"))
    section = render(stacked).split("Do the probabilities mean what they say?")[1]
    row = next(line for line in section.splitlines() if line.startswith("<tr><td>stacking vote</td>"))
    cells = re.findall(r'<td class="n">(.*?)</td>', row)
    assert [bool(cell) for cell in cells] == [False, False, True, False, True, False, True]
    assert "The stacking vote's regression is fitted to calibrated members" in text_of(section)


@pytest.mark.parametrize(
    ("vote", "words"),
    [
        ("weighted", "the mean of the members' maps by their weights."),
        ("single", "that of cnn."),
        ("stacking", "the plain mean of the members' maps."),
        ("hard", "the plain mean of the members' maps."),
    ],
)
def test_the_map_of_the_vote_is_described_for_each_vote(results, vote, words):
    shown = dataclasses.replace(results, fit=dataclasses.replace(results.fit, vote=vote, single="cnn"))
    sheet = Sheet(part="of no section", title="", picture=b"", examples=None)
    explained = dataclasses.replace(NOTHING_EXPLAINED, sheets=[sheet], with_map=["cnn"])
    pictures = dict.fromkeys(PICTURES, b"picture")
    page = text_of(render_page(shown, conclusions_of(shown), pictures, pictures, explained=explained))
    assert f"The map of the vote is {words}" in page


def test_small_p_values_are_not_zero():
    assert [p_text(p) for p in (0.0009, 0.001, 0.25, math.nan)] == ["< 0.001", "0.001", "0.250", ""]


def test_calibration_rows_are_before_and_after_the_temperature(run, results, page):
    """Of cnn on test images: slope, intercept and Brier score of the mean of its folds, and of its joined table."""
    folds = [read_predictions(run / "predictions" / "test" / "members" / "cnn" / f"{fold}.csv") for fold in (0, 1)]
    columns = [f"p_{name}" for name in CLASSES]
    mean = folds[0].assign(**dict(zip(columns, np.mean([fold[columns] for fold in folds], 0).T, strict=True)))
    before = calibration_scores(mean.sort_values("id"))
    after = calibration_scores(read_predictions(run / "predictions" / "test" / "joined" / "cnn.csv"))
    cells = [
        f"{one[name]:.{digits}f}"
        for name, digits in (("calibration_slope", 2), ("calibration_intercept", 2), ("brier", 4))
        for one in (before, after)
    ]
    temperature = f"{results.fit.temperatures['cnn']:.2f}"
    section = page[page.index("<h2>Test images") :]
    table = text_of(section[section.index("Do the probabilities mean") :])
    assert f" cnn {temperature} {' '.join(cells)} soft vote " in table


def test_pairs_are_listed_by_urgency(page):
    """Different labels first, then across parts, then near, then exact duplicates."""
    table = text_of(page[page.index("Pairs of duplicates, sorted") : page.index("Shortcuts: the class")])
    positions = [table.index(words) for words in ("near 0.990", "near, mirrored 0.970", "near 0.951", "bytes")]
    assert positions == sorted(positions)


def test_mistakes_are_listed_with_the_highest_probability_first(page):
    table = text_of(page[page.index("The most confident mistakes</h3>") : page.index("<h3>Subgroups")])
    probabilities = [float(number) for number in re.findall(r"(0\.\d{3})\b", table)]
    assert len(probabilities) > 5
    assert probabilities == sorted(probabilities, reverse=True)


def test_disagreement_has_a_kappa_per_pair_and_part_and_the_images_that_split_the_panel(page, conclusions):
    section = page[page.index("Where the members disagree</h2>") : page.index("Labels that may be wrong</h2>")]
    text = text_of(section)
    for name, one in conclusions.disagreements.items():
        assert f"{100 * one.unanimous:.1f}" in text
        assert f"of the {name} images" in text
        assert text.count(f"{one.kappas['linear']['cnn']:.2f}") >= 2, "in both orders"
    shown = conclusions.disagreements["validation"].shown
    assert section.count("<tr><td><code>") == len(shown) > 0


def test_suspects_are_listed_with_label_and_suggestion(page, conclusions):
    section = page[page.index("<h2>Labels that may be wrong") : page.index("<h2>Recipes")]
    text = text_of(section)
    assert f" {len(conclusions.suspects)} validation images of which the vote" in text
    assert section.count("<tr><td><code>") == len(conclusions.suspects)
    first = conclusions.suspects.iloc[0]
    assert f"{first.p_label:.3f} {first.p_suggested:.3f}" in text


def test_subgroups_are_listed_by_value(page):
    """Half of the test patients are of each site."""
    section = text_of(page[page.index("<h3>Subgroups") : page.index("<h2>Validation images")])
    assert "site &lt;south&gt; 18 6 " in section
    assert "site north 18 6 " in section
    assert section.count("too few patients: 6") == 2
    assert "nan" not in section


def test_the_spread_over_folds_is_on_the_page(run, page):
    text = text_of(page)
    for folder, prefix in (("", ""), ("test", "test_")):
        headline = json.loads((run / "metrics" / folder / "ensemble.json").read_text())
        mean, deviation = headline[f"{prefix}accuracy_mean"], headline[f"{prefix}accuracy_sd"]
        assert re.search(rf"soft vote {100 * mean:.1f} % ± {100 * deviation:.1f} %", text)
    assert "54 of 54 training images were held out" in text


def test_a_hard_vote_has_no_auc_and_no_loss_over_folds_and_in_subgroups(hard):
    page = render(hard)
    spread = text_of(page[page.rindex("Mean ± standard deviation") : page.rindex("<h3>By patient</h3>")])
    assert re.search(r"hard vote( [\d.]+ % ± [\d.]+ %){3} soft vote", spread)
    assert re.search(r"soft vote( [\d.]+ % ± [\d.]+ %){3}( [\d.]+ ± [\d.]+){2}", spread)
    subgroups = text_of(page[page.index("<h3>Subgroups") : page.index("<h2>Validation images")])
    assert subgroups.count("shares of votes, no probabilities") == len(conclusions_of(hard).subgroups) > 0


def test_a_small_p_of_a_subgroup_is_not_zero(results):
    conclusions = conclusions_of(results)
    tested = conclusions.subgroups.assign(p_holm=[1e-9, *[math.nan] * (len(conclusions.subgroups) - 1)])
    pictures = dict.fromkeys(PICTURES, b"picture")
    changed = dataclasses.replace(conclusions, subgroups=tested)
    page = render_page(results, changed, pictures, pictures, explained=NOTHING_EXPLAINED)
    section = page[page.index("<h3>Subgroups") : page.index("<h2>Validation images")]
    assert section.count('<td class="n">&lt; 0.001</td>') == 1
    assert section.count('<td class="n"></td><td>') == len(tested) - 1


def test_images_of_one_class_say_so_in_place_of_their_curves(results):
    some = {name: b"picture" for name in PICTURES if name not in ("roc", "precision_recall")}
    every = dict.fromkeys(PICTURES, b"picture")
    page = render_page(results, conclusions_of(results), every, some, explained=NOTHING_EXPLAINED)
    assert page.count("These images are of one class, so that there is no ROC curve.") == 1
    assert page.count("<h3>ROC</h3>") == page.count("<h3>Precision and recall</h3>") == 1


def test_a_split_that_may_leak_is_reported_as_such(judged_folder, tmp_path, params):
    root = shutil.copytree(judged_folder(groups=18), tmp_path / "run")
    audit = json.loads((root / "metrics" / "audit.json").read_text())
    write_json(audit | {"policy": "report", "may_leak": True}, root / "metrics" / "audit.json")
    text = text_of(render(read_results(panel_params(params), **inputs_of(root))))
    assert "This split may leak: 29 pictures occur more than once" in text
    assert "Duplicates of an image may be" in text
    assert "no set of duplicates that was found is divided" not in text


def test_one_model_on_one_fold_has_no_spread(judged):
    text = text_of(render(judged(changes={"models": ("cnn",), "folds": (1,)}, groups=18)))
    assert " models cnn vote soft vote run " in text
    assert "standard deviation" not in text
    assert "sum over folds" not in text
    assert re.search(r"cnn cnn none linear adamw 0.001 1,234,567 6 1 64 332 ", text)


def test_too_few_patients_have_a_reason_in_place_of_an_interval(judged):
    results = judged(groups=18)
    text = text_of(render(results))
    assert "accuracy on test images, too few patients: 6" in text
    first_row = summarize_scores(dataclasses.replace(results, validation=results.test)).splitlines()[1]
    assert re.fullmatch(r"  linear +accuracy \d+\.\d % \(too few patients: 6\)  AUC \d\.\d{3}", first_row)


def test_a_perfect_vote_has_no_mistakes_and_a_one_sided_interval(judged):
    """With 24 patients and no mistake: 0.05 ** (1 / 24)."""
    text = text_of(render(judged(skill=50)))
    assert "The vote made no mistakes." in text
    assert f"95 % interval {100 * 0.05 ** (1 / 24):.1f} % to 100.0 %" in text
    assert "Labels that may be wrong" not in text


def test_an_unscored_test_part_leaves_a_page_about_validation_images(judged):
    page = render(judged(changes={"evaluate": {"test": False}}))
    text = text_of(page)
    assert "accuracy on validation images" in text[:400]
    assert "<h2>Test images" not in page
    assert "The most confident mistakes" not in text
    assert "test images" not in text_of(page[: page.index("<h2>The data")])
    assert "Subgroups, validation images" in text
    assert "The test part is not scored (evaluate.test: false)" in text


def test_without_a_positive_class_there_is_no_sensitivity(page):
    text = text_of(page)
    assert "sensitivity" not in text[: text.index("CLAIM")]
    assert "What a decision is worth" not in text


def test_a_positive_class_has_its_rates_at_its_threshold(binary):
    head = binary.test.headline
    text = text_of(render(binary))
    rates = [
        f"{name} {100 * head[score]:.1f} %"
        for name, score in (
            ("sensitivity", "sensitivity"),
            ("specificity", "specificity"),
            ("positive predictive value", "ppv"),
            ("negative predictive value", "npv"),
        )
    ]
    rule = f"y the threshold {binary.fit.threshold:.3f} of b"
    positions = [text.index(rate, text.index(f"B{rule}: sensitivity")) for rate in rates]
    counts = head["decisions"]
    matrix = text[text.index(f"The heading vote's decisions b{rule}:") :]
    assert re.search(
        rf"class images called b called a b 36 {counts['true_positives']} \(.*?\) {counts['false_negatives']} \(.*?\) "
        rf"a 36 {counts['false_positives']} \(.*?\) {counts['true_negatives']} \(",
        matrix,
    )
    assert "accuracy on test images by the most probable class" in text
    assert f"{100 * head['decided_accuracy']:.1f} % accuracy by the threshold" in text.replace(
        "\N{NO-BREAK SPACE}", " "
    )
    assert positions == sorted(positions)
    assert "What a decision is worth" in text
    exploratory = text[text.index("Exploratory comparisons") :]
    for score in ("sensitivity", "specificity"):
        assert re.search(rf"soft vote (linear|cnn) {score} 0\.\d{{4}} 0\.\d{{4}} ", exploratory), score
    assert "most probable class, for their sensitivity and specificity too, since only the heading vote" in exploratory


def test_the_hard_vote_has_no_scores_of_probabilities(hard):
    page = render(hard)
    text = text_of(page)
    assert "calibration slope" not in text[: text.index("The data")]
    assert "heading vote: hard" in text
    assert "shares of votes, no probabilities" in text
    calibration = text_of(page[page.index("Do the probabilities mean") : page.index("<h3>ROC")])
    assert "undefined" not in calibration
    assert "The hard vote's shares of votes are no probabilities." in calibration


def test_groups_that_nobody_named_are_called_groups(unknown):
    text = text_of(render(unknown))
    assert "patient" not in text[text.index("The data") : text.index("CLAIM")]
    assert "Images (groups) by class" in text


@pytest.mark.slow
@pytest.mark.parametrize("size", ["A4", "Letter"])
def test_the_front_page_is_one_printed_page_with_all_cautions(judged, tmp_path, size):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("needs Chromium")
    names = ["a disease with a rather long name, stage III b", "a healthy person of the same age and sex"]
    data = {"unit": None, "positive": names[0]}
    results = judged(changes={"data": data, "ensemble": {"vote": "weighted"}}, classes=names, giant=True)
    scores_of, ends = results.validation.scores, {"accuracy_low": 0.999, "accuracy_high": 1.0}
    votes = scores_of["votes"] | {HEADING: scores_of["votes"][HEADING] | ends}
    results = dataclasses.replace(
        results,
        validation=dataclasses.replace(results.validation, scores=scores_of | {"votes": votes}),
        split=results.split.model_copy(update={"control": 3}),
        looks=99,
        audit_metrics={**results.audit_metrics, "may_leak": True},
        fit=dataclasses.replace(results.fit, weights={"linear": 0.01, "cnn": 0.99}, losses={"weighted": 0.2}),
        test_shortcuts=results.test_shortcuts.assign(skill="-0.5"),  # worse than the vote, and still a caution
    )
    page = render(results)
    for caution in (
        "control",
        "images are of another kind",
        "on both sides",
        "sees no image",
        "alone",
        "sets of weights",
    ):
        assert caution in page[: page.index("Where it fails")], caution
    front = page[: page.index("<h2>The data")].replace(".front { break-after: page; }", f"@page {{ size: {size}; }}")
    (tmp_path / "front.html").write_text(front, "utf-8")
    command = [browser, "--headless", "--no-sandbox", "--no-pdf-header-footer", "--print-to-pdf=front.pdf"]
    command.append((tmp_path / "front.html").as_uri())
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert len(re.findall(rb"/Type */Page\b", (tmp_path / "front.pdf").read_bytes())) == 1


def test_a_missing_score_is_undefined(results):
    """JSON has no nan: an undefined score is null in the metrics."""
    scores_of = results.test.scores
    heading = scores_of["votes"]["heading"] | {
        "auc": None,
        "auc_low": None,
        "auc_high": None,
        "auc_method": "undefined",
    }
    changed = dataclasses.replace(
        results,
        test=dataclasses.replace(
            results.test, scores=scores_of | {"votes": {**scores_of["votes"], "heading": heading}}
        ),
    )
    assert "undefined AUC" in text_of(render(changed))


def test_a_package_without_metadata_has_an_unknown_version(results, monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("tumorboard.report.page.version", missing)
    assert "unknown" in render(results)
