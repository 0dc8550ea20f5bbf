"""The server's answers in JSON."""

import base64
from collections.abc import Sequence
from typing import Any

import cv2
import pandas as pd
from pydantic import BaseModel, Field

from tumorboard.base.files import table_bytes
from tumorboard.base.params import Crop
from tumorboard.commands.panel_source import PanelSource
from tumorboard.commands.predict import for_spreadsheet
from tumorboard.commands.submission import six_digits
from tumorboard.images.formats import HEAD_BYTES
from tumorboard.images.grey import Pixels
from tumorboard.panel.deciding import Deciding
from tumorboard.panel.heat_maps import VOTE
from tumorboard.panel.opinion import Opinion
from tumorboard.panel.panel_file import DISCLAIMER
from tumorboard.panel.votes import PROBABILISTIC

LONGEST_NAME = 1000  # characters; the longest accepted name of a file


class PanelAnswer(BaseModel):
    """The panel that votes, and the limits of uploads."""

    title: str = Field(description="The study or the file that the panel is from.")
    models: list[str]
    classes: list[str]
    vote: str
    scale: str = Field(description="What the vote's numbers are: calibrated or uncalibrated probabilities, or shares.")
    weights: dict[str, float] | None = Field(description="What each model counts; null: all count the same.")
    positive: str | None = Field(description="The class that `threshold` belongs to.")
    threshold: float | None = Field(description="Lowest probability of `positive` that decides for it.")
    abstain: float = Field(description="An image whose decided class has a lower probability is left undecided.")
    side: int = Field(description="Of a crop, in pixels.")
    max_bytes: int = Field(description="Of a file.")
    max_pixels: int = Field(description="Of an image.")
    head_bytes: int = Field(description="Of a larger file as many bytes are enough for its answer.")
    longest_name: int = Field(description="Of a file, in characters.")
    intended_use: str
    notice: str = DISCLAIMER


class Row(BaseModel):
    """The row of `tumorboard predict`; without a prediction, its cells are null."""

    path: str
    decided: str | None = Field(description="The class; empty where its probability is below `abstain`.")
    probability: float | None = Field(description="Of that class, from the vote.")
    agreeing: str | None = Field(description="How many models predict that class by themselves, as in '3 of 4'.")
    probabilities: dict[str, float] = Field(description="Of each class, from the vote.")
    threshold: float | None = Field(description="Probability of the panel's `positive` class that decides for it.")
    unlike: float | None = Field(description="From 1 on: unlike the training images; null: not scored.")
    known: str = Field(description="The split in which the panel's own data has this very file, else empty.")
    problem: str = Field(description="Why the file has no prediction, else empty.")


class ImageAnswer(BaseModel):
    """What the panel says of one file."""

    row: Row
    members: dict[str, dict[str, float]] = Field(description="Calibrated probability of each class, by model.")
    crop: str | None = Field(description="What the models see: a PNG as a data: URL.")
    csv_header: str = Field(description="First line of the table that `tumorboard predict` writes.")
    csv_line: str = Field(description="This file's line of that table.")
    notice: str = DISCLAIMER


class MapsAnswer(BaseModel):
    """Where the models see evidence for a class: the crop with Grad-CAM maps over it."""

    label: str
    vote: str | None = Field(description="A PNG as a data: URL; null: no model that the vote counts has a map.")
    members: dict[str, str | None] = Field(description="The same by model; null: this model has no map.")
    problem: str = Field(description="Why there are no maps, else empty.")
    notice: str = DISCLAIMER


class ProblemAnswer(BaseModel):
    """Why a request was not answered."""

    problem: str


def scale_of(deciding: Deciding) -> str:
    """Returns the kind of numbers that a vote has."""
    if deciding.vote not in PROBABILISTIC:
        return "share of the models' votes, no probability"
    return "calibrated probability" if deciding.fit.weights else "probability, not calibrated"


def weights_of(deciding: Deciding) -> dict[str, float] | None:
    """Returns each model's weight, for votes in which the models' weights differ."""
    if deciding.vote == "single":
        return {model: float(model == deciding.fit.single) for model in deciding.fit.temperatures}
    return dict(deciding.fit.weights) if deciding.vote == "weighted" else None


def image_answer(opinion: Opinion, classes: Sequence[str]) -> ImageAnswer:
    """Returns the answer for one file, whose row has the cells of `tumorboard predict`."""
    row = opinion.decisions.iloc[0]
    cells: dict[str, Any] = {str(name): None if pd.isna(cell) else cell for name, cell in row.items()}
    usable = not cells["problem"]
    table = for_spreadsheet(six_digits(opinion.decisions))
    header, whole = (table_bytes(rows).decode("utf-8", "replace") for rows in (table[:0], table))
    return ImageAnswer(
        row=Row(
            probabilities={name: cells[f"p_{name}"] for name in classes} if usable else {},
            **{name: cells[name] for name in Row.model_fields if name != "probabilities"},
        ),
        members={
            model: dict(zip(classes, probabilities.tolist(), strict=True))
            for model, probabilities in opinion.members.items()
        },
        crop=None if opinion.crop is None else png_url(opinion.crop),
        csv_header=header,
        csv_line=whole.removeprefix(header),
    )


def maps_answer(label: str, models: Sequence[str], maps: dict[str, Pixels], problem: str = "") -> MapsAnswer:
    """Returns the answer with the available maps."""
    urls = {name: png_url(drawn) for name, drawn in maps.items()}
    return MapsAnswer(
        label=label, vote=urls.get(VOTE), members={name: urls.get(name) for name in models}, problem=problem
    )


def png_url(picture: Pixels) -> str:
    """Returns a picture uint8[H, W, 3] in RGB as a data: URL."""
    content = cv2.imencode(".png", picture[..., ::-1])[1].tobytes()
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def panel_answer(source: PanelSource, *, title: str, crop: Crop) -> PanelAnswer:
    """Returns the page's facts about the panel.

    Args:
        source: the panel, and how it decides.
        title: title of the page.
        crop: how files are cropped, with the server's limits.
    """
    deciding = source.deciding
    return PanelAnswer(
        title=title,
        models=list(source.panel.models),
        classes=list(source.panel.card.classes),
        vote=deciding.vote,
        scale=scale_of(deciding),
        weights=weights_of(deciding),
        positive=deciding.positive if deciding.threshold is not None else None,
        threshold=deciding.threshold,
        abstain=deciding.abstain,
        side=crop.side,
        max_bytes=crop.max_bytes,
        max_pixels=crop.max_pixels,
        head_bytes=HEAD_BYTES,
        longest_name=LONGEST_NAME,
        intended_use=source.panel.card.intended_use,
    )
