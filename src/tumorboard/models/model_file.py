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
# Values of these keys in recipes that are older than the keys.
EARLIER_RECIPE = {"tta": [], "progressive": 1.0, "average_last": 0}
DISCLAIMER = "For research, not for diagnosis."


class ModelCard(BaseModel):
    """Describes a trained model: all that is needed to use it and to train it again."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str  # the model's name in params.yaml
    classes: tuple[str, ...]  # names in the order of the logits
    fold: int  # the validation fold, which training never saw
    crop: Crop  # how an image file becomes the network's input
    mean: tuple[float, float, float]  # mean per channel of pixel values from 0 to 1; normalizes the input
    std: tuple[float, float, float]  # standard deviation per channel of pixel values from 0 to 1; normalizes the input
    recipe: Recipe  # how it was trained
    manifest: str  # digest of the Manifest that has the fold
    parameters: int  # number of trained parameters
    epoch: int  # the epoch whose weights were kept, counted from 1
    score: dict[str, float | None]  # scores of the validation fold at that epoch; None where undefined
    versions: dict[str, str]  # library versions by package name, and `Classifier.versions`
    seed: int  # seed of the weights, batches and alterations
    intended_use: str = DISCLAIMER


def save_model(path: Path | str, model: Classifier, card: ModelCard) -> None:
    """Writes a model and its card; equal models with equal cards give equal bytes."""
    # Copies, because a file of tensors cannot hold one that the network has under two names.
    as_file = {"device": "cpu", "copy": True, "memory_format": torch.contiguous_format}
    tensors = {name: tensor.detach().to(**as_file) for name, tensor in model.state_dict().items()}
    with replacing(path) as temporary:
        temporary.write_bytes(save(tensors, {CARD_KEY: card.model_dump_json()}))


def load_model(path: Path | str, device: torch.device | str) -> tuple[Classifier, ModelCard]:
    """Reads a model and its card.

    Args:
        path: a file that `save_model` wrote.
        device: the device of the model.

    Returns:
        The model in evaluation mode, and its card.

    Raises:
        InputError: there is no such file, it is damaged or foreign, or its weights do not fit its card.
    """
    path = Path(path)
    tensors, card_text = read_safetensors(path)
    card = _read_card(path, card_text)
    recipe = card.recipe.model_copy(update={"pretrained": "none"})  # the file has all weights
    # Checked before the network is built: a card from somebody else may describe a network of any size.
    _check_study_code(path, card)
    outline = _checked_outline(path, recipe, card, tensors)
    model = None if is_study_code(recipe.architecture) else _fill(outline, tensors, card)
    if model is None:
        model = build_model(recipe, len(card.classes), card.crop.side, (card.mean, card.std))
        copy_tensors(model, tensors, str(path))
    return model.to(device).eval(), card


def _check_study_code(path: Path, card: ModelCard) -> None:
    """Raises InputError where the study's own code of a network differs from the code that it was trained with."""
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
    # These texts are printed and compared; a run accepts printable ones only.
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
        return text  # the validation reports the fault
    if isinstance(tree, dict) and isinstance(tree.get("crop"), dict):
        tree["crop"].setdefault("max_bytes", MAX_BYTES)
    if isinstance(tree, dict) and isinstance(tree.get("recipe"), dict):
        tree["recipe"] = EARLIER_RECIPE | tree["recipe"]
    return json.dumps(tree)


def _checked_outline(path: Path, recipe: Recipe, card: ModelCard, tensors: Mapping[str, Tensor]) -> Classifier:
    """Returns a card's network, whose tensors take no memory; raises InputError unless its file has these tensors."""
    layers = len(recipe.head_widths) if recipe.head == "mlp" else 0
    if layers >= len(tensors):
        raise InputError(f"{path}: its card names {layers:,} head_widths, but the file has {len(tensors):,} tensors")
    # The number of features is known only after the backbone has run; the first layer of the file's head has it.
    head = next((tensor for name, tensor in tensors.items() if name in ("head.weight", "head.0.weight")), None)
    features = head.shape[1] if head is not None and head.ndim == 2 else 1
    outline = outline_model(recipe, len(card.classes), card.crop.side, features)
    check_tensors(outline, tensors, str(path))
    return outline


def _fill(outline: Classifier, tensors: Mapping[str, Tensor], card: ModelCard) -> Classifier | None:
    """Gives an outline the tensors of its file, so that no random weights are drawn only to be replaced.

    Args:
        outline: the network that `outline_model` returned; it is changed.
        tensors: the file's tensors by name; they are copied into memory that torch aligns.
        card: its side of the images and its classes are used.

    Returns:
        The network; None where it computes with something that is not in the file, such as a table of positions, or
        cannot take such images: `build_model` then builds it, or raises the reason.
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
