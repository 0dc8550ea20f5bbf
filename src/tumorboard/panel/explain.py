"""Where in images the panel sees the evidence for their class: heat maps of the members and of the vote."""

from collections.abc import Mapping, Sequence

import numpy as np

from tumorboard.base.errors import InputError
from tumorboard.base.tables import Manifest, Predictions
from tumorboard.data.crop_record import check_crop
from tumorboard.data.store import CropBatch, CropStore
from tumorboard.models.activation_maps import map_crops
from tumorboard.panel.deciding import Deciding
from tumorboard.panel.examples import choose_examples
from tumorboard.panel.heat_maps import VOTE, ExplainedExamples, Maps
from tumorboard.panel.panel import Panel, PanelModel
from tumorboard.panel.panel_file import PanelFile
from tumorboard.panel.trained_model import TrainedModel


def explain_crops(panel: Panel, crops: CropBatch, targets: Sequence[int], deciding: Deciding) -> dict[str, Maps]:
    """Returns the Grad-CAM maps of crops for one class each.

    Args:
        panel: a model's map is the mean over its folds. A model without any map, such as `linear`, is left out.
        crops: uint8[N, S, S, 3].
        targets: N class indices.
        deciding: the panel's map is the mean of the models' maps by their weights in its vote: the weights of the
            weighted vote, 1 for the member of the single vote, else equal weights.

    Returns:
        The maps by model, then the panel's as VOTE.

    Raises:
        InputError: no model that the vote counts has a map.
    """
    maps, obstacles = member_maps(panel, crops, targets)
    voted = vote_maps(maps, deciding, list(panel.models))
    if voted is None:
        shares = _shares(list(panel.models), deciding)
        reasons = "; ".join(f"{name}: {why}" for name, why in obstacles.items() if shares[name] > 0)
        raise InputError(
            f"the {deciding.vote} vote has no map of its evidence: {reasons or 'the vote counts no model'}"
        )
    return maps | {VOTE: voted}


def check_maps(panel: Panel, deciding: Deciding) -> None:
    """Checks with a black crop that `explain_crops` can map crops; raises its InputError."""
    side = panel.card.crop.side
    explain_crops(panel, np.zeros((1, side, side, 3), np.uint8), [0], deciding)


def member_maps(panel: Panel, crops: CropBatch, targets: Sequence[int]) -> tuple[dict[str, Maps], dict[str, str]]:
    """Returns the maps of crops by model, as `explain_crops` returns them, and why a model has none."""
    maps: dict[str, Maps] = {}
    obstacles: dict[str, str] = {}
    for name, folds in panel.models.items():
        try:
            maps[name] = np.mean([_map_of(trained, crops, targets) for trained in folds], axis=0, dtype=np.float32)
        except InputError as error:
            obstacles[name] = str(error)
    return maps, obstacles


def vote_maps(maps: Mapping[str, Maps], deciding: Deciding, models: Sequence[str]) -> Maps | None:
    """Returns the mean of the models' maps by their weights in the vote; None where it counts no model with a map.

    Args:
        maps: the maps by model.
        deciding: the vote and its weights.
        models: names of all models of the panel.
    """
    shares = _shares(models, deciding)
    counted = {name: shares[name] for name in maps if shares[name] > 0}
    if not counted:
        return None
    total = sum(counted.values())
    voted = np.zeros_like(next(iter(maps.values())))
    for name, share in counted.items():
        voted += np.float32(share / total) * maps[name]
    return voted


def explain_examples(
    panel: Panel, predictions: Predictions, content: PanelFile, *, crops: CropStore, manifest: Manifest
) -> ExplainedExamples:
    """Chooses images of a part of the data and maps the evidence for the class that the vote decided for.

    A validation image is explained by the models of its own fold alone: those of the other folds were trained on it.

    Args:
        panel: the trained models.
        predictions: the part's predictions by the vote that heads the report; may have no rows.
        content: what was fitted for the panel, with the vote that heads the report and its weights.
        crops: crops of the images.
        manifest: the manifest after the split, with the fold of each validation image.

    Raises:
        InputError: the crops are not what the models were trained on.
    """
    check_crop(crops, panel.card.crop, "the crop store")
    examples = choose_examples(predictions)
    ids, decided = (examples[column].tolist() for column in ("id", "decided"))
    members, vote = explain_by_fold(panel, ids, decided, content, crops=crops, manifest=manifest)
    return ExplainedExamples(examples, members, vote)


def explain_by_fold(
    panel: Panel,
    ids: Sequence[str],
    classes: Sequence[str],
    content: PanelFile,
    *,
    crops: CropStore,
    manifest: Manifest,
) -> tuple[dict[str, Maps], Maps | None]:
    """Returns the maps of N images for one class each, by model, and the vote's maps; None where it has none.

    Args:
        panel: the trained models.
        ids: the images' ids; a validation image is explained by the models of its own fold, a test image by all.
        classes: the class to explain for each image.
        content: what was fitted for the panel.
        crops: crops of the images.
        manifest: the manifest after the split.
    """
    held_out = manifest[manifest["fold"].notna()]
    fold_of = dict(zip(held_out["id"], held_out["fold"].astype(int), strict=True))
    folds = [fold_of.get(name) for name in ids]
    side, members = panel.card.crop.side, dict[str, Maps]()
    # Without any image there is one empty batch, which shows which models have maps.
    for fold in dict.fromkeys(folds) if folds else (None,):
        chosen = [row for row, one in enumerate(folds) if one == fold]
        targets = [panel.card.classes.index(classes[row]) for row in chosen]
        batch = crops[[ids[row] for row in chosen]]
        for name, maps in member_maps(_of_fold(panel, fold), batch, targets)[0].items():
            members.setdefault(name, np.zeros((len(ids), side, side), np.float32))[chosen] = maps
    deciding = Deciding(fit=content.fit, vote=content.vote, positive=content.positive, abstain=0.0)
    return members, vote_maps(members, deciding, list(panel.models))


def _of_fold(panel: Panel, fold: int | None) -> Panel:
    """Returns the models of one fold; all models where the fold is None, as for a test image."""
    if fold is None:
        return panel
    return Panel({name: [one for one in folds if one.card.fold == fold] for name, folds in panel.models.items()})


def _map_of(trained: PanelModel, crops: CropBatch, targets: Sequence[int]) -> Maps:
    if not isinstance(trained, TrainedModel):
        raise InputError(f"{trained.file}: heat maps need torch: pip install 'tumorboard[train]'")
    return map_crops(trained.network, crops, targets, trained.card.recipe.architecture)


def _shares(models: Sequence[str], deciding: Deciding) -> Mapping[str, float]:
    """Returns the weight of each model's map in the panel's map."""
    if deciding.vote == "weighted":
        return {model: deciding.fit.weights.get(model, 0.0) for model in models}
    if deciding.vote == "single":
        return {model: float(model == deciding.fit.single) for model in models}
    return dict.fromkeys(models, 1.0)
