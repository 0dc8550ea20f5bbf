"""The content of each file of metrics/: the places of its scores, and the keys that are no scores.

A place in a file is its keys' names from the root on, joined by dots, with <class>, <model> and the like for names
that differ from study to study. The root of a file is ''.
"""

from typing import Any, NamedTuple


class Key(NamedTuple):
    """The meaning of a value that is no score."""

    meaning: str  # in one line
    unit: str  # images, groups, files, sets, pairs, share, none


class MetricsFile(NamedTuple):
    """The content of a file of metrics/."""

    what: str  # the content in one line
    scores: tuple[str, ...]  # places that hold scores, by their names in `score_schema.SCORES`
    keys: dict[str, Key]  # keys that are no scores, by place


_REASON = Key("why there are no scores of one row per group", "none")
_VOTE = Key("the vote that heads the report", "none")
_COMPARED = MetricsFile(
    "`members` and `votes`: all of them on validation images, calibrated; `votes` has the vote that heads the report a "
    "second time as `heading`, and without temperatures as `uncalibrated`; `uncalibrated`: the members before their "
    "temperature; `folds`: `members` and `votes` with mean and deviation over the folds, empty with one fold",
    (
        *("members.<model>", "members.<model>.by_group", "votes.<vote>", "votes.<vote>.by_group"),
        *("uncalibrated.<model>", "folds.members.<model>", "folds.votes.<vote>"),
    ),
    {
        "members.<model>.by_group.reason": _REASON,
        "votes.<vote>.by_group.reason": _REASON,
        "votes.heading.decisions.true_positives": Key("of `data.positive`, called so at the threshold", "images"),
        "votes.heading.decisions.false_negatives": Key("of `data.positive`, called the other class", "images"),
        "votes.heading.decisions.false_positives": Key("of the other class, called `data.positive`", "images"),
        "votes.heading.decisions.true_negatives": Key("of the other class, called so", "images"),
        "folds.members": Key("empty: one fold", "none"),
        "folds.votes": Key("empty: one fold", "none"),
    },
)
_PLACES = MetricsFile(
    "how well maps of the evidence in validation images agree with the boxes of `data.boxes`; empty without boxes",
    ("", "maps.<map>"),
    {
        "boxes": Key("boxes that are scored", "boxes"),
        "outside": Key("images whose boxes all lie outside of the square that models see", "images"),
    },
)
_SHORTCUTS = MetricsFile("skills of the shortcut probe on test images, fitted on training images", ("",), {})

# By path below metrics/.
FILES: dict[str, MetricsFile] = {
    "crop.json": MetricsFile(
        "the images of `data.raw`",
        (),
        {
            "images": Key("usable images", "images"),
            "classes.<class>": Key("those of a class", "images"),
            "groups": Key("their groups (`data.unit`)", "groups"),
            "quarantined": Key("files that cannot be used", "files"),
            "ignored": Key("files that were passed over, as ignored.csv says", "files"),
            "equal_files": Key("images beyond the first one with the same bytes", "images"),
            "equal_pixels": Key("images beyond the first one with the same pixels", "images"),
            "own_range": Key("images whose grey was scaled over the range of their own values", "images"),
            "decoder_warnings": Key("images whose decoder warned", "images"),
        },
    ),
    "audit.json": MetricsFile(
        "copies among the images, and the skills of the shortcut probe, cross-validated on training images",
        ("",),
        {
            "policy": Key("`audit.policy`", "none"),
            "may_leak": Key("whether copies may be on two sides of the split", "none"),
            "images": Key("audited images", "images"),
            "pictures": Key("different pictures among them", "images"),
            "pairs_bytes": Key("images paired with one of the same bytes", "pairs"),
            "pairs_pixels": Key("images paired with one of the same pixels", "pairs"),
            "pairs_near": Key("near duplicates", "pairs"),
            "pairs_overlap": Key("images that share a part of one field", "pairs"),
            "pairs_mirrored": Key("pairs of which one is mirrored", "pairs"),
            "sets": Key("pictures with copies", "sets"),
            "largest_set": Key("images of the picture with the most copies", "images"),
            "sets_across_given_parts": Key("pictures with copies in several parts that the data gives", "sets"),
            "too_faint_to_compare": Key("images without enough contrast to be compared", "images"),
            "label_conflicts": Key("pictures whose copies have several labels", "sets"),
            "quarantined": Key("images left out for their labels' conflict", "images"),
            "dropped": Key("images left out of given parts, as their picture or group is in a higher one", "images"),
            "shortcuts": Key("facts of which the probe's skill reaches `audit.shortcut` beyond chance", "none"),
        },
    ),
    "split.json": MetricsFile(
        "the parts: train, test and each fold's validation images",
        (),
        {
            "images.<part>.<class>": Key("images of a class in a part", "images"),
            "groups.<part>": Key("groups in a part", "groups"),
            "dropped_train_twins": Key("left out of training: their picture is in a given part", "images"),
            "dropped_train_patients": Key("left out of training: their group is in a given part", "images"),
            "dropped_val_twins": Key("left out of validation: their picture is in the given test set", "images"),
            "dropped_val_patients": Key("left out of validation: their group is in the given test set", "images"),
            "merged_groups": Key("groups that count as one with another, as they share a picture", "groups"),
            "left_out_values.<part>": Key("the value of `split.leave_out` that a fold validates", "none"),
            "shares.<part>.<class>": Key("share of a class in a part, of 4 digits", "share"),
            "outside_tolerance": Key("shares that differ by more than `split.tolerance` from those wanted", "none"),
            "explanations": Key("a list of these shares with the reason of each", "none"),
        },
    ),
    "balance/<fold>.json": MetricsFile(
        "the training images of a fold, and what was added to balance the classes",
        (),
        {
            "classes.<class>.before": Key("training images of a class", "images"),
            "classes.<class>.copies": Key("altered copies that were added", "images"),
            "classes.<class>.generated": Key("generated images that were added", "images"),
            "classes.<class>.after": Key("all of them", "images"),
            "copies": Key("altered copies of all classes", "images"),
            "generated": Key("generated images of all classes", "images"),
        },
    ),
    "train/<model>/<fold>.json": MetricsFile(
        "`train`: loss and accuracy over the kept epoch's steps, on altered training images while the weights change; "
        "no score of a model",
        ("train",),
        {
            "epoch": Key("epochs trained", "none"),
            "kept_epoch": Key("the one whose weights were kept, from 1", "none"),
        },
    ),
    "evaluate/<model>/<fold>.json": MetricsFile(
        "`validation`: one model on the validation images of its fold, uncalibrated",
        ("validation", "validation.by_group"),
        {
            "validation.by_group.reason": _REASON,
            "parameters": Key("numbers in the network", "none"),
            "epoch": Key("the one whose weights were kept, from 1", "none"),
        },
    ),
    "votes.json": _COMPARED,
    "ensemble.json": MetricsFile(
        "the vote that heads the report on validation images, flat: what `dvc metrics` and `dvc exp show` read",
        ("",),
        {"vote": _VOTE},
    ),
    "places.json": _PLACES,
    "test/votes.json": _COMPARED._replace(
        what="as `metrics/votes.json`, on test images, and the score `unlike`; empty with `evaluate.test: false`",
        scores=("", *_COMPARED.scores),
    ),
    "test/ensemble.json": MetricsFile(
        "as `metrics/ensemble.json`, on test images, and `unlike`; each name begins with `test_`; empty with "
        "`evaluate.test: false`",
        ("",),
        {"test_vote": _VOTE},
    ),
    "test/places.json": _PLACES._replace(what="as `metrics/places.json`, of test images"),
    "test/shortcuts.json": _SHORTCUTS,
}


def files_schema() -> dict[str, Any]:
    """Returns FILES as plain values."""
    return {
        name: {
            "what": file.what,
            "scores": list(file.scores),
            "keys": {place: key._asdict() for place, key in file.keys.items()},
        }
        for name, file in FILES.items()
    }
