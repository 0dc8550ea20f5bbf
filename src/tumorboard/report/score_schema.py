"""Name, unit, range, direction and interval of each score in the files of metrics/.

docs/metrics.md has the same in prose. `metrics_files` has the scores of each file and the meaning of its other keys.
"""

from typing import Any, Literal, NamedTuple

from tumorboard.report.metrics_files import files_schema

PROPORTION, LOGIT, BOOTSTRAP, FLIPS = "Korn-Graubard", "logit-t", "t and bootstrap", "sign flips"


class Score(NamedTuple):
    """The meaning of a number in a metrics file."""

    meaning: str  # the meaning in one line
    unit: str = "share"  # share, nats, log-odds, images, groups, none
    lowest: float | None = 0  # lowest possible value; None: no bound
    highest: float | None = 1
    better: Literal["higher", "lower", "1", "0", "neither"] = "higher"  # '1', '0': as close to it as possible
    interval: str | None = None  # method of the interval where there are enough groups; None: no interval


# By the name of the score, without the prefix of test scores and without an ending.
SCORES: dict[str, Score] = {
    "images": Score("scored images", "images", 1, None, "neither"),
    "groups": Score("groups (`data.unit`) of these images", "groups", 1, None, "neither"),
    "accuracy": Score("images whose most probable class is their label", interval=PROPORTION),
    "balanced_accuracy": Score("recall, the mean of all classes", interval=LOGIT),
    "f1": Score("F1, the mean of all classes", interval=LOGIT),
    "auc": Score(
        "area under the ROC curve; of three classes or more the mean of each against the rest", interval=LOGIT
    ),
    "loss": Score("cross-entropy of the label", "nats", 0, None, "lower", BOOTSTRAP),
    "brier": Score("squared error of the probabilities, summed over the classes", "none", 0, 2, "lower", BOOTSTRAP),
    "decided_accuracy": Score("images that are decided as they are labeled, at the threshold", interval=PROPORTION),
    "sensitivity": Score("images of `data.positive` that are called so at the threshold", interval=PROPORTION),
    "specificity": Score("images of the other class that are called so at the threshold", interval=PROPORTION),
    "ppv": Score("images called `data.positive` that are", interval=PROPORTION),
    "npv": Score("images called the other class that are", interval=PROPORTION),
    "calibration_slope": Score(
        "slope of the labels on the stated log-odds; below 1: too sure", "none", None, None, "1"
    ),
    "calibration_intercept": Score("what the stated log-odds lack; above 0: too low", "log-odds", None, None, "0"),
    "ece": Score("mean distance of the stated probability from the share that is right", "share", 0, 1, "lower"),
    "unlike": Score(
        "test images that `predict` would call unlike the training images", "share", 0, 1, "neither", PROPORTION
    ),
    "shortcut": Score(
        "`shortcut_<fact>`: balanced accuracy of a probe that sees one fact of a file, rescaled so that guessing is 0",
        "share",
        -1,
        better="0",
    ),
    "pointing": Score("images whose map has its maximum in a box", interval=PROPORTION),
    "iou": Score("overlap of the map's own box with the box that fits best", interval=LOGIT),
    "pointing_gain": Score(
        "`pointing` minus that of a map that always points at the middle", "share", -1, 1, interval=FLIPS
    ),
    "iou_gain": Score("`iou` minus that of a map that always points at the middle", "share", -1, 1, interval=FLIPS),
}

ENDINGS = {
    "_low": "lower end of the interval; null: there is none",
    "_high": "upper end of the interval; null: there is none",
    "_method": "why there is no interval, or no AUC; absent where there is an interval",
    "_mean": "mean over the folds, each scored on its own",
    "_sd": "standard deviation over the folds (n - 1)",
    "_p": "p of the test whether it is 0, by sign flips of whole groups; null: too few groups",
}

TEST_PREFIX = "test_"  # prefix of all scores in metrics/test/ensemble.json
SHORTCUT = "shortcut"  # the score of keys that name a fact of the files


def schema() -> dict[str, Any]:
    """Returns the content of metrics/schema.json."""
    return {
        "format": 1,
        "scores": {name: score._asdict() for name, score in SCORES.items()},
        "endings": ENDINGS,
        "test_prefix": TEST_PREFIX,
        "files": files_schema(),
    }


def score_of_key(key: str) -> str | None:
    """Returns the name of the score that a key of a metrics file is about; None: about no score.

    >>> score_of_key("test_balanced_accuracy_low"), score_of_key("vote")
    ('balanced_accuracy', None)
    >>> score_of_key("shortcut_mean_color"), score_of_key("iou_gain_p")
    ('shortcut', 'iou_gain')
    """
    name = key.removeprefix(TEST_PREFIX)
    if name.startswith(f"{SHORTCUT}_"):
        return SHORTCUT
    ending = next((end for end in ENDINGS if name.endswith(end)), "")
    name = name.removesuffix(ending)
    return name if name in SCORES else None
