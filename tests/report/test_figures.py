import dataclasses
import re

import numpy as np
import pandas as pd
import pytest

from tests.report.finished_run import CLASSES
from tests.report.sheets import pictures_of, show
from tumorboard.base.tables import make_predictions, read_predictions
from tumorboard.evaluation.metrics import scores
from tumorboard.panel.comparison import HEADING, UNCALIBRATED
from tumorboard.panel.votes import POOLS
from tumorboard.report.conclusions import draw_conclusions
from tumorboard.report.contact_sheet import fit_picture
from tumorboard.report.figures import (
    base_rates,
    draw_classes,
    draw_figures,
    draw_part,
    draw_test_figures,
    pairs_to_review,
    part_tables,
    plot_tables,
    worst_mistakes,
)


def texts_of(figure):
    return [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]


@pytest.fixture(scope="module")
def tables(results, conclusions):
    return plot_tables(results, conclusions)


@pytest.fixture(scope="module")
def figures(results, conclusions, tables):
    return draw_figures(results, conclusions, tables)


@pytest.fixture(scope="module")
def figures_of_test(results):
    return draw_test_figures(results)


def predictions(rows, classes=("a", "b", "c")):
    """Returns the Predictions of (id, label, probabilities)."""
    table = pd.DataFrame({"id": [row[0] for row in rows], "label": [row[1] for row in rows]})
    table = table.assign(group=table["id"], split="test")
    return make_predictions(table, np.array([row[2] for row in rows]), classes, "0" * 16)


def replace_heading(part, table):
    """Returns a part in which the heading vote has other predictions."""
    return dataclasses.replace(part, votes={**part.votes, HEADING: table, UNCALIBRATED: table})


@pytest.mark.parametrize(("split", "rows"), [("val", 54), ("test", 36)])
def test_tables_hold_the_scores_and_the_confusion_of_each_model_on_one_part(run, results, tables, panel, split, rows):
    folder = run / "predictions" / ("test" if split == "test" else "")
    part = tables if split == "val" else part_tables(results.test)
    confusion = part["confusion"]
    assert {"model", "actual", "predicted", "count"} <= set(confusion.columns)
    assert confusion.groupby("model")["count"].sum().to_dict() == {"linear": rows, "cnn": rows, "soft vote": rows}
    assert all(len(rows) == len(CLASSES) ** 2 for _, rows in confusion.groupby("model"))
    vote = read_predictions(folder / "votes" / "soft.csv")
    assert set(vote["split"]) == {split}
    expected = scores(vote)
    vote_rows = confusion[confusion["model"] == "soft vote"]
    right = vote_rows[vote_rows["actual"] == vote_rows["predicted"]]
    assert right["count"].sum() / rows == pytest.approx(expected["accuracy"])
    table = part["scores"].set_index("model")
    assert table.loc["soft", "accuracy"] == pytest.approx(expected["accuracy"])
    assert table.loc["soft", "accuracy_low"] <= expected["accuracy"] <= table.loc["soft", "accuracy_high"]
    assert table["kind"].to_dict() == dict.fromkeys(panel.models, "member") | dict.fromkeys(POOLS, "vote")
    for name in ("roc", "precision_recall"):
        assert set(part[name]["class"]) == set(CLASSES)
        assert set(part[name]["model"]) == {"linear", "cnn", "soft vote"}
    assert set(part["reliability"]["model"]) == {"linear", "cnn", "soft vote", "soft vote, uncalibrated"}
    assert part["reliability"].groupby("model")["images"].sum().eq(rows).all()


def test_tables_of_dvc_plots_are_those_of_validation_images_and_the_curves(tables):
    assert list(tables) == ["data", "curves", "roc", "precision_recall", "confusion", "reliability", "scores"]


def test_the_data_are_identified_by_what_is_trained_and_validated_on(results, tables):
    """18 of the 30 groups are no test groups."""
    text = f"54 images of 18 patients in data/phantom, {results.digest}"
    assert tables["data"].to_dict("records") == [{"manifest": results.digest, "data": text}]


def test_scores_say_how_each_member_and_vote_compares_with_the_heading_vote(results, conclusions, tables):
    """The heading vote is not compared with itself; the others have the verdict of their comparison in accuracy."""
    verdicts = tables["scores"].set_index("model")["against_heading"].to_dict()
    assert verdicts.pop("soft") == ""
    assert set(verdicts.values()) == {"within noise"}
    comparison = conclusions.comparisons["validation"]
    assert comparison.primary["second_name"].tolist() == ["cnn"]
    ahead = comparison._replace(primary=comparison.primary.assign(verdict="second is ahead"))
    behind = comparison.exploratory["second_name"].eq("linear") & comparison.exploratory["score"].eq("accuracy")
    ahead = ahead._replace(
        exploratory=comparison.exploratory.assign(
            verdict=np.where(behind, "first is ahead", comparison.exploratory["verdict"])
        )
    )
    changed = dataclasses.replace(conclusions, comparisons={**conclusions.comparisons, "validation": ahead})
    verdicts = plot_tables(results, changed)["scores"].set_index("model")["against_heading"]
    assert verdicts[["cnn", "linear", "soft", "hard"]].tolist() == ["ahead", "behind", "", "within noise"]


def test_the_heading_vote_may_be_the_second_of_the_primary_comparison(results, conclusions):
    comparison = conclusions.comparisons["validation"]
    for verdict, word in (("first is ahead", "ahead"), ("second is ahead", "behind"), ("within noise", "within noise")):
        turned = comparison.primary.assign(first_name="cnn", second_name="soft vote", verdict=verdict)
        changed = {**conclusions.comparisons, "validation": comparison._replace(primary=turned)}
        tables = plot_tables(results, dataclasses.replace(conclusions, comparisons=changed))
        assert tables["scores"].set_index("model")["against_heading"]["cnn"] == word


def test_curves_hold_every_history_and_mark_the_kept_epoch(run, tables):
    curves = tables["curves"]
    kept = curves[curves["kept"]][["model", "fold", "epoch"]]
    assert kept.to_numpy().tolist() == [["linear", 0, 5], ["linear", 1, 6], ["cnn", 0, 5], ["cnn", 1, 6]]
    history = pd.read_csv(run / "training" / "cnn" / "1" / "history.csv")
    rows = curves[(curves["model"] == "cnn") & (curves["fold"] == 1)]
    assert rows["val_loss"].tolist() == history["val_loss"].tolist()


def test_scores_without_intervals_have_empty_ends(results):
    """The hard vote of this table has no loss, as a share of votes has none."""
    row = {"images": 4, "accuracy": 0.5, "accuracy_low": None, "accuracy_high": None, "accuracy_method": "too few"}
    tree = {"members": {"m": row | {"loss": 0.25}}, "votes": {"hard": row}}
    table = part_tables(dataclasses.replace(results.test, scores=tree))["scores"]
    assert table[["accuracy_low", "accuracy_high"]].isna().all(axis=None)
    assert table["accuracy"].tolist() == [0.5, 0.5]
    assert table["loss"].tolist() == pytest.approx([0.25, np.nan], nan_ok=True)


def test_base_rates_follow_the_order_of_the_classes():
    """A class without images has the share 0."""
    table = predictions([(str(k), label, [0.2, 0.3, 0.5]) for k, label in enumerate("bbab")])
    assert base_rates(table) == {"a": 0.25, "b": 0.75, "c": 0.0}


def test_worst_mistakes_come_with_the_highest_probability_first_and_by_id_where_equal():
    table = predictions(
        [
            ("right", "a", [0.98, 0.01, 0.01]),
            ("mild", "a", [0.1, 0.5, 0.4]),
            ("tie z", "b", [0.75, 0.05, 0.2]),
            ("worst", "c", [0.05, 0.9, 0.05]),
            ("tie a", "b", [0.2, 0.05, 0.75]),
        ]
    )
    assert worst_mistakes(table).to_numpy().tolist() == [
        ["worst", "c", "b", 0.9],
        ["tie a", "b", "c", 0.75],
        ["tie z", "b", "a", 0.75],
        ["mild", "a", "b", 0.5],
    ]


def test_only_the_24_worst_mistakes_are_shown():
    """Of 30 mistakes with probabilities 0.60 to 0.89 the six with the lowest are left out."""
    table = predictions([(f"{k}", "a", [0.4 - k / 100, 0.6 + k / 100]) for k in range(30)], ("a", "b"))
    assert worst_mistakes(table)["id"].tolist() == [str(k) for k in range(29, 5, -1)]


def pairs(rows):
    columns = ["first", "kind", "correlation", "first_label", "second_label", "first_split", "second_split"]
    return pd.DataFrame(rows, columns=columns, dtype=object).assign(second="other", mirrored="False")


def test_pairs_are_sorted_by_labels_then_kind_then_parts_then_correlation():
    """Each pair ranks by its first difference; a correlation of 0.9985 as text must compare as a number to 1e-01."""
    table = pairs(
        [
            ("exact, one part", "bytes", "1.0", "a", "a", "", ""),
            ("exact, across parts", "pixels", "1.0", "a", "a", "train", "test"),
            ("near, one part, alike", "near", "0.9985", "a", "a", "", ""),
            ("near, one part, less alike", "near", "1e-01", "a", "a", "", ""),
            ("near, across parts", "near", "0.99", "a", "a", "train", "test"),
            ("labels, exact", "bytes", "1.0", "a", "b", "", ""),
            ("labels, near", "near", "0.999", "a", "b", "", ""),
        ]
    )
    assert pairs_to_review(table)["first"].tolist() == [
        "labels, near",
        "labels, exact",
        "near, across parts",
        "near, one part, less alike",
        "near, one part, alike",
        "exact, across parts",
        "exact, one part",
    ]


def test_only_24_pairs_are_shown():
    table = pairs([(f"{k:02}", "near", f"{0.999 - k / 1000}", "a", "a", "", "") for k in range(30)])
    assert pairs_to_review(table)["first"].tolist() == [f"{k:02}" for k in range(29, 5, -1)]


def test_figure_of_the_data_has_twelve_places_per_class_in_the_order_of_the_classes(results, figures):
    """Every class has 30 images, of which 12 are drawn; each picture is a crop of its class, none twice."""
    figure = figures["data"]
    assert [text for text in texts_of(figure) if text.endswith("images)")] == [
        f"{name} (30 images)" for name in CLASSES
    ]
    drawn = pictures_of(figure, 12)
    images = [image.tobytes() for image in drawn]
    assert len(set(images)) == len(images) == 36
    for row, name in enumerate(CLASSES):
        ids = results.manifest["id"][results.manifest["label"] == name].tolist()
        own = {fit_picture(crop, len(drawn[0])).tobytes() for crop in results.load_crops(ids)}
        assert set(images[12 * row : 12 * (row + 1)]) <= own


def test_images_of_the_data_are_drawn_by_the_seed_whatever_the_order_of_the_rows(results, figures):
    """A reversed manifest gives the same images, another seed other ones."""
    drawn = [image.tobytes() for image in pictures_of(figures["data"], 12)]
    backwards = dataclasses.replace(results, manifest=results.manifest.iloc[::-1])
    assert [image.tobytes() for image in pictures_of(draw_classes(backwards), 12)] == drawn
    other = [
        image.tobytes() for image in pictures_of(draw_classes(dataclasses.replace(results, seed=results.seed + 1)), 12)
    ]
    assert set(other) != set(drawn)


def test_a_class_with_few_images_leaves_white_places(results):
    few = pd.concat([rows.head(5) for _, rows in results.manifest.groupby("label", sort=False)])
    figure = draw_classes(dataclasses.replace(results, manifest=few))
    white = [bool((image == 255).all()) for image in pictures_of(figure, 12)]
    assert white == ([False] * 5 + [True] * 7) * 3


def test_figure_of_the_mistakes_shows_the_worst_first_with_label_and_vote(results, figures_of_test):
    mistakes = worst_mistakes(results.test.heading)
    figure = figures_of_test["mistakes"]
    captions = [text for text in texts_of(figure) if text.startswith("label ")]
    assert len(captions) == len(mistakes)
    assert [float(re.search(r"vote (\S+) ", caption)[1]) for caption in captions] == pytest.approx(
        mistakes["probability"], abs=0.005
    )
    crops = results.load_crops(mistakes["id"].tolist())
    assert all(map(show, crops, pictures_of(figure, 8)))


def test_figure_of_the_duplicates_names_kind_label_and_part(results, figures):
    """The order is that of the pairs to review; the caption of a mirrored pair's second image says so."""
    figure = figures["duplicates"]
    captions = [text for text in texts_of(figure) if "\n" in text]
    assert captions == [
        "near 0.990\n<b>&, train",
        "\n$x_1$…y long, train",
        "near 0.970\n<b>&, train",
        "mirrored\n<b>&, test",
        "near 0.951\n<b>&, train",
        "\n<b>&, train",
        "identical bytes\n<b>&, train",
        "\n<b>&, test",
    ]
    ids = pairs_to_review(results.duplicates)[["first", "second"]].to_numpy().ravel().tolist()
    crops = results.load_crops(ids)
    assert all(map(show, crops, pictures_of(figure, 8)))


def test_figure_of_the_suspects_shows_label_suggestion_and_its_probability(results, conclusions, figures):
    suspects = conclusions.suspects
    assert 0 < len(suspects) <= 24
    captions = [text for text in texts_of(figures["suspects"]) if text.startswith("label ")]
    assert len(captions) == len(suspects)
    for caption, row in zip(captions, suspects.itertuples(), strict=True):
        assert f"rather {row.p_suggested:.2f} " in caption
        assert row.label != row.suggested
    short = {CLASSES[0]: "<b>&", CLASSES[1]: "$x_1$ …y long", CLASSES[2]: "ordinary"}
    assert captions[0].startswith(f"label {short[suspects['label'][0]]}\n"[:10])
    crops = results.load_crops(suspects["id"].tolist())
    assert all(map(show, crops, pictures_of(figures["suspects"], 8)))


def test_only_24_suspects_are_shown_the_likeliest_first(results, conclusions):
    ids = results.validation.heading["id"].tolist()[:30]
    rows = {"rank": range(1, 31), "id": ids, "group": "g", "label": CLASSES[0], "suggested": CLASSES[2]}
    many = pd.DataFrame(rows | {"p_label": 0.1, "p_suggested": [k / 100 for k in range(30)]})
    changed = dataclasses.replace(conclusions, suspects=many)
    captions = texts_of(draw_figures(results, changed, plot_tables(results, changed))["suspects"])
    probabilities = [float(text.split("rather ")[1].split()[0]) for text in captions if "rather" in text]
    assert probabilities == pytest.approx([k / 100 for k in range(24)])


def test_grey_lines_are_at_the_share_of_the_most_frequent_class_and_of_each_class(results):
    """Of 30 test images 12, 12 and 6 belong to the three classes."""
    vote = results.test.heading
    fewer = vote.drop(vote.index[vote["label"] == "ordinary"][:6])
    part = replace_heading(results.test, fewer)
    figures = draw_part(part, part_tables(part), None)
    assert [0.4, 0.4] in [list(line.get_xdata()) for line in figures["scores"].axes[0].get_lines()]
    (axes,) = figures["precision_recall"].axes
    lines = [segment[:, 1] for segment in axes.collections[-1].get_segments()]
    assert np.array(lines) % 1 == pytest.approx(np.array([[0.4, 0.4], [0.4, 0.4], [0.2, 0.2]]))


def test_without_mistakes_duplicates_and_suspects_there_are_no_figures_of_them(results):
    def certain(table):
        return table.assign(**{f"p_{name}": (table["label"] == name).astype(float) for name in CLASSES})

    perfect = dataclasses.replace(
        results,
        validation=replace_heading(results.validation, certain(results.validation.heading)),
        test=replace_heading(results.test, certain(results.test.heading)),
        duplicates=results.duplicates.head(0),
    )
    conclusions = draw_conclusions(perfect)
    of_part = {"scores", "confusion_normalised", "confusion", "roc", "precision_recall", "reliability"}
    assert set(draw_test_figures(perfect)) == of_part
    figures = draw_figures(perfect, conclusions, plot_tables(perfect, conclusions))
    assert set(figures) == of_part | {"curves", "data", "splits"}, "the members still disagree"


def test_a_positive_class_has_one_panel_and_a_decision_curve(binary):
    """The curves of the other class are mirror images; the title names the class that is to be detected."""
    figures = draw_test_figures(binary)
    for name in ("roc", "precision_recall"):
        (axes,) = figures[name].axes
        assert [title.get_text() for title in axes.texts] == ["b"]
    assert "call all b" in texts_of(figures["decision_curve"])


def test_images_of_one_class_have_no_curves(results):
    """A test set that the data gives may have one class only; each of the other figures is drawn."""
    heading = results.test.heading
    one = {name: table[table["label"] == CLASSES[2]] for name, table in results.test.members.items()}
    votes = dict.fromkeys(results.test.votes, heading[heading["label"] == CLASSES[2]])
    part = dataclasses.replace(results.test, members=one, votes=votes)
    assert set(draw_part(part, part_tables(part), None)) == set(draw_test_figures(results)) - {
        *("roc", "precision_recall", "mistakes")
    }


@pytest.mark.parametrize("label", ["a", "b"])
def test_images_of_one_class_have_no_decision_curve(binary, label):
    """Without a case there is no net benefit to draw; without a healthy image, no false alarm."""
    heading = binary.test.heading
    one = {name: table[table["label"] == label] for name, table in binary.test.members.items()}
    votes = dict.fromkeys(binary.test.votes, heading[heading["label"] == label])
    part = dataclasses.replace(binary.test, members=one, votes=votes)
    assert draw_part(part, part_tables(part), "b").keys().isdisjoint(["roc", "decision_curve"])


def test_without_a_scored_test_part_there_are_no_figures_of_test(results):
    assert draw_test_figures(dataclasses.replace(results, test=None)) == {}


def test_of_many_classes_the_heading_vote_alone_has_a_confusion_matrix_and_fewer_images_are_shown(judged):
    """21 classes: six images of each, two classes per row; the title says why the members are missing."""
    names = [f"class {number:02}" for number in range(21)]
    results = judged(classes=names, groups=126)
    figures = draw_test_figures(results)
    for name in ("confusion", "confusion_normalised"):
        (axes,) = figures[name].axes
        title = axes.get_title("left")
        assert title == f"{results.fit.vote} vote; with 21 classes there is no room for its members"
    assert len(figures["roc"].axes[0].texts) == 21
    data = draw_classes(results)
    captions = [text.get_text() for text in data.texts]
    assert captions == [text for name in names for text in (f"{name} (18 images)", *[""] * 5)]
    assert len(pictures_of(data, 12)) == 126
