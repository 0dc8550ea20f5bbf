"""Scores how well the maps of the members and of the vote find lesions whose boxes are known."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from tumorboard.base.progress import Progress
from tumorboard.base.tables import Manifest, Predictions
from tumorboard.data.boxes import CropBox
from tumorboard.data.store import CropStore
from tumorboard.evaluation.places import CENTER, PlaceScores, center_prior, judge_places, score_map
from tumorboard.evaluation.summary import Judging
from tumorboard.panel.explain import explain_by_fold
from tumorboard.panel.heat_maps import VOTE
from tumorboard.panel.panel import Panel
from tumorboard.panel.panel_file import PanelFile

BATCH = 64  # images whose maps are in memory at a time
FLIPS = 9999  # draws of the test against the baseline


def score_lesions(
    panel: Panel,
    predictions: Predictions,
    placed: Mapping[str, Sequence[CropBox]],
    content: PanelFile,
    *,
    crops: CropStore,
    manifest: Manifest,
    judging: Judging,
) -> dict[str, Any]:
    """Scores the maps of the images of one part that have a box, each map for the class of the image's label.

    Args:
        panel: the trained models.
        predictions: the part's predictions by the vote that heads the report; may have no rows.
        placed: boxes by image, in pixels of its crop; none where all lie outside of the crop.
        content: what was fitted for the panel.
        crops: crops of the images.
        manifest: the manifest after the split.
        judging: confidence of the intervals, seed and the noun for a group.

    Returns:
        `images`, `groups` and `boxes`: numbers of those that are scored; `outside`: number of images whose boxes all
        lie outside of the square that models see; `maps`: what `judge_places` returns for each model with a map, the
        vote and CENTER. Empty where no image of the part has a box.
    """
    own = predictions[predictions["id"].isin(list(placed))]
    rows = own[[bool(placed[name]) for name in own["id"]]]
    if rows.empty:
        return {}
    explain = partial(explain_by_fold, panel, content=content, crops=crops, manifest=manifest)
    prior = center_prior(panel.card.crop.side)
    center = {CENTER: [score_map(prior, placed[name]) for name in rows["id"]]}
    judged = judge_places(
        center | _score_maps(rows, placed, explain),
        rows["group"].tolist(),
        confidence=judging.evaluate.confidence,
        seed=judging.seed,
        flips=FLIPS,
        unit=judging.unit,
    )
    return {
        "images": len(rows),
        "groups": int(rows["group"].nunique()),
        "boxes": sum(len(placed[name]) for name in rows["id"]),
        "outside": len(own) - len(rows),
        "maps": judged,
    }


def _score_maps(
    rows: Predictions, placed: Mapping[str, Sequence[CropBox]], explain: Callable[..., tuple[Any, Any]]
) -> dict[str, list[PlaceScores]]:
    """Scores the maps of each member and of the vote, batch by batch; `explain` draws them for ids and labels."""
    scores: dict[str, list[PlaceScores]] = {}
    with Progress("boxes", len(rows), "image") as bar:
        for start in range(0, len(rows), BATCH):
            batch = rows.iloc[start : start + BATCH]
            ids = batch["id"].tolist()
            members, vote = explain(ids, batch["label"].tolist())
            for name, maps in (members | ({} if vote is None else {VOTE: vote})).items():
                new = [score_map(one, placed[image]) for one, image in zip(maps, ids, strict=True)]
                scores.setdefault(name, []).extend(new)
            bar.update(len(batch))
    return scores
