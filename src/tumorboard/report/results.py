"""Reads the files of a finished run that its report shows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tumorboard.base.errors import InputError, counted
from tumorboard.base.files import read_json, read_table
from tumorboard.base.params import Crop, Evaluate, Params, Split
from tumorboard.base.tables import (
    Manifest,
    Members,
    Predictions,
    classes_of,
    manifest_digest,
    read_manifest,
    read_predictions,
)
from tumorboard.base.versioning import current_commit
from tumorboard.data.attributes import Attributes
from tumorboard.data.grey_ranges import summarize_ranges
from tumorboard.data.store import CropStore
from tumorboard.panel.comparison import HEADING, UNCALIBRATED
from tumorboard.panel.filters import FirstLayer, read_filters
from tumorboard.panel.fitted import Fit
from tumorboard.panel.heat_maps import ExplainedExamples, read_explained
from tumorboard.panel.ledger import count_models
from tumorboard.panel.panel_file import read_panel
from tumorboard.panel.votes import PROBABILISTIC, STACKING, VOTES
from tumorboard.report.generated import Generated, read_generated

Counts: TypeAlias = pd.DataFrame  # one row per part and class: part, label, images, groups; text
Quarantined: TypeAlias = pd.DataFrame  # one row per excluded file: path, reason, detail; text
Duplicates: TypeAlias = pd.DataFrame  # one row per pair of copies: first, second, kind, correlation, ...; text
Shortcuts: TypeAlias = pd.DataFrame  # one row per set of facts: facts, accuracy, majority, skill, test_..., ...; text
History: TypeAlias = pd.DataFrame  # one row per epoch: epoch, lr, train_<score>, val_<score>; text


@dataclass(frozen=True)
class Part:
    """The panel's predictions and scores for one part of the data."""

    name: str  # 'validation' or 'test'
    vote: str  # the vote that heads the report
    members: Members  # calibrated Predictions by model, with the folds joined
    votes: Members  # Predictions by vote, and HEADING
    scores: Mapping[str, Any]  # scores of the part, as `panel.comparison.score_part` returns them

    @property
    def heading(self) -> Predictions:
        """The predictions of the vote that heads the report."""
        return self.votes[HEADING]

    @property
    def headline(self) -> Mapping[str, Any]:
        """The scores of the vote that heads the report."""
        scores: Mapping[str, Any] = self.scores["votes"][HEADING]
        return scores

    @property
    def predictions(self) -> dict[str, Predictions]:
        """The Predictions of each member and, last, of the vote that heads the report."""
        return {**self.members, name_of_vote(self.vote): self.heading}

    @property
    def has_probabilities(self) -> bool:
        """Whether the vote that heads the report has probabilities; a hard vote has shares of votes."""
        return self.vote in PROBABILISTIC

    @property
    def probabilities(self) -> dict[str, Predictions]:
        """The tables of `predictions` that hold probabilities."""
        return self.predictions if self.has_probabilities else dict(self.members)

    @property
    def calibrated_and_not(self) -> dict[str, Predictions]:
        """The vote that heads the report without temperatures and, last, with them; empty for a hard vote.

        The vote 'stacking' has no temperatures to leave out.
        """
        if not self.has_probabilities:
            return {}
        name = name_of_vote(self.vote)
        without = {} if self.vote == STACKING else {f"{name}, uncalibrated": self.votes[UNCALIBRATED]}
        return without | {name: self.heading}

    @property
    def listed_votes(self) -> dict[str, Mapping[str, Any]]:
        """The scores of each vote by its name, without the second entry of the one that heads the report."""
        return {vote: scores for vote, scores in self.scores["votes"].items() if vote in VOTES}


def name_of_vote(vote: str) -> str:
    """Returns the name of a vote in tables and figures; it contains a space, as no model's name does."""
    return f"{vote} vote"


@dataclass(frozen=True)
class Results:
    """The contents of the files of one finished run."""

    study: str  # name of the study
    raw: str  # folder of the images, as params.yaml has it
    crop: Crop  # how the crops were made
    split: Split  # how the parts were made
    balance: str  # strategy of balancing
    generated: Generated | None  # training images of the first fold that the strategy generate drew
    near: float | None  # `audit.near`
    seed: int  # seed from params.yaml
    unit: str | None  # what a group is, in the singular; None: unknown
    positive: str | None  # the class that is to be detected
    evaluate: Evaluate  # section `evaluate` of params.yaml
    manifest: Manifest  # all images of the split, with part and fold
    digest: str  # 16 hexadecimal digits that name the rows that models are trained and validated on
    counts: Counts  # images and groups of the split
    quarantined: Quarantined  # files that the crop stage excluded, then those that the audit excluded
    grey_ranges: list[str]  # sentences on different ranges of grey and on decoders' warnings; empty where all is well
    split_metrics: Mapping[str, Any]  # metrics of the split: images dropped, class shares outside the tolerance
    audit_metrics: Mapping[str, Any]  # metrics of the audit: numbers of duplicates, label conflicts, shortcuts
    duplicates: Duplicates  # all pairs that the audit reported
    shortcuts: Shortcuts  # skills of the models that see only facts of the files, cross-validated
    test_shortcuts: Shortcuts  # the same skills on the test images
    recipes: Mapping[str, Mapping[str, Any]]  # resolved training recipes by model
    histories: Mapping[str, Mapping[int, History]]  # histories of the trainings by model and fold
    timings: Mapping[str, Mapping[int, Mapping[str, float]]]  # seconds and images_per_second by model and fold
    evaluations: Mapping[str, Mapping[int, Mapping[str, Any]]]  # parameters, epoch (kept), ... by model and fold
    fit: Fit  # the values that were fitted to the validation images
    validation: Part
    test: Part | None  # None where `evaluate.test` is false
    looks: int  # sets of weights whose scores on this test part were computed so far
    explained: Mapping[str, ExplainedExamples]  # images with maps of the evidence, by part
    filters: Mapping[str, FirstLayer]  # filters of models whose first layer sees the pixels
    places: Mapping[str, Mapping[str, Any]]  # scores of the maps against boxes of lesions, by part; {} without boxes
    attributes: Attributes  # the data's further columns
    run: str  # time and commit of the report
    load_crops: Callable[[Sequence[str]], NDArray[np.uint8]]  # N ids to their crops, uint8[N, S, S, 3]

    @property
    def shown(self) -> Part:
        """The part that the report is about: the test part if it is scored."""
        return self.test or self.validation

    @property
    def control(self) -> int | None:
        """The seed with which the labels were shuffled, where the run is a control."""
        return self.split.control

    @property
    def units(self) -> str:
        """The name of a group in the plural, such as 'patients'."""
        return f"{self.unit or 'group'}s"

    def counted_groups(self, count: int) -> str:
        """Returns a number of groups with their name, such as '1 patient' or '2,000 patients'."""
        return counted(count, self.unit or "group")


def read_results(
    params: Params,
    *,
    crop: Path,
    split: Path,
    balance: Path,
    recipes: Path,
    training: Path,
    predictions: Path,
    panel: Path,
    metrics: Path,
    ledger: Path,
) -> Results:
    """Reads the results of the models, folds and votes that the parameters list.

    Args:
        params: the run's parameters.
        crop: output folder of the crop stage.
        split: output folder of the split stage.
        balance: output folder of the balance stage.
        recipes: folder with `<model>.json`.
        training: folder with `<model>/<fold>/history.csv` and `<model>/<fold>/timings.json`.
        predictions: folder with `joined/<model>.csv`, `votes/<vote>.csv` and `maps`, the same for test images in
            `test`, and filters.safetensors.
        panel: file of the values that were fitted to the validation images.
        metrics: folder with split.json, audit.json, votes.json, places.json and
            `evaluate/<model>/<fold>.json`, and test/votes.json and test/places.json.
        ledger: file of the looks at the test part.

    Raises:
        InputError: a file is missing or has another form than expected, or the predictions belong to another split.
    """
    manifest = read_manifest(split / "manifest.csv")
    digest = manifest_digest(manifest)
    content = read_panel(panel, params.models, classes=_read_classes(predictions), manifest=digest)
    validation, test = _read_parts(content.vote, params, predictions, metrics)
    for part in filter(None, (validation, test)):
        _check_split(part, digest, predictions, split)
    return Results(
        **_settings(params),
        **_data(crop, split, metrics),
        generated=_read_drawn(params, balance, crop),
        manifest=manifest,
        digest=digest,
        recipes={model: read_json(recipes / f"{model}.json") for model in params.models},
        **_trainings(params, training, metrics / "evaluate"),
        fit=content.fit,
        validation=validation,
        test=test,
        # In a clone without a ledger, at least the scores of this run were computed.
        looks=max(count_models(ledger, manifest), len(params.models) * len(params.folds) if test else 0),
        **_maps(predictions, metrics, scored=test is not None),
        filters=read_filters(predictions / "filters.safetensors", params.models),
        run=describe_run(),
    )


def _settings(params: Params) -> dict[str, Any]:
    """Returns the fields of Results that params.yaml has."""
    return {
        "study": params.study or Path.cwd().name,
        "raw": params.data.raw,
        "crop": params.crop,
        "split": params.split,
        "balance": params.balance.strategy,
        "near": params.audit.near,
        "seed": params.seed,
        "unit": params.data.unit,
        "positive": params.data.positive,
        "evaluate": params.evaluate,
    }


def _trainings(params: Params, training: Path, evaluations: Path) -> dict[str, Any]:
    """Reads the fields of Results that each model has by fold."""
    return {
        "histories": _per_fold(params, lambda model, fold: read_table(training / model / fold / "history.csv")),
        "timings": _per_fold(params, lambda model, fold: read_json(training / model / fold / "timings.json")),
        "evaluations": _per_fold(params, lambda model, fold: read_json(evaluations / model / f"{fold}.json")),
    }


def _data(crop: Path, split: Path, metrics: Path) -> dict[str, Any]:
    """Reads the fields of Results that describe the images, from the folders of `read_results`."""
    return {
        "counts": read_table(split / "counts.csv"),
        "quarantined": pd.concat([read_table(folder / "quarantined.csv") for folder in (crop, split)]),
        "grey_ranges": summarize_ranges(read_table(crop / "images.csv")),
        "split_metrics": read_json(metrics / "split.json"),
        "audit_metrics": read_json(metrics / "audit.json"),
        "duplicates": read_table(split / "duplicates.csv"),
        "shortcuts": read_table(split / "shortcuts.csv"),
        "test_shortcuts": read_table(split / "test_shortcuts.csv"),
        "attributes": read_table(crop / "attributes.csv"),
        "load_crops": CropStore(crop / "store").__getitem__,
    }


def _check_split(part: Part, digest: str, predictions: Path, split: Path) -> None:
    """Raises InputError unless the predictions of a part belong to the split with this digest."""
    for name, table in part.predictions.items():
        if (table["manifest"] != digest).any():
            raise InputError(
                f"{predictions}: the predictions of {name} are of another split than {split}: run `dvc repro`"
            )


def describe_run() -> str:
    """Returns the time, to the minute, and the commit of the current folder."""
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    commit = current_commit()
    return f"{now}, commit {commit}" if commit else f"{now}, not in a git repository"


def _read_classes(predictions: Path) -> list[str]:
    """Returns the classes of a run, in the order of the probabilities."""
    return classes_of(read_predictions(predictions / "votes" / f"{HEADING}.csv"))


def _read_drawn(params: Params, balance: Path, crop: Path) -> Generated | None:
    """Returns the generated training images of the first fold; None with another strategy."""
    return read_generated(balance, crop / "store", params.folds) if params.balance.strategy == "generate" else None


def _maps(predictions: Path, metrics: Path, *, scored: bool) -> dict[str, Any]:
    """Reads the fields of Results about maps of the evidence; for the test part only where it is scored."""
    folders = {"validation": "."} | ({"test": "test"} if scored else {})
    return {
        "explained": {name: read_explained(predictions / folder / "maps") for name, folder in folders.items()},
        "places": {name: read_json(metrics / folder / "places.json") for name, folder in folders.items()},
    }


def _read_parts(vote: str, params: Params, predictions: Path, metrics: Path) -> tuple[Part, Part | None]:
    """Reads the validation part, and the test part where it is scored."""
    validation = _read_part("validation", vote, params, predictions, metrics)
    if not params.evaluate.test:
        return validation, None
    return validation, _read_part("test", vote, params, predictions / "test", metrics / "test")


def _read_part(name: str, vote: str, params: Params, predictions: Path, metrics: Path) -> Part:
    scores = read_json(metrics / "votes.json")  # the vote stacking is not always fitted
    votes = [vote for vote in VOTES if vote != STACKING or vote in scores.get("votes", {})]
    return Part(
        name,
        vote,
        {model: read_predictions(predictions / "joined" / f"{model}.csv") for model in params.models},
        {vote: read_predictions(predictions / "votes" / f"{vote}.csv") for vote in (*votes, HEADING, UNCALIBRATED)},
        scores,
    )


def _per_fold(params: Params, read: Callable[[str, str], Any]) -> dict[str, dict[int, Any]]:
    return {model: {fold: read(model, str(fold)) for fold in params.folds} for model in params.models}
