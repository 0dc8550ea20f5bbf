"""The panel: trained models that belong together, loaded from their files."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tumorboard.base.errors import InputError, clip
from tumorboard.base.params import Crop
from tumorboard.models.model_file import ModelCard, load_model
from tumorboard.models.registry import Classifier
from tumorboard.panel.unlike import UnlikeStatistics, load_unlike


class TrainedModel(NamedTuple):
    """The content of one model file: a network that was trained on one fold."""

    file: Path
    network: Classifier
    card: ModelCard
    unlike: UnlikeStatistics | None = None  # of its training images; None: not loaded


@dataclass(frozen=True)
class Panel:
    """Trained models of one data set, one split and one crop."""

    models: Mapping[str, Sequence[TrainedModel]]  # one model per fold, by model name

    @property
    def card(self) -> ModelCard:
        """The first model's card; its classes, crop and manifest are those of all models."""
        return next(iter(self.models.values()))[0].card


def load_panel(files: Iterable[Path], device: str, *, unlike: Path | None = None) -> Panel:
    """Loads the models of a panel, in the order of their files.

    Args:
        files: of the models, as `save_model` writes them.
        device: 'cpu' or 'cuda'.
        unlike: folder with the statistics of each model's training images, <model>/<fold>.safetensors; None: they are
            not loaded.

    Raises:
        InputError: where a file is no model, two models differ in classes, manifest or crop, two files hold the same
            fold of the same model, there is no file, or statistics are missing or damaged.
    """
    models: dict[str, list[TrainedModel]] = {}
    first: TrainedModel | None = None
    for file in files:
        network, card = load_model(file, device)
        statistics = load_unlike(unlike / card.name / f"{card.fold}.safetensors") if unlike else None
        loaded = TrainedModel(file, network, card, statistics)
        first = first or loaded
        for field in ("classes", "manifest", "crop"):
            value, first_value = getattr(loaded.card, field), getattr(first.card, field)
            if value != first_value:
                difference = _describe_difference(field, value, first_value)
                raise InputError(f"{file} and {first.file} do not belong to one panel: {difference}")
        same_name = models.setdefault(loaded.card.name, [])
        if any(loaded.card.fold == other.card.fold for other in same_name):
            raise InputError(f"{file}: fold {loaded.card.fold} of model '{loaded.card.name}' is already in the panel")
        same_name.append(loaded)
    if not models:
        raise InputError("a panel needs at least one model file")
    return Panel(models)


def _describe_difference(field: str, value: Any, other: Any) -> str:
    if isinstance(value, Crop):
        keys = [key for key in Crop.model_fields if getattr(value, key) != getattr(other, key)]
        return ", ".join(f"crop.{key} is {getattr(value, key)} and {getattr(other, key)}" for key in keys)
    return f"their {field} {'are' if field == 'classes' else 'is'} {clip(str(value), 300)} and {clip(str(other), 300)}"
