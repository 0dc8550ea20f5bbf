"""Selects the data of a report's charts and pictures, and draws them."""

from collections.abc import Callable, Mapping
from typing import TypeAlias

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tumorboard.base.randomness import keys_of, order
from tumorboard.base.tables import Predictions, classes_of, probabilities_of
from tumorboard.evaluation.metrics import confusion_table, precision_recall_table, roc_table
from tumorboard.report import plots
from tumorboard.report.lettering import drawable_names, font_families, is_replaced
from tumorboard.report.results import Duplicates, Results

ChartTable: TypeAlias = pd.DataFrame  # one row per point or bar of a chart, with the column model; see `plot_tables`
Mistakes: TypeAlias = pd.DataFrame  # one row per misclassified image: id, label, decided, probability

_IMAGES_PER_CLASS = 12  # in the figure of the data
_PAIRS = 24  # pairs of duplicates shown at most
_MISTAKES = 24  # mistakes shown at most


def plot_tables(results: Results) -> dict[str, ChartTable]:
    """Returns the tables of the charts, all of which name the member or vote in their column `model`.

    Returns:
        'curves': the training histories, with fold and kept; 'roc', 'precision_recall', 'confusion' (all pairs of
        classes): of each member and the chosen vote on the test set; 'scores': test scores of all members and votes.
    """
    return {
        "curves": _curves_table(results),
        "roc": _concat_per_model(results, roc_table),
        "precision_recall": _concat_per_model(results, precision_recall_table),
        "confusion": _concat_per_model(results, confusion_table),
        "scores": _scores_table(results),
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


def _concat_per_model(results: Results, table_of: Callable[[Predictions], ChartTable]) -> ChartTable:
    tables = [table_of(predictions).assign(model=name) for name, predictions in results.test_predictions.items()]
    return pd.concat(tables, ignore_index=True)


def _scores_table(results: Results) -> ChartTable:
    rows = [
        {"model": name, "kind": kind, "accuracy_low": None, "accuracy_high": None} | scores["test"]
        for kind in ("member", "vote")
        for name, scores in results.comparison[f"{kind}s"].items()
    ]
    return pd.DataFrame(rows).set_index(["model", "kind"]).astype(np.float64).reset_index()


def draw_figures(results: Results, tables: Mapping[str, ChartTable]) -> dict[str, Figure]:
    """Draws the figures of a report.

    Args:
        results: of the run.
        tables: of the charts, as `plot_tables` returns them.

    Returns:
        The figures by name; 'duplicates' and 'mistakes' only where there are any.
    """
    # The families are taken up by each text when it is made.
    with mpl.rc_context({"font.family": font_families(classes_of(results.test_vote))}):
        return _draw_figures(results, tables)


def _draw_figures(results: Results, tables: Mapping[str, ChartTable]) -> dict[str, Figure]:
    texts = drawable_names(classes_of(results.test_vote))
    confusions = {
        name: confusion_table(predictions).replace({"actual": texts, "predicted": texts})
        for name, predictions in results.test_predictions.items()
    }
    roc, precision_recall = (tables[name].replace({"class": texts}) for name in ("roc", "precision_recall"))
    shares = {texts[name]: share for name, share in base_rates(results.test_vote).items()}
    figures = {
        "scores": plots.score_intervals(tables["scores"], results.vote, max(shares.values())),
        "curves": plots.learning_curves(tables["curves"]),
        "confusion_normalised": plots.confusion_matrices(confusions, normalized=True),
        "confusion": plots.confusion_matrices(confusions, normalized=False),
        "roc": plots.roc_curves(roc, results.vote_name),
        "precision_recall": plots.precision_recall_curves(precision_recall, results.vote_name, shares),
        "data": draw_classes(results),
    }
    if not (pairs := pairs_to_review(results.duplicates)).empty:
        figures["duplicates"] = _draw_pairs(results, pairs)
    if not (mistakes := worst_mistakes(results.test_vote)).empty:
        figures["mistakes"] = _draw_mistakes(results, mistakes)
    return figures


def replaced_names(results: Results) -> dict[str, str]:
    """Returns by text the class for which this text stands in pictures, as no installed font draws its name."""
    texts = drawable_names(classes_of(results.test_vote))
    return {text: name for name, text in texts.items() if is_replaced(name, text)}


def base_rates(predictions: Predictions) -> dict[str, float]:
    """Returns each class's share of the labels, in the order of the classes.

    >>> base_rates(pd.DataFrame({"label": ["b", "a", "b", "b"], "p_a": 0.5, "p_b": 0.5}))
    {'a': 0.25, 'b': 0.75}
    """
    return {name: float((predictions["label"] == name).mean()) for name in classes_of(predictions)}


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
        exact=duplicates["kind"] != "near",
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
    """Draws one row of 12 random crops per class; a class with fewer images leaves white places."""
    crops, captions = [], []
    texts = drawable_names(classes_of(results.test_vote))
    for label in classes_of(results.test_vote):
        ids = results.manifest["id"][results.manifest["label"] == label].to_numpy(object)
        drawn = ids[order(results.seed, keys_of(ids.tolist()), 0)][:_IMAGES_PER_CLASS].tolist()
        own = results.load_crops(drawn)
        white = np.full((_IMAGES_PER_CLASS - len(drawn), *own.shape[1:]), 255, dtype=np.uint8)
        crops += [own, white]
        captions += [f"{plots.shorten(texts[label], 60)} ({len(ids):,} images)"] + [""] * (_IMAGES_PER_CLASS - 1)
    return plots.contact_sheet(np.concatenate(crops), captions, _IMAGES_PER_CLASS)


def _draw_pairs(results: Results, pairs: Duplicates) -> Figure:
    """Draws four pairs per row, each image below its label and, where the data gives one, its part."""
    ids = pairs[["first", "second"]].to_numpy(object).ravel().tolist()
    captions = []
    texts = drawable_names(classes_of(results.test_vote))
    for pair in pairs.to_dict("records"):
        kind = f"near {pair['correlation']:.3f}" if pair["kind"] == "near" else f"identical {pair['kind']}"
        notes = (kind, "mirrored" if pair["mirrored"] == "True" else "")
        for position, note in zip(("first", "second"), notes, strict=True):
            label, part = pair[f"{position}_label"], pair[f"{position}_split"]
            captions.append(
                f"{note}\n{plots.shorten(texts.get(label, label), 12 if part else 20)}{f', {part}' if part else ''}"
            )
    return plots.contact_sheet(results.load_crops(ids), captions, 8)


def _draw_mistakes(results: Results, mistakes: Mistakes) -> Figure:
    texts = drawable_names(classes_of(results.test_vote))
    captions = [
        # The number comes first: behind a name that is read from right to left it would be moved.
        f"label {plots.shorten(texts[row['label']], 14)}\n"
        f"vote {row['probability']:.2f} {plots.shorten(texts[row['decided']], 12)}"
        for row in mistakes.to_dict("records")
    ]
    return plots.contact_sheet(results.load_crops(mistakes["id"].tolist()), captions, 8)
