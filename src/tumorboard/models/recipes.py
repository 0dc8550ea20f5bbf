"""Resolves and checks the recipes of all models before any training, without importing torch where possible."""

from typing import TYPE_CHECKING, Any

from tumorboard.base.errors import InputError
from tumorboard.base.params import Params, Recipe
from tumorboard.base.recipe import resolve_recipe
from tumorboard.models.names import check_architecture
from tumorboard.models.published import pin_pretrained
from tumorboard.models.study_code import is_study_code, study_digest
from tumorboard.models.timm_names import TIMM_PREFIX, timm_config

if TYPE_CHECKING:
    import torch

_ONE_SIDE = ("vit_", "maxvit_")  # beginnings of the names of torchvision's networks that are built for one side


def pin_recipes(params: Params) -> dict[str, dict[str, Any]]:
    """Resolves and checks the recipes of all models that run, so that none fails after others were trained.

    Args:
        params: `models` names the models that run.

    Returns:
        Each model's whole recipe as JSON values, by model name. Where `pretrained` names a file, `pretrained_sha256` is
        its digest; where it is `imagenet`, `pretrained_tag` is the name of the weights. Where `architecture` is code of
        the study, `architecture_sha256` is its digest.

    Raises:
        InputError: names the recipe whose entries, architecture or pre-trained weights cannot be used.
    """
    recipes = {model: resolve_recipe(params, model) for model in params.models}
    return {model: _pin_recipe(recipe, params.crop.side, f"recipes.{model}") for model, recipe in recipes.items()}


def _pin_recipe(recipe: Recipe, size: int, where: str) -> dict[str, Any]:
    try:
        check_architecture(recipe.architecture)
        check_progressive(recipe, size)
        pinned = pin_pretrained(recipe)
        check_network(recipe, size)
        if is_study_code(recipe.architecture):
            pinned["architecture_sha256"] = study_digest(recipe.architecture)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    return recipe.model_dump(mode="json") | pinned


def check_network(recipe: Recipe, size: int) -> None:
    """Builds a network where that may fail: the study's own, one that starts from a file, one for images of one side.

    Args:
        recipe: its `architecture`, `pretrained` and `head` entries are used.
        size: side of the images in pixels.

    Raises:
        InputError: the study's own code fails or makes no features, the file does not fit, or the network takes no
            images of this side.
    """
    if is_study_code(recipe.architecture) or recipe.pretrained not in ("none", "imagenet", "packaged"):
        from tumorboard.models.registry import build_model  # here, because it imports torch

        build_model(recipe, 2, size, ((0.0,) * 3, (1.0,) * 3))
    elif recipe.architecture.startswith(_ONE_SIDE):
        _weights_of(recipe, size)


def check_progressive(recipe: Recipe, size: int) -> None:
    """Checks that a network takes images of other sides than it was built for, where `progressive` needs that.

    Args:
        recipe: its `progressive` and `architecture` are used.
        size: the full side of the images in pixels.

    Raises:
        InputError: its weights depend on the side, or it takes no other side.
    """
    name = recipe.architecture
    if recipe.progressive == 1:
        return
    fixed = timm_config(name).fixed_side if name.startswith(TIMM_PREFIX) else name.startswith(_ONE_SIDE)
    if fixed or _weights_of(recipe, size) != _weights_of(recipe, 2 * size):
        raise InputError(
            f"progressive is {recipe.progressive:g}, but architecture {name} takes images of one side only, "
            f"crop.side {size}: set progressive to 1 for it, or choose a network that pools over the whole image"
        )


def _weights_of(recipe: Recipe, size: int) -> "dict[str, torch.Size]":
    """Returns the shapes of the weights of a backbone for images of a side, by name."""
    from tumorboard.models.registry import outline_model  # here, because it imports torch

    backbone = outline_model(recipe, 2, size, 1).backbone
    return {key: tensor.shape for key, tensor in backbone.state_dict().items()}  # type: ignore[operator]
