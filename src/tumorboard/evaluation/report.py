"""The report of a run: tables for `dvc plots`, figures, and one self-contained page of HTML."""

import base64
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from tumorboard.evaluation import plots
from tumorboard.evaluation.metrics import confusion_table, precision_recall_table, roc_table, scores
from tumorboard.params import Evaluate
from tumorboard.randomness import keys_of, order
from tumorboard.tables import classes_of, probabilities_of

_LIBRARIES = ("tumorboard", "torch", "torchvision", "timm", "opencv-python", "numpy", "scikit-learn", "dvc")
_SHEET_COLUMNS = 12
_MISTAKES = 24
_PAIRS = 24


@dataclass(frozen=True)
class Run:
    """All that a report speaks of, as the stages wrote it.

    `vote` heads the report; `manifest`, `digest`, `counts` are the split's; `quarantined`: by crop and by the audit;
    `divided`, `cropped`: what the two counted; `audited`, `duplicates`, `shortcuts`: counts and tables of the audit;
    `recipes` by model; `histories` (an epoch a row) and `evaluated` (what `evaluate` measured) by model and fold;
    `members`, `votes`: joined Predictions by name; `compared`: their scores, as `ensemble` wrote them; `pictures`: ids
    to uint8[N, S, S, 3].
    """

    seed: int
    vote: str
    evaluate: Evaluate
    manifest: pd.DataFrame
    digest: str
    counts: pd.DataFrame
    quarantined: pd.DataFrame
    cropped: Mapping[str, Any]
    divided: Mapping[str, Any]
    audited: Mapping[str, Any]
    duplicates: pd.DataFrame
    shortcuts: pd.DataFrame
    recipes: Mapping[str, Mapping[str, Any]]
    histories: Mapping[str, Mapping[int, pd.DataFrame]]
    evaluated: Mapping[str, Mapping[int, Mapping[str, Any]]]
    members: Mapping[str, pd.DataFrame]
    votes: Mapping[str, pd.DataFrame]
    compared: Mapping[str, Any]
    pictures: Callable[[Sequence[str]], NDArray[np.uint8]]

    @property
    def vote_name(self) -> str:
        """The heading vote's name in figures; no model's name holds a space."""
        return f"{self.vote} vote"

    @property
    def judges(self) -> dict[str, pd.DataFrame]:
        """The test Predictions of all members and of the heading vote."""
        return {name: _test(table) for name, table in {**self.members, self.vote_name: self.votes[self.vote]}.items()}


def _test(predictions: pd.DataFrame) -> pd.DataFrame:
    return predictions[predictions["split"] == "test"].reset_index(drop=True)


def plot_tables(run: Run) -> dict[str, pd.DataFrame]:
    """The tables of the charts: curves, roc, precision_recall, confusion (all pairs of classes), scores."""
    rows = [{"model": name, "kind": "member", **both["test"]} for name, both in run.compared["members"].items()]
    rows += [{"model": name, "kind": "vote", **both["test"]} for name, both in run.compared["votes"].items()]
    ends = {"accuracy_low": None, "accuracy_high": None}
    scored = pd.DataFrame([ends | row for row in rows]).set_index(["model", "kind"])
    return {
        "curves": _curves(run),
        "roc": _by_judge(run, roc_table),
        "precision_recall": _by_judge(run, precision_recall_table),
        "confusion": _by_judge(run, confusion_table),
        "scores": scored.astype(np.float64).reset_index(),
    }


def _by_judge(run: Run, table_of: Callable[[pd.DataFrame], pd.DataFrame]) -> pd.DataFrame:
    tables = {name: table_of(table) for name, table in run.judges.items()}
    return pd.concat([table.assign(model=name) for name, table in tables.items()], ignore_index=True)


def _curves(run: Run) -> pd.DataFrame:
    """All histories below each other, with model, fold and whether the epoch's weights were kept."""
    tables: list[pd.DataFrame] = []
    for model, folds in run.histories.items():
        for fold, history in folds.items():
            numbers = history.apply(pd.to_numeric)
            table = pd.DataFrame({"model": model, "fold": fold, "epoch": numbers["epoch"]})
            table["kept"] = numbers["epoch"] == run.evaluated[model][fold]["epoch"]
            tables.append(table.join(numbers.drop(columns="epoch")))
    return pd.concat(tables, ignore_index=True)


def figures(run: Run, tables: Mapping[str, pd.DataFrame]) -> dict[str, Figure]:
    """The figures of a run by name, from the tables of `plot_tables`; 'duplicates', 'mistakes' only where there are."""
    confusions = {name: confusion_table(table) for name, table in run.judges.items()}
    base_rates = _shares(_test(run.votes[run.vote]))
    drawn = {
        "scores": plots.score_intervals(tables["scores"], run.vote, max(base_rates.values())),
        "curves": plots.learning_curves(tables["curves"]),
        "confusion_normalised": plots.confusion_matrices(confusions, normalised=True),
        "confusion": plots.confusion_matrices(confusions, normalised=False),
        "roc": plots.roc_curves(tables["roc"], run.vote_name),
        "precision_recall": plots.precision_recall_curves(tables["precision_recall"], run.vote_name, base_rates),
        "data": _data_sheet(run),
    }
    pairs = _telling_pairs(run)
    if not pairs.empty:
        drawn["duplicates"] = _pair_sheet(run, pairs)
    worst = _mistakes(run)
    if not worst.empty:
        captions = [
            f"is {plots.short(row['label'], 14)}\nvoted {plots.short(row['decided'], 12)} {row['probability']:.2f}"
            for row in worst.to_dict("records")
        ]
        drawn["mistakes"] = plots.contact_sheet(run.pictures(worst["id"].tolist()), captions, 8)
    return drawn


def _shares(table: pd.DataFrame) -> dict[str, float]:
    """The share of each class among the labels, in the order of the classes."""
    return {name: float((table["label"] == name).mean()) for name in classes_of(table)}


def _data_sheet(run: Run) -> Figure:
    """A row of pictures a class, drawn by lot from all parts of the data; a class with few leaves places white."""
    sheet, captions = [], []
    for label in classes_of(run.votes[run.vote]):
        ids = run.manifest["id"][run.manifest["label"] == label].to_numpy(object)
        drawn = ids[order(run.seed, keys_of(ids.tolist()), 0)][:_SHEET_COLUMNS].tolist()
        pictures = run.pictures(drawn)
        white = np.full((_SHEET_COLUMNS - len(drawn), *pictures.shape[1:]), 255, dtype=np.uint8)
        sheet += [pictures, white]
        captions += [f"{plots.short(label, 60)} ({len(ids):,} images)"] + [""] * (_SHEET_COLUMNS - 1)
    return plots.contact_sheet(np.concatenate(sheet), captions, _SHEET_COLUMNS)


def _telling_pairs(run: Run) -> pd.DataFrame:
    """The pairs of copies that most need a look: under two labels, then across given parts, then the least alike."""
    pairs = run.duplicates.astype({"correlation": np.float64})
    same_label = pairs["first_label"] == pairs["second_label"]
    same_part = pairs["first_split"] == pairs["second_split"]
    pairs = pairs.assign(same_label=same_label, same_part=same_part, exact=pairs["kind"] != "near")
    keys = ["same_label", "exact", "same_part", "correlation", "first", "second"]
    shown: pd.DataFrame = pairs.sort_values(keys, ignore_index=True).head(_PAIRS)
    return shown


def _pair_sheet(run: Run, pairs: pd.DataFrame) -> Figure:
    """Four pairs a row, each picture below its label and, where the data gives it, its part."""
    ids = pairs[["first", "second"]].to_numpy(object).ravel().tolist()
    captions = []
    for pair in pairs.to_dict("records"):
        how = f"near {float(pair['correlation']):.3f}" if pair["kind"] == "near" else f"equal {pair['kind']}"
        notes = (how, "mirrored" if pair["mirrored"] == "True" else "")
        for end, note in zip(("first", "second"), notes, strict=True):
            label, part = pair[f"{end}_label"], pair[f"{end}_split"]
            captions.append(f"{note}\n{plots.short(label, 12 if part else 20)}{f', {part}' if part else ''}")
    return plots.contact_sheet(run.pictures(ids), captions, 8)


def _mistakes(run: Run) -> pd.DataFrame:
    """The test images that the vote got wrong with the highest probability: id, label, decided, probability."""
    table = _test(run.votes[run.vote])
    probabilities = probabilities_of(table)
    table["decided"] = np.array(classes_of(table), dtype=object)[probabilities.argmax(1)]
    table["probability"] = probabilities.max(1)
    wrong = table[table["decided"] != table["label"]][["id", "label", "decided", "probability"]]
    worst: pd.DataFrame = wrong.sort_values(["probability", "id"], ascending=[False, True], ignore_index=True)
    return worst.head(_MISTAKES)


def render(run: Run, pictures: Mapping[str, bytes]) -> str:
    """The report as one page of HTML that needs no other file; `pictures` are the figures as PNG, by name."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tumorboard.evaluation"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": _percent, "number": _number}
    test = _test(run.votes[run.vote])
    by_class = scores(test)
    return environment.get_template("report.html.j2").render(
        run=run,
        headline=run.compared["votes"][run.vote]["test"],
        by_class=by_class,
        shares=_shares(test),
        groups=test["group"].nunique(),
        counts=_count_rows(run.counts),
        parts=list(dict.fromkeys(run.counts["part"])),
        quarantined=run.quarantined.to_dict("records"),
        training=int((run.manifest["split"] == "train").sum()),
        out_of_fold=int((next(iter(run.members.values()))["split"] == "val").sum()),
        pairs=_telling_pairs(run).to_dict("records"),
        shortcuts=_shortcut_rows(run.shortcuts),
        members=[_member(run, model) for model in run.members],
        best=min(run.members, key=lambda model: run.compared["members"][model]["val"]["loss"]),
        mistakes=_mistakes(run).to_dict("records"),
        recipes={model: _flatten(recipe) for model, recipe in run.recipes.items()},
        versions={"Python": platform.python_version()} | {name: version(name) for name in _LIBRARIES},
        pictures={name: f"data:image/png;base64,{base64.b64encode(png).decode()}" for name, png in pictures.items()},
    )


def summarise(run: Run) -> str:
    """The test scores of members and votes as lines of text, the heading vote last."""
    test = _test(run.votes[run.vote])
    votes = {f"{name} vote": both["test"] for name, both in run.compared["votes"].items() if name != run.vote}
    found = {name: both["test"] for name, both in run.compared["members"].items()} | votes
    found[run.vote_name] = run.compared["votes"][run.vote]["test"]
    width = max(map(len, found))
    lines = [f"{len(test):,} test images of {test['group'].nunique():,} groups:"]
    for name, of in found.items():
        low, high = (
            of.get("accuracy_low"),
            of.get("accuracy_high"),
        )  # null: says nothing; absent: not made
        interval = "" if low is None or high is None else f" ({100 * low:.1f} to {100 * high:.1f})"
        lines.append(f"  {name:{width}}  accuracy {100 * of['accuracy']:.1f} %{interval}  AUC {_number(of['auc'], 3)}")
    return "\n".join(lines)


def _count_rows(counts: pd.DataFrame) -> list[dict[str, Any]]:
    """Counts by class and part: label, then (images, groups) by part."""
    parts = {label: rows.set_index("part") for label, rows in counts.groupby("label", sort=False)}
    return [
        {"label": label, "parts": {part: (row["images"], row["groups"]) for part, row in table.iterrows()}}
        for label, table in parts.items()
    ]


def _shortcut_rows(shortcuts: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of the probe, its scores as numbers; one that could not be computed is nan."""
    scores = shortcuts.drop(columns="facts").apply(pd.to_numeric)
    return shortcuts[["facts"]].join(scores).to_dict("records")  # type: ignore[return-value]


def _member(run: Run, model: str) -> dict[str, Any]:
    """The row of a model: its recipe's main entries, what evaluate measured over its folds, and its scores."""
    folds = run.evaluated[model].values()
    return {
        "name": model,
        "recipe": run.recipes[model],
        "parameters": next(iter(folds))["parameters"],
        "kept": ", ".join(str(fold["epoch"]) for fold in folds),
        "images_per_second": float(np.mean([fold["images_per_second"] for fold in folds])),
        "test": run.compared["members"][model]["test"],
        "val": run.compared["members"][model]["val"],
    }


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _percent(value: float | None) -> str:
    """A share as '94.3 %', which no line break tears; nan, and the null that JSON makes of it, as 'undefined'."""
    return "undefined" if value is None or not np.isfinite(value) else f"{100 * value:.1f}\N{NO-BREAK SPACE}%"


def _number(value: float | None, digits: int) -> str:
    return "undefined" if value is None or not np.isfinite(value) else f"{value:,.{digits}f}"
