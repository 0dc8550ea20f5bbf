"""Selects the data of a report's charts and pictures, and draws them."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tumorboard.base.randomness import keys_of, order
from tumorboard.base.tables import Predictions, classes_of, probabilities_of
from tumorboard.evaluation.calibration import reliability_table
from tumorboard.evaluation.metrics import Confusion, confusion_table, curve_tables
from tumorboard.evaluation.operating_point import decision_curve
from tumorboard.evaluation.paired import FIRST, SECOND
from tumorboard.evaluation.suspects import Suspects
from tumorboard.report import class_curves, plots
from tumorboard.report.conclusions import Conclusions
from tumorboard.report.contact_sheet import contact_sheet
from tumorboard.report.disagreement import draw_splits
from tumorboard.report.generated import draw_generated
from tumorboard.report.lettering import drawable_names, font_families, is_replaced, shorten
from tumorboard.report.results import Duplicates, Part, Results, name_of_vote

ChartTable: TypeAlias = pd.DataFrame  # one row per point or bar of a chart, with the column model; see `plot_tables`
Mistakes: TypeAlias = pd.DataFrame  # one row per misclassified image: id, label, decided, probability

_IMAGES_PER_CLASS = 12  # images per class in the figure of the data
_MOST_CLASSES = 20  # with more classes, only the heading vote has a confusion matrix, and fewer images are shown
_PAIRS = 24  # pairs of duplicates shown at most
_MISTAKES = 24  # mistakes shown at most
_SUSPECTS = 24  # suspected labels shown at most


def plot_tables(results: Results, conclusions: Conclusions) -> dict[str, ChartTable]:
    """Returns the tables of the charts of `dvc plots`; all but 'data' have the member or vote in the column `model`.

    They show validation images, so that whoever compares experiments sees no test image.

    Args:
        results: the run's results.
        conclusions: their comparisons are named in the table of scores.

    Returns:
        'data': one row that identifies the data; 'curves': the training histories, with fold and kept; the tables of
        `part_tables`.
    """
    tables = part_tables(results.validation)
    tables["scores"] = _with_verdicts(tables["scores"], results, conclusions)
    return {"data": data_table(results), "curves": _curves_table(results), **tables}


def data_table(results: Results) -> pd.DataFrame:
    """Returns one row by which `dvc plots diff` finds revisions with different data.

    Returns:
        Columns `manifest`, the digest of the images of training and validation, and `data`, a text with their numbers.
    """
    rows = results.manifest[results.manifest["split"] != "test"]
    counted = f"{len(rows):,} images of {results.counted_groups(rows['group'].nunique())}"
    return pd.DataFrame({"manifest": [results.digest], "data": [f"{counted} in {results.raw}, {results.digest}"]})


def part_tables(part: Part) -> dict[str, ChartTable]:
    """Returns the tables of one part of the data.

    Returns:
        'roc', 'precision_recall', 'confusion' (all pairs of classes), 'reliability': for each member and the vote that
        heads the report, 'reliability' also of this vote without temperatures; a hard vote is in 'confusion' alone, as
        its shares are no probabilities. 'scores': for all members and votes.
    """
    curves = {name: curve_tables(table) for name, table in part.probabilities.items()}
    drawn = {**part.members, **part.calibrated_and_not}
    return {
        "roc": _concat({name: roc for name, (roc, _) in curves.items()}),
        "precision_recall": _concat({name: precision_recall for name, (_, precision_recall) in curves.items()}),
        "confusion": _concat({name: confusion_table(table) for name, table in part.predictions.items()}),
        "reliability": _concat({name: reliability_table(table) for name, table in drawn.items()}),
        "scores": _scores_table(part),
    }


def _curves_table(results: Results) -> ChartTable:
    """Returns all histories in one table, with model, fold and whether the weights of the epoch were kept."""
    tables: list[ChartTable] = []
    for model, folds in results.histories.items():
        for fold, history in folds.items():
            numbers = history.apply(pd.to_numeric)
            table = pd.DataFrame({"model": model, "fold": fold, "epoch": numbers["epoch"]})
            table["kept"] = numbers["epoch"] == results.evaluations[model][fold]["epoch"]
            tables.append(table.join(numbers.drop(columns="epoch")))
    return pd.concat(tables, ignore_index=True)


def _concat(tables: Mapping[str, ChartTable]) -> ChartTable:
    return pd.concat([table.assign(model=name) for name, table in tables.items()], ignore_index=True)


def _scores_table(part: Part) -> ChartTable:
    """Returns one row per member and vote: model, kind, and its scores with their intervals."""
    rows = [
        {"model": name, "kind": kind, "accuracy_low": None, "accuracy_high": None, **_numbers(scores)}
        for kind, named in (("member", part.scores["members"]), ("vote", part.listed_votes))
        for name, scores in named.items()
    ]
    return pd.DataFrame(rows).set_index(["model", "kind"]).astype(np.float64).reset_index()


def _with_verdicts(scores: ChartTable, results: Results, conclusions: Conclusions) -> ChartTable:
    """Adds a column with the comparison of each member and vote with the vote that heads the report, in accuracy."""
    comparison, heading = conclusions.comparisons[results.validation.name], name_of_vote(results.fit.vote)
    verdicts = {}
    for row in [*comparison.exploratory.to_dict("records"), *comparison.primary.to_dict("records")]:
        for own, other, ahead in (("first", "second", SECOND), ("second", "first", FIRST)):
            if row[f"{own}_name"] == heading and row["score"] == "accuracy":
                words = {FIRST: "behind", SECOND: "behind"} | {ahead: "ahead"}
                verdicts[row[f"{other}_name"]] = words.get(row["verdict"], row["verdict"])
    pairs = zip(scores["model"], scores["kind"], strict=True)
    names = [name_of_vote(name) if kind == "vote" else name for name, kind in pairs]
    return scores.assign(against_heading=[verdicts.get(name, "") for name in names])


def _numbers(scores: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in scores.items() if value is None or isinstance(value, (int, float))}


def draw_figures(results: Results, conclusions: Conclusions, tables: Mapping[str, ChartTable]) -> dict[str, Figure]:
    """Draws the figures of a report.

    Args:
        results: the run's results.
        conclusions: the conclusions from these results.
        tables: the tables of the charts, as `plot_tables` returns them.

    Returns:
        The figures by name: the figures of `draw_part` for validation images, the learning curves, the data, and the
        duplicates, generated images, images that split the panel and suspected labels where there are any.
    """
    # Each text takes the font families when it is created.
    with mpl.rc_context({"font.family": font_families(_classes(results))}):
        figures = {"curves": plots.learning_curves(tables["curves"]), "data": draw_classes(results)}
        figures |= draw_part(results.validation, tables, results.positive)
        if not (pairs := pairs_to_review(results.duplicates)).empty:
            figures["duplicates"] = _draw_pairs(results, pairs)
        if results.generated is not None:
            figures["generated"] = draw_generated(results.generated, drawable_names(_classes(results)))
        if not (split := conclusions.disagreements[results.validation.name]).splits.empty:
            figures["splits"] = draw_splits(results, split)
        if not conclusions.suspects.empty:
            figures["suspects"] = _draw_suspects(results, conclusions.suspects.head(_SUSPECTS))
        return figures


def draw_test_figures(results: Results) -> dict[str, Figure]:
    """Draws the figures of the test part, and 'mistakes' where there are any; none where the part is not scored."""
    if results.test is None:
        return {}
    with mpl.rc_context({"font.family": font_families(_classes(results))}):
        figures = draw_part(results.test, part_tables(results.test), results.positive)
        if not (mistakes := worst_mistakes(results.test.heading)).empty:
            figures["mistakes"] = _draw_mistakes(results, mistakes)
        return figures


def draw_part(part: Part, tables: Mapping[str, ChartTable], positive: str | None) -> dict[str, Figure]:
    """Draws the figures of one part of the data.

    With many classes only the heading vote has a confusion matrix.

    Args:
        part: one part of the data.
        tables: the part's tables, as `part_tables` returns them.
        positive: the class that is to be detected; without one, and for a hard vote, there is no 'decision_curve'.

    Returns:
        The figures by name; images of one class only have no 'roc', 'precision_recall' and 'decision_curve'.
    """
    texts, vote = drawable_names(classes_of(part.heading)), name_of_vote(part.vote)
    confusions = _drawn_confusions(part, texts)
    shares = {texts[name]: share for name, share in base_rates(part.heading).items()}
    roc, precision_recall = (
        tables[name].assign(**{"class": tables[name]["class"].map(texts)}) for name in ("roc", "precision_recall")
    )
    if positive is not None:  # the other class's curve is its mirror image
        roc, precision_recall = (table[table["class"] == texts[positive]] for table in (roc, precision_recall))
    figures = {
        "scores": plots.score_intervals(tables["scores"], part.vote, max(shares.values()), part.name),
        "confusion_normalised": plots.confusion_matrices(confusions, normalized=True),
        "confusion": plots.confusion_matrices(confusions, normalized=False),
        "reliability": plots.reliability_diagram(tables["reliability"], vote),
    }
    if not roc.empty:
        figures["roc"] = class_curves.roc_curves(roc, vote)
        figures["precision_recall"] = class_curves.precision_recall_curves(precision_recall, vote, shares)
    if positive is not None and part.has_probabilities and part.heading["label"].nunique() > 1:
        figures["decision_curve"] = plots.decision_curves(decision_curve(part.heading, positive), vote, texts[positive])
    return figures


def _drawn_confusions(part: Part, texts: Mapping[str, str]) -> dict[str, Confusion]:
    """Returns the drawn confusion tables by their titles, with the classes' names in pictures."""
    drawn = part.predictions
    if len(texts) > _MOST_CLASSES:
        title = f"{name_of_vote(part.vote)}; with {len(texts)} classes there is no room for its members"
        drawn = {title: part.heading}
    tables = {title: confusion_table(predictions) for title, predictions in drawn.items()}
    return {
        title: table.assign(**{column: table[column].map(texts) for column in ("actual", "predicted")})
        for title, table in tables.items()
    }


def _classes(results: Results) -> list[str]:
    return classes_of(results.validation.heading)


def replaced_names(results: Results) -> dict[str, str]:
    """Returns the classes whose names no installed font draws, by the text that replaces them in pictures."""
    texts = drawable_names(classes_of(results.validation.heading))
    return {text: name for name, text in texts.items() if is_replaced(name, text)}


def base_rates(predictions: Predictions) -> dict[str, float]:
    """Returns each class's share of the labels, in the order of the classes.

    >>> base_rates(pd.DataFrame({"label": ["b", "a", "b", "b"], "p_a": 0.5, "p_b": 0.5}))
    {'a': 0.25, 'b': 0.75}
    """
    shares = predictions["label"].value_counts(normalize=True)
    return {name: float(shares.get(name, 0.0)) for name in classes_of(predictions)}


def pairs_to_review(duplicates: Duplicates) -> Duplicates:
    """Returns the 24 pairs of duplicates that most need a look, most urgent first.

    The keys of the order are: different labels before equal ones, near duplicates before exact ones, pairs across the
    parts that the data gives before others, a lower correlation before a higher one.

    Args:
        duplicates: all pairs, as the audit's table has them.

    Returns:
        The pairs with the added columns same_label, exact and same_part (bool) and a float64 correlation.
    """
    pairs = duplicates.assign(
        correlation=duplicates["correlation"].astype(np.float64),
        same_label=duplicates["first_label"] == duplicates["second_label"],
        same_part=duplicates["first_split"] == duplicates["second_split"],
        exact=duplicates["kind"].isin(("bytes", "pixels")),
    )
    keys = ["same_label", "exact", "same_part", "correlation", "first", "second"]
    return pairs.sort_values(keys, ignore_index=True).head(_PAIRS)


def worst_mistakes(predictions: Predictions) -> Mistakes:
    """Returns the 24 misclassified rows with the highest probability, highest first: id, label, decided, probability.

    >>> rows = {"id": ["x", "y", "z"], "label": ["a", "a", "b"], "p_a": [0.4, 0.1, 0.3], "p_b": [0.6, 0.9, 0.7]}
    >>> worst_mistakes(pd.DataFrame(rows)).to_numpy().tolist()
    [['y', 'a', 'b', 0.9], ['x', 'a', 'b', 0.6]]
    """
    probabilities = probabilities_of(predictions)
    rows = predictions[["id", "label"]].assign(
        decided=np.array(classes_of(predictions), dtype=object)[probabilities.argmax(1)],
        probability=probabilities.max(1),
    )
    wrong: Mistakes = rows[rows["decided"] != rows["label"]]
    # Equal probabilities are ordered by id, so that the figure does not depend on the order of the rows.
    return wrong.sort_values(["probability", "id"], ascending=[False, True], ignore_index=True).head(_MISTAKES)


def draw_classes(results: Results) -> Figure:
    """Draws 12 random crops per class, 6 for many classes; a class with fewer images leaves white places."""
    crops, captions = [], []
    texts = drawable_names(classes_of(results.validation.heading))
    each = _IMAGES_PER_CLASS if len(texts) <= _MOST_CLASSES else _IMAGES_PER_CLASS // 2
    for label in texts:
        ids = results.manifest["id"][results.manifest["label"] == label].to_numpy(object)
        drawn = ids[order(results.seed, keys_of(ids.tolist()), 0)][:each].tolist()
        own = results.load_crops(drawn)
        white = np.full((each - len(drawn), *own.shape[1:]), 255, dtype=np.uint8)
        crops += [own, white]
        name = shorten(texts[label], 5 * each)
        captions += [f"{name} ({len(ids):,} images)"] + [""] * (each - 1)
    return contact_sheet(np.concatenate(crops), captions, _IMAGES_PER_CLASS)


def _draw_pairs(results: Results, pairs: Duplicates) -> Figure:
    """Draws four pairs per row, each image below its label and, where the data gives one, its part."""
    ids = pairs[["first", "second"]].to_numpy(object).ravel().tolist()
    captions = []
    texts = drawable_names(classes_of(results.validation.heading))
    for pair in pairs.to_dict("records"):
        kind = f"identical {pair['kind']}" if pair["exact"] else f"{pair['kind']} {pair['correlation']:.3f}"
        notes = (kind, "mirrored" if pair["mirrored"] == "True" else "")
        for position, note in zip(("first", "second"), notes, strict=True):
            label, part = pair[f"{position}_label"], pair[f"{position}_split"]
            captions.append(
                f"{note}\n{shorten(texts.get(label, label), 12 if part else 20)}{f', {part}' if part else ''}"
            )
    return contact_sheet(results.load_crops(ids), captions, 8)


def _draw_mistakes(results: Results, mistakes: Mistakes) -> Figure:
    texts = drawable_names(classes_of(results.validation.heading))
    captions = [
        # The number comes first: behind a name that is read from right to left it would be moved.
        f"label {shorten(texts[row['label']], 14)}\nvote {row['probability']:.2f} {shorten(texts[row['decided']], 12)}"
        for row in mistakes.to_dict("records")
    ]
    return contact_sheet(results.load_crops(mistakes["id"].tolist()), captions, 8)


def _draw_suspects(results: Results, suspects: Suspects) -> Figure:
    texts = drawable_names(classes_of(results.validation.heading))
    captions = [
        f"label {shorten(texts[row['label']], 14)}\n"
        f"rather {row['p_suggested']:.2f} {shorten(texts[row['suggested']], 11)}"
        for row in suspects.to_dict("records")
    ]
    return contact_sheet(results.load_crops(suspects["id"].tolist()), captions, 8)
