"""A study in one process: the stages of the pipeline as functions, for benchmarks that train many models."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from stages import balance, crop, phantom
from tumorboard.base.files import read_table, write_table
from tumorboard.base.params import Params, package_params
from tumorboard.base.recipe import resolve_recipe
from tumorboard.base.tables import Manifest, read_manifest
from tumorboard.data.audit import find_copies
from tumorboard.data.prepare import prepare_data
from tumorboard.data.store import CropStore
from tumorboard.evaluation.held_out import read_held_out
from tumorboard.evaluation.summary import judging_of
from tumorboard.panel.comparison import MemberOutputs, PanelResults, judge_panel
from tumorboard.panel.evaluate import evaluate_model
from tumorboard.panel.fits import fitting_of
from tumorboard.training.job import read_job
from tumorboard.training.loop import train_model

ChangeLabels: TypeAlias = Callable[[Manifest], Manifest]


def changed(params: Params, **changes: Any) -> Params:
    """Returns the parameters with other values by key; a dict changes keys of a section.

    >>> params = load_params("params.yaml")
    >>> changed(params, seed=3, crop={"side": 32}).crop.side
    32
    """
    values = {
        key: getattr(params, key).model_copy(update=value) if isinstance(value, dict) else value
        for key, value in changes.items()
    }
    return params.model_copy(update=values)


class Study:
    """The cropped images of one data set, from which models are trained again and again."""

    def __init__(self, params: Params, folder: Path) -> None:
        """Crops the images of `data.raw`, or of the phantom, which is drawn first.

        Args:
            params: sections data, crop, phantom, and seed.
            folder: to write to.
        """
        self.folder = folder
        if params.data.raw == "data/phantom":
            raw = folder / "phantom"
            phantom.main(params, out=raw)
            params = changed(params, study="The phantom", data={"raw": str(raw)})
        self.params = params
        crop.main(params, out=folder / "crop", metrics=folder / "crop.json")
        self.manifest = read_manifest(folder / "crop/manifest.csv")
        self._images = read_table(folder / "crop/images.csv")
        store = CropStore(folder / "crop/store")
        self._copies = find_copies(self.manifest, self._images, store.__getitem__, params.audit)

    def split(self, params: Params, change_labels: ChangeLabels | None = None) -> Manifest:
        """Splits the images, and writes the manifest that `train` reads.

        Args:
            params: the parameters of split and audit.
            change_labels: changes the labels before anything else sees them.
        """
        prepared = prepare_data(
            change_labels(self.manifest) if change_labels else self.manifest,
            self._images,
            self._copies,
            unusable=read_table(self.folder / "crop/quarantined.csv"),
            params=params,
            attributes=read_table(self.folder / "crop/attributes.csv"),
        )
        prepared.raise_error()
        write_table(prepared.manifest, self.folder / "split.csv")
        self.prepared = prepared
        return prepared.manifest

    def train(self, params: Params, model: str, fold: int) -> MemberOutputs:
        """Trains a model on the last split, and returns its predictions for validation and test images."""
        folder = self.folder / "training"
        shutil.rmtree(folder, ignore_errors=True)
        store, manifest, balanced = self.folder / "crop/store", self.folder / "split.csv", folder / "balance"
        balance.main(params, fold=fold, store=store, manifest=manifest, out=balanced, metrics=folder / "balance.json")
        weights, held_out = folder / "model.safetensors", folder / "held_out.safetensors"
        job = read_job(
            model,
            fold=fold,
            recipe=resolve_recipe(params, model),
            crop=params.crop,
            store=store,
            manifest=manifest,
            balance=balanced,
            weights=weights,
            held_out=held_out,
            out=folder,
        )
        train_model(job, params.runtime, lambda _: None)
        evaluation = evaluate_model(
            weights,
            held_out,
            model=model,
            fold=fold,
            manifest=read_manifest(manifest),
            crops=CropStore(store),
            runtime=params.runtime,
            test=True,
        )
        validation = evaluation.validation
        return MemberOutputs(validation, read_held_out(held_out, len(validation), len(job.classes)), evaluation.test)

    def judge(self, params: Params, models: Sequence[str], folds: Sequence[int] = (0,)) -> PanelResults:
        """Trains models on the last split, lets them vote, and scores members and votes."""
        params = changed(params, models=tuple(models), folds=tuple(folds))
        outputs = {model: {fold: self.train(params, model, fold) for fold in folds} for model in models}
        classes = sorted(read_manifest(self.folder / "split.csv")["label"].unique())
        return judge_panel(outputs, fitting_of(params, classes), judging_of(params))


def one_process(params: Params) -> Params:
    """Returns the parameters for trainings in this process on the device at hand."""
    return changed(params, runtime={"processes": 1, "checkpoint_seconds": 0.0})


def with_preset(params: Params, preset: str | None) -> Params:
    """Returns the parameters with the alterations, the border and the views of a preset; None: as they are."""
    if preset is None:
        return params
    filled = package_params(preset)
    return changed(
        params,
        preset=preset,
        crop={"border": filled.crop.border},
        train={"augment": filled.train.augment, "tta": filled.train.tta},
        balance={"augment": filled.balance.augment},
    )
