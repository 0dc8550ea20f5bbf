"""The panel: trained models that belong together, and what prediction needs of each. This module needs no torch."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from tumorboard.base.errors import InputError, clip
from tumorboard.base.params import Crop
from tumorboard.images.grey import Pixels
from tumorboard.panel.unlike import UnlikeStatistics

CHUNK = 32  # crops that a model classifies at a time
_WHOLE_CHUNK_SIDE = 512  # pixels; fewer crops of a larger side are classified at a time, so that memory stays bounded


class Card(Protocol):
    """What a panel needs of a model's card; `models.model_file.ModelCard` has more."""

    @property
    def name(self) -> str:
        """The model's name."""

    @property
    def fold(self) -> int:
        """The validation fold."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names, in the order of the logits."""

    @property
    def crop(self) -> Crop:
        """How an image file becomes the network's input."""

    @property
    def manifest(self) -> str:
        """Digest of the images that the model was trained and validated on."""

    @property
    def intended_use(self) -> str:
        """A sentence on the use that the model is made for."""


class ModelOutputs(NamedTuple):
    """One model file's outputs for N crops."""

    logits: NDArray[np.float32]  # [N, K], the mean over the views of test-time augmentation
    features: NDArray[np.float32]  # [N, F], what the head reads of the unaltered crops


class PanelModel(Protocol):
    """The content of one model file, whatever computes its network."""

    @property
    def file(self) -> Path:
        """The file, named in messages."""

    @property
    def card(self) -> Card:
        """The model's card."""

    @property
    def unlike(self) -> UnlikeStatistics | None:
        """The statistics of its training images; None: not loaded."""

    def outputs(self, crops: Pixels) -> ModelOutputs:
        """Returns logits and features of crops uint8[N, S, S, 3]."""


@dataclass(frozen=True)
class Panel:
    """Trained models of one data set, one split and one crop."""

    models: Mapping[str, Sequence[PanelModel]]  # one model per fold, by model name

    @property
    def card(self) -> Card:
        """The first model's card; its classes, crop and manifest are those of all models."""
        return next(iter(self.models.values()))[0].card


def chunks_of(crops: Pixels) -> list[Pixels]:
    """Returns crops in parts that a network can take at once: CHUNK, or fewer of very large ones."""
    size = max(1, CHUNK * _WHOLE_CHUNK_SIDE**2 // crops[0].shape[0] ** 2)
    return [crops[start : start + size] for start in range(0, len(crops), size)]


def join_models(loaded: Iterable[PanelModel]) -> Panel:
    """Returns the panel of models, in their order.

    Raises:
        InputError: two models differ in classes, manifest or crop, two are the same fold of the same model, or there is
            none.
    """
    models: dict[str, list[PanelModel]] = {}
    first: PanelModel | None = None
    for model in loaded:
        first = first or model
        for field in ("classes", "manifest", "crop"):
            value, first_value = getattr(model.card, field), getattr(first.card, field)
            if value != first_value:
                difference = _describe_difference(field, value, first_value)
                raise InputError(f"{model.file} and {first.file} do not belong to one panel: {difference}")
        same_name = models.setdefault(model.card.name, [])
        if any(model.card.fold == other.card.fold for other in same_name):
            raise InputError(
                f"{model.file}: fold {model.card.fold} of model '{model.card.name}' is already in the panel"
            )
        same_name.append(model)
    if not models:
        raise InputError("a panel needs at least one model file")
    return Panel(models)


def _describe_difference(field: str, value: Any, other: Any) -> str:
    if isinstance(value, Crop):
        keys = [key for key in Crop.model_fields if getattr(value, key) != getattr(other, key)]
        return ", ".join(f"crop.{key} is {getattr(value, key)} and {getattr(other, key)}" for key in keys)
    return f"their {field} {'are' if field == 'classes' else 'is'} {clip(str(value), 300)} and {clip(str(other), 300)}"
