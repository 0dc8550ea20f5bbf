"""Reads the files of a finished run that its report shows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tumorboard.base.errors import InputError
from tumorboard.base.files import read_json, read_table
from tumorboard.base.params import Evaluate, Params
from tumorboard.base.tables import Manifest, Members, Predictions, manifest_digest, read_manifest, read_predictions
from tumorboard.data.store import CropStore
from tumorboard.panel.votes import VOTES

Counts: TypeAlias = pd.DataFrame  # one row per part and class: part, label, images, groups; text
Quarantined: TypeAlias = pd.DataFrame  # one row per excluded file: path, reason, detail; text
Duplicates: TypeAlias = pd.DataFrame  # one row per pair of copies: first, second, kind, correlation, ...; text
Shortcuts: TypeAlias = pd.DataFrame  # one row per set of facts: facts, accuracy, majority, skill, test_..., ...; text
History: TypeAlias = pd.DataFrame  # one row per epoch: epoch, lr, train_<score>, val_<score>; text


@dataclass(frozen=True)
class Results:
    """The contents of the files of one finished run."""

    seed: int  # from params.yaml
    vote: str  # the chosen vote, which heads the report: a key of `votes`
    evaluate: Evaluate  # how the intervals were computed
    manifest: Manifest  # all images of the split, with part and fold
    digest: str  # 16 hexadecimal digits that name the content of `manifest`
    counts: Counts  # images and groups of the split
    quarantined: Quarantined  # files that the crop stage excluded, then those that the audit excluded
    split_metrics: Mapping[str, Any]  # metrics of the split: images dropped, class shares outside the tolerance
    audit_metrics: Mapping[str, Any]  # metrics of the audit: numbers of duplicates, label conflicts, shortcuts
    duplicates: Duplicates  # all pairs that the audit found
    shortcuts: Shortcuts  # scores of the models that see only facts of the files
    recipes: Mapping[str, Mapping[str, Any]]  # by model: the resolved training recipe
    histories: Mapping[str, Mapping[int, History]]  # by model and fold
    timings: Mapping[str, Mapping[int, Mapping[str, float]]]  # by model and fold: seconds, images_per_second
    evaluations: Mapping[str, Mapping[int, Mapping[str, Any]]]  # by model and fold: parameters, epoch (kept), ...
    members: Members  # by model: the Predictions of its folds, merged
    votes: Members  # by vote: its Predictions
    comparison: Mapping[str, Any]  # as `panel.comparison.compare_scores` returns it: scores, weights
    load_crops: Callable[[Sequence[str]], NDArray[np.uint8]]  # N ids to their crops, uint8[N, S, S, 3]

    @property
    def vote_name(self) -> str:
        """The name of the chosen vote in tables and figures; it contains a space, as no model's name does."""
        return f"{self.vote} vote"

    @property
    def test_vote(self) -> Predictions:
        """The test rows of the chosen vote."""
        return select_test(self.votes[self.vote])

    @property
    def test_predictions(self) -> dict[str, Predictions]:
        """The test rows of each member and, last, of the chosen vote."""
        return {name: select_test(table) for name, table in self.members.items()} | {self.vote_name: self.test_vote}


def read_results(
    params: Params, *, crop: Path, split: Path, recipes: Path, training: Path, predictions: Path, metrics: Path
) -> Results:
    """Reads the results of the models, folds and votes that the parameters list.

    Args:
        params: of the run.
        crop: output folder of the crop stage.
        split: output folder of the split stage.
        recipes: folder with `<model>.json`.
        training: folder with `<model>/<fold>/history.csv` and `<model>/<fold>/timings.json`.
        predictions: folder with `joined/<model>.csv` and `votes/<vote>.csv`.
        metrics: folder with split.json, audit.json, votes.json and `evaluate/<model>/<fold>.json`.

    Raises:
        InputError: a file is missing or has another form than expected, or the predictions are of another split.
    """
    manifest = read_manifest(split / "manifest.csv")
    digest = manifest_digest(manifest)
    members = {model: read_predictions(predictions / "joined" / f"{model}.csv") for model in params.models}
    votes = {vote: read_predictions(predictions / "votes" / f"{vote}.csv") for vote in VOTES}
    for name, table in (members | votes).items():
        if (table["manifest"] != digest).any():
            raise InputError(
                f"{predictions}: the predictions of {name} are of another split than {split}: run `dvc repro`"
            )
    return Results(
        seed=params.seed,
        vote=params.ensemble.vote,
        evaluate=params.evaluate,
        manifest=manifest,
        digest=digest,
        counts=read_table(split / "counts.csv"),
        quarantined=pd.concat([read_table(folder / "quarantined.csv") for folder in (crop, split)]),
        split_metrics=read_json(metrics / "split.json"),
        audit_metrics=read_json(metrics / "audit.json"),
        duplicates=read_table(split / "duplicates.csv"),
        shortcuts=read_table(split / "shortcuts.csv"),
        recipes={model: read_json(recipes / f"{model}.json") for model in params.models},
        histories=_per_fold(params, lambda model, fold: read_table(training / model / fold / "history.csv")),
        timings=_per_fold(params, lambda model, fold: read_json(training / model / fold / "timings.json")),
        evaluations=_per_fold(params, lambda model, fold: read_json(metrics / "evaluate" / model / f"{fold}.json")),
        members=members,
        votes=votes,
        comparison=read_json(metrics / "votes.json"),
        load_crops=CropStore(crop / "store").__getitem__,
    )


def select_test(predictions: Predictions) -> Predictions:
    """Returns the test rows, numbered from 0."""
    return predictions[predictions["split"] == "test"].reset_index(drop=True)


def _per_fold(params: Params, read: Callable[[str, str], Any]) -> dict[str, dict[int, Any]]:
    return {model: {fold: read(model, str(fold)) for fold in params.folds} for model in params.models}
