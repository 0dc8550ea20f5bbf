"""Chooses the mean and standard deviation by which a network normalizes its input."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np

from tumorboard.base.errors import InputError
from tumorboard.base.params import Recipe
from tumorboard.data.store import CropStore
from tumorboard.models.names import is_torchvision_name
from tumorboard.models.tensors import read_safetensors
from tumorboard.models.timm_names import TIMM_PREFIX, timm_config
from tumorboard.models.zoo import torchvision_models

MeanStd: TypeAlias = tuple[tuple[float, ...], tuple[float, ...]]  # mean, standard deviation; per channel, values 0 to 1

_IMAGENET: MeanStd = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF: MeanStd = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_IMAGES_PER_READ = 256


def normalization(recipe: Recipe) -> MeanStd:
    """Returns the mean and standard deviation of `normalize: auto` or `normalize: imagenet`.

    `auto` takes the values that the pre-trained weights were trained with, or ImageNet's where these are unknown.

    Raises:
        InputError: the model card of the weights file that `pretrained` names is damaged.
    """
    if recipe.normalize == "imagenet" or recipe.pretrained == "none":
        return _IMAGENET
    if recipe.pretrained.endswith(".safetensors") and (card := read_safetensors(Path(recipe.pretrained))[1]):
        return _card_normalization(card, recipe.pretrained)
    if recipe.architecture.startswith(TIMM_PREFIX):
        config = timm_config(recipe.architecture)
        return config.mean, config.std
    if recipe.architecture in ("googlenet", "inception_v3"):
        return _HALF  # torchvision's transform_input turns ImageNet's normalization into this one
    if is_torchvision_name(recipe.architecture):
        transforms = torchvision_models().get_model_weights(recipe.architecture).DEFAULT.transforms()
        return tuple(transforms.mean), tuple(transforms.std)
    return _IMAGENET


def _card_normalization(card_text: str, path: str) -> MeanStd:
    """Returns the mean and standard deviation of a ModelCard's JSON."""
    try:
        card = json.loads(card_text)
        mean, std = (tuple(map(float, card[key])) for key in ("mean", "std"))
    except (ValueError, TypeError, LookupError) as error:
        raise InputError(f"pretrained: {path}: its model card is damaged: {error!r}") from None
    return mean, std


def dataset_statistics(store: CropStore, ids: Sequence[str]) -> MeanStd:
    """Returns the mean and standard deviation per channel over all pixels of stored images.

    The sums are integers, so that the order of the images has no effect. A channel with a single value gets a
    standard deviation of 1, so that nothing is divided by 0.
    """
    sums, squares = np.zeros(3, dtype=np.int64), np.zeros(3, dtype=np.int64)
    for start in range(0, len(ids), _IMAGES_PER_READ):
        pixels = store[ids[start : start + _IMAGES_PER_READ]].reshape(-1, 3)
        counts = [np.bincount(pixels[:, channel], minlength=256) for channel in range(3)]
        sums += [int(count @ np.arange(256)) for count in counts]
        squares += [int(count @ np.arange(256) ** 2) for count in counts]
    pixels_read = len(ids) * store.size**2
    mean = sums / pixels_read
    std = np.sqrt(np.maximum(squares / pixels_read - mean**2, 0))
    std = np.where(sums**2 == squares * pixels_read, 255.0, std)
    return tuple((mean / 255).tolist()), tuple((std / 255).tolist())
