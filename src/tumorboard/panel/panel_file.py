"""The file of a panel, models/panel.json: what was fitted on validation images, so that new images get the same."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tumorboard.base.errors import InputError, clip, printable
from tumorboard.base.files import write_json
from tumorboard.panel.fitted import Fit
from tumorboard.panel.stacking import Stacking
from tumorboard.panel.votes import STACKING, VOTES

DISCLAIMER = "For research, not for diagnosis."

Temperature: TypeAlias = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Weight: TypeAlias = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Threshold: TypeAlias = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class PanelFile(BaseModel):
    """What is fitted to the validation images of a study, and which models it belongs to."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1]
    classes: tuple[str, ...]  # class names, in the order of the probabilities
    manifest: str  # digest of the images that the models were trained and validated on
    positive: str | None  # the class that the threshold belongs to
    vote: str  # the vote that heads the report
    temperatures: dict[str, Temperature]  # temperature of each model
    weights: dict[str, Weight]  # weight of each model in the weighted vote
    vote_temperatures: dict[str, Temperature]  # temperature of each vote
    losses: dict[str, float]  # held-out cross-entropy by vote, where the vote was chosen by it
    unlike: float | None  # score from which an image is called unlike the training images
    threshold: Threshold | None  # lowest probability of `positive` that decides for it; None: the most probable class
    single: str | None = None  # the model of the vote 'single'; files of earlier versions have none
    stacking: Stacking | None = None  # the regression of the vote 'stacking'
    intended_use: str = DISCLAIMER

    @property
    def fit(self) -> Fit:
        """The fitted numbers."""
        return Fit(**{name: getattr(self, name) for name in Fit.__dataclass_fields__})


def write_panel(
    path: Path, fit: Fit, *, classes: Sequence[str], manifest: str, positive: str | None, unlike: float | None = None
) -> None:
    """Writes the file of a panel.

    Args:
        path: the file.
        fit: the fitted numbers.
        classes: the class names, in the order of the probabilities.
        manifest: digest of the images that the models were trained and validated on.
        positive: the class that the threshold belongs to.
        unlike: the score from which an image is called unlike the training images.
    """
    panel = PanelFile(
        format=1, classes=tuple(classes), manifest=manifest, positive=positive, unlike=unlike, **fit.to_json()
    )
    write_json(panel.model_dump(mode="json"), path)


def read_panel(path: Path, models: Sequence[str], *, classes: Sequence[str], manifest: str) -> PanelFile:
    """Reads the file of a panel and checks that it belongs to the models.

    Args:
        path: the file.
        models: names of the members.
        classes: the models' class names.
        manifest: digest in the models' cards.

    Raises:
        InputError: there is no such file, it is damaged, or it was written for other models.
    """
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: is not there: `dvc repro ensemble` writes it, `dvc pull` fetches it") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    return parse_panel(text, str(path), models, classes=classes, manifest=manifest)


def parse_panel(text: str, where: str, models: Sequence[str], *, classes: Sequence[str], manifest: str) -> PanelFile:
    """Reads the content of a panel's file as `read_panel` does; `where` begins its messages."""
    try:
        panel = PanelFile.model_validate(json.loads(text))
    except ValidationError as error:
        fault = error.errors()[0]
        field = printable(clip(".".join(map(str, fault["loc"]))))
        raise InputError(f"{where}: {field}: {printable(clip(fault['msg'], 300))}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: cannot be read: {error}") from None
    expected: Mapping[str, object] = {"classes": tuple(classes), "manifest": manifest}
    for name, value in expected.items():
        if getattr(panel, name) != value:
            raise InputError(f"{where}: was fitted for other {name} than the models have: run `dvc repro ensemble`")
    if set(panel.temperatures) != set(models) or set(panel.weights) != set(models):
        fitted = printable(clip(", ".join(panel.temperatures), 300))
        raise InputError(
            f"{where}: was fitted for {fitted}, but the panel has {', '.join(models)}: run `dvc repro ensemble`"
        )
    if panel.positive is not None and panel.positive not in classes:
        raise InputError(
            f"{where}: positive is {printable(clip(panel.positive))}, expected one of {', '.join(classes)}"
        )
    if panel.vote not in VOTES:
        raise InputError(f"{where}: vote is {clip(panel.vote)!r}, expected one of {', '.join(VOTES)}")
    _check_votes(where, panel)
    return panel


def _check_votes(where: str, panel: PanelFile) -> None:
    """Raises InputError unless the file has what the votes 'single' and 'stacking' need."""
    if panel.single is not None and panel.single not in panel.temperatures:
        raise InputError(f"{where}: single is {printable(clip(panel.single))}, expected one of its models")
    if panel.vote in ("single", STACKING) and getattr(panel, panel.vote) is None:
        raise InputError(f"{where}: lacks the numbers of the {panel.vote} vote: run `dvc repro ensemble`")
    if (stacking := panel.stacking) is not None:
        width = len(panel.temperatures) * len(panel.classes) + sum(column.width for column in stacking.columns)
        widths = {len(row) for row in stacking.coefficients}
        if widths != {width} or not len(stacking.coefficients) == len(stacking.intercepts) == len(panel.classes):
            raise InputError(
                f"{where}: stacking has other numbers of coefficients than {len(panel.classes)} classes and {width} "
                "features need: run `dvc repro ensemble`"
            )
