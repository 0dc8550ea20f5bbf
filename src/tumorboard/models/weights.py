"""The file of a trained model: safetensors, with the ModelCard as JSON in the header; nothing in it can run."""

from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.torch import save

from tumorboard.errors import InputError
from tumorboard.models.pretrained import CARD, copy_tensors, read_safetensors
from tumorboard.models.registry import Classifier, build_model
from tumorboard.params import Crop, Recipe
from tumorboard.tables import replacing


class ModelCard(BaseModel):
    """What a weights file says of itself.

    classes: names in the order of the logits. fold: the validation fold it never saw. crop: how an image becomes its
    input. mean, std: its normalisation, a number a channel, of values in 0 to 1. recipe: how it was trained. manifest:
    the digest of the manifest that fold is of. epoch: the one kept, from 1. score: what the validation fold gave then.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    classes: tuple[str, ...]
    fold: int
    crop: Crop
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    recipe: Recipe
    manifest: str
    parameters: int
    epoch: int
    score: dict[str, float | None]
    versions: dict[str, str]
    seed: int
    intended_use: str = "For research, not for diagnosis."


def save_model(path: Path | str, model: Classifier, card: ModelCard) -> None:
    """Write a model and its card; equal ones give equal bytes."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with replacing(path) as temporary:
        temporary.write_bytes(save(tensors, {CARD: card.model_dump_json()}))


def load_model(path: Path | str, device: torch.device | str) -> tuple[Classifier, ModelCard]:
    """Read a model, in eval mode on the device, and its card; raises InputError for what save_model did not write."""
    path = Path(path)
    tensors, text = read_safetensors(path)
    if text is None:
        raise InputError(f"{path}: holds weights, but no model card: not a model of this project")
    try:
        card = ModelCard.model_validate_json(text)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        raise InputError(f"{path}: its model card cannot be read: {where}: {fault['msg']}") from None
    recipe = card.recipe.model_copy(update={"pretrained": "none"})
    model = build_model(recipe, len(card.classes), card.crop.side, (card.mean, card.std))
    copy_tensors(model, tensors, str(path))
    return model.to(device).eval(), card
