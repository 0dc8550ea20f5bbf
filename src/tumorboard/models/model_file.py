"""Reads and writes the file of a trained model: safetensors, with a ModelCard as JSON in the header, and no code."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.torch import save
from torch import Tensor

from tumorboard.base.errors import InputError, clip, printable
from tumorboard.base.files import replacing
from tumorboard.base.params import Crop, Recipe
from tumorboard.models.registry import Classifier, build_model, outline_model
from tumorboard.models.study_code import is_study_code, study_digest
from tumorboard.models.tensors import CARD_KEY, check_tensors, copy_tensors, read_safetensors

MAX_CARD = 10_000_000  # characters; the names of 100,000 classes fit
MAX_BYTES = 500_000_000  # crop.max_bytes of models that were trained before this parameter existed
# What recipes did when these keys did not exist.
EARLIER_RECIPE = {"tta": [], "progressive": 1.0, "average_last": 0}
DISCLAIMER = "For research, not for diagnosis."


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
    versions: dict[str, str]  # of the libraries by package name; `Classifier.versions`
    seed: int  # of weights, batches and alterations
    intended_use: str = DISCLAIMER


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
    card = _read_card(path, card_text)
    recipe = card.recipe.model_copy(update={"pretrained": "none"})  # the file has all weights
    # Before the network is built: the card may describe one of any size, and its texts are somebody else's.
    _check_study_code(path, card)
    outline = _checked_outline(path, recipe, card, tensors)
    model = None if is_study_code(recipe.architecture) else _fill(outline, tensors, card)
    if model is None:
        model = build_model(recipe, len(card.classes), card.crop.side, (card.mean, card.std))
        copy_tensors(model, tensors, str(path))
    return model.to(device).eval(), card


def _check_study_code(path: Path, card: ModelCard) -> None:
    """Raises InputError where the study's own code of a network is not that of its training."""
    name = card.recipe.architecture
    if is_study_code(name) and card.versions.get(name) != study_digest(name):
        raise InputError(
            f"{path}: its architecture {clip(name)} is not the code that it was trained with: bring that "
            "back, or train again with `dvc repro`"
        )


def _read_card(path: Path, text: str | None) -> ModelCard:
    if text is None:
        raise InputError(f"{path}: holds weights, but no model card: not a model of this project")
    if len(text) > MAX_CARD:
        raise InputError(f"{path}: its model card has {len(text):,} characters, more than {MAX_CARD:,}")
    try:
        card = ModelCard.model_validate_json(_with_later_keys(text))
    except ValidationError as error:
        fault = error.errors()[0]
        field = printable(clip(".".join(map(str, fault["loc"]))))
        message = printable(clip(fault["msg"], 300))
        raise InputError(f"{path}: its model card cannot be read: {field}: {message}") from None
    if len(set(card.classes)) < max(2, len(card.classes)):
        raise InputError(f"{path}: its classes are not two or more different names: {clip(str(card.classes))}")
    # These are printed and compared; a run accepts no others.
    if odd := [text for text in (card.name, card.manifest, *card.classes) if not text.isprintable() or not text]:
        raise InputError(f"{path}: its model card has a name that cannot be printed: {clip(odd[0])!r}")
    if "/" in card.name:
        raise InputError(f"{path}: its model card names a path, expected a model's name: {clip(card.name)!r}")
    return card


def _with_later_keys(text: str) -> str:
    """Adds the keys that cards of earlier versions lack, so that their models are still read."""
    try:
        tree = json.loads(text)
    except ValueError:
        return text  # named by the validation
    if isinstance(tree, dict) and isinstance(tree.get("crop"), dict):
        tree["crop"].setdefault("max_bytes", MAX_BYTES)
    if isinstance(tree, dict) and isinstance(tree.get("recipe"), dict):
        tree["recipe"] = EARLIER_RECIPE | tree["recipe"]
    return json.dumps(tree)


def _checked_outline(path: Path, recipe: Recipe, card: ModelCard, tensors: Mapping[str, Tensor]) -> Classifier:
    """Returns the network of a card without memory; raises InputError unless it has the tensors of its file."""
    layers = len(recipe.head_widths) if recipe.head == "mlp" else 0
    if layers >= len(tensors):
        raise InputError(f"{path}: its card names {layers:,} head_widths, but the file has {len(tensors):,} tensors")
    # What the backbone hands to the head is known only after it has run; the first layer of the file's head says it.
    head = next((tensor for name, tensor in tensors.items() if name in ("head.weight", "head.0.weight")), None)
    features = head.shape[1] if head is not None and head.ndim == 2 else 1
    outline = outline_model(recipe, len(card.classes), card.crop.side, features)
    check_tensors(outline, tensors, str(path))
    return outline


def _fill(outline: Classifier, tensors: Mapping[str, Tensor], card: ModelCard) -> Classifier | None:
    """Gives an outline the tensors of its file, which spares drawing random weights that these replace.

    Args:
        outline: of `outline_model`; is changed.
        tensors: of the file, copied into memory that torch aligns.
        card: has the side of the images.

    Returns:
        The network; None where it computes with something that is not in the file, such as a table of positions, or
        cannot take such images: `build_model` then makes it, or says why not.
    """
    own = outline.state_dict()
    if own.keys() != tensors.keys():
        return None
    copies = {name: torch.empty(one.shape, dtype=one.dtype).copy_(tensors[name]) for name, one in own.items()}
    try:
        outline.load_state_dict(copies, assign=True)
        with torch.no_grad():
            logits = outline.eval()(torch.zeros(1, 3, card.crop.side, card.crop.side, dtype=torch.uint8))
    except (RuntimeError, AssertionError, ValueError, TypeError):
        return None
    lacks = any(tensor.is_meta for tensor in (*outline.parameters(), *outline.buffers(), logits))
    return None if lacks or logits.shape != (1, len(card.classes)) else outline
