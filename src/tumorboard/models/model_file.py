"""Reads and writes the file of a trained model: safetensors, with a ModelCard as JSON in the header, and no code."""

from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.torch import save

from tumorboard.base.errors import InputError
from tumorboard.base.files import replacing
from tumorboard.base.params import Crop, Recipe
from tumorboard.models.registry import Classifier, build_model
from tumorboard.models.tensors import CARD_KEY, copy_tensors, read_safetensors


class ModelCard(BaseModel):
    """Describes a trained model: all that is needed to use it and to train it again."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str  # of the model in params.yaml
    classes: tuple[str, ...]  # names in the order of the logits
    fold: int  # the validation fold, which training never saw
    crop: Crop  # how an image file becomes the network's input
    mean: tuple[float, float, float]  # per channel, of values from 0 to 1, by which the input is normalized
    std: tuple[float, float, float]  # standard deviation, likewise
    recipe: Recipe  # how it was trained
    manifest: str  # digest of the Manifest that has the fold
    parameters: int  # how many numbers were trained
    epoch: int  # the one whose weights were kept, counted from 1
    score: dict[str, float | None]  # of the validation fold at that epoch; None where undefined
    versions: dict[str, str]  # of the libraries by package name
    seed: int  # of weights, batches and alterations
    intended_use: str = "For research, not for diagnosis."


def save_model(path: Path | str, model: Classifier, card: ModelCard) -> None:
    """Writes a model and its card; equal models with equal cards give equal bytes."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with replacing(path) as temporary:
        temporary.write_bytes(save(tensors, {CARD_KEY: card.model_dump_json()}))


def load_model(path: Path | str, device: torch.device | str) -> tuple[Classifier, ModelCard]:
    """Reads a model and its card.

    Args:
        path: a file that `save_model` wrote.
        device: where to put the model.

    Returns:
        The model in evaluation mode, and its card.

    Raises:
        InputError: there is no such file, it is damaged or foreign, or its weights do not fit its card.
    """
    path = Path(path)
    tensors, card_text = read_safetensors(path)
    if card_text is None:
        raise InputError(f"{path}: holds weights, but no model card: not a model of this project")
    try:
        card = ModelCard.model_validate_json(card_text)
    except ValidationError as error:
        fault = error.errors()[0]
        field = ".".join(map(str, fault["loc"]))
        raise InputError(f"{path}: its model card cannot be read: {field}: {fault['msg']}") from None
    recipe = card.recipe.model_copy(update={"pretrained": "none"})  # the file has all weights
    model = build_model(recipe, len(card.classes), card.crop.side, (card.mean, card.std))
    copy_tensors(model, tensors, str(path))
    return model.to(device).eval(), card
