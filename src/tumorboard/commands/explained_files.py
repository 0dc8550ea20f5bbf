"""Writes a picture per classified file: the crop, and over it the evidence that each model and the vote see."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tumorboard.base.errors import InputError, printable
from tumorboard.base.files import replacing
from tumorboard.base.progress import Progress
from tumorboard.commands.panel_source import PanelSource
from tumorboard.data.new_files import read_and_crop
from tumorboard.data.store import CropBatch
from tumorboard.panel.explain import check_maps, explain_crops
from tumorboard.panel.heat_maps import VOTE, draw_maps
from tumorboard.panel.predict import Decisions, classify_crops, limited
from tumorboard.report.contact_sheet import contact_sheet
from tumorboard.report.lettering import shorten
from tumorboard.report.plots import to_png

BATCH = 16  # files explained at a time
_WIDTH = 16  # letters per line of a caption


def check_explainable(source: PanelSource) -> None:
    """Checks that `write_explanations` can draw the evidence of a panel.

    Raises:
        InputError: no model that the vote counts has a map.
    """
    try:
        check_maps(source.panel, source.deciding)
    except InputError as error:
        raise InputError(
            f"--explain: {error}: choose a vote that counts another model (--vote), name other models (--model), or "
            "leave --explain out"
        ) from None


def write_explanations(source: PanelSource, decisions: Decisions, *, folder: Path) -> None:
    """Writes `folder`/<number>_<name>.png for each file that was classified, numbered as the rows of the table.

    Args:
        source: the panel; its `limits` bound what is read, its `frames` chooses a frame.
        decisions: the table that `predict_images` returned.
        folder: folder of the pictures, which is created.

    Raises:
        InputError: no model has a map, or a file changed since it was classified.
    """
    usable = decisions[decisions["problem"] == ""]
    names = list(source.panel.card.classes)
    probabilities = usable[[f"p_{name}" for name in names]].to_numpy(np.float64)
    targets = [
        names.index(decided) if decided else int(row.argmax())
        for decided, row in zip(usable["decided"], probabilities, strict=True)
    ]
    with Progress("explain", len(usable), "image") as bar:
        for start in range(0, len(usable), BATCH):
            rows, chosen = usable.iloc[start : start + BATCH], targets[start : start + BATCH]
            crops = _read_again(source, rows["path"].tolist())
            maps = explain_crops(source.panel, crops, chosen, source.deciding)
            drawn = {name: draw_maps(crops, one) for name, one in maps.items()}
            own = _own_decisions(source, crops)
            for place, (number, row) in enumerate(rows.iterrows()):
                label = names[chosen[place]]
                captions = [f"{shorten(Path(row['path']).name, _WIDTH)}\nFor research, not\nfor diagnosis"]
                captions += [f"{shorten(name, _WIDTH)}\n{own[name][place]}" for name in drawn if name != VOTE]
                captions.append(f"{VOTE}\n{row[f'p_{label}']:.2f} {shorten(label, _WIDTH)}")
                pictures = np.stack([crops[place], *(one[place] for one in drawn.values())])
                sheet = contact_sheet(pictures, captions, len(pictures))
                file = folder / f"{int(str(number)) + 1:05d}_{printable(Path(row['path']).stem)[:60]}.png"
                with replacing(file) as temporary:
                    temporary.write_bytes(to_png(sheet))
            bar.update(len(rows))


def _own_decisions(source: PanelSource, crops: CropBatch) -> dict[str, list[str]]:
    """Returns each model's own class for each crop, after its probability, by model."""
    names = source.panel.card.classes
    members = classify_crops(source.panel, crops, source.deciding).members
    return {
        model: [f"{row.max():.2f} {shorten(names[int(row.argmax())], _WIDTH)}" for row in rows]
        for model, rows in zip(source.deciding.fit.temperatures, members, strict=True)
    }


def _read_again(source: PanelSource, paths: Sequence[str]) -> CropBatch:
    crops = []
    for path in paths:
        new = read_and_crop(Path(path), limited(source.panel.card.crop, source.limits), source.frames)
        if new.crop is None:
            raise InputError(f"{printable(path)}: changed since it was classified: {new.problem}")
        crops.append(new.crop)
    return np.stack(crops)
