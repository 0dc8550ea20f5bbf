"""Resolves the recipe of a model from params.yaml: `train`, the model's own entries, and the strategy of balancing."""

from collections.abc import Mapping
from typing import Any

from tumorboard.base.errors import InputError
from tumorboard.base.params import Params, Recipe
from tumorboard.base.schema import nearest, parse

# The entries that each balance.strategy sets in every recipe, in place of the neutral ones. 'augment' and 'generate'
# add training images.
STRATEGIES: dict[str, dict[str, str]] = {
    "none": {},
    "augment": {},
    "generate": {},
    "weights": {"class_weights": "balanced"},
    "sampler": {"sampler": "balanced"},
    "focal": {"loss": "focal", "class_weights": "balanced"},
}
_NEUTRAL = {"class_weights": "none", "sampler": "shuffle", "loss": "cross_entropy"}


def resolve_recipe(params: Params, model: str) -> Recipe:
    """Resolves the recipe of a model: `train`, then the model's own entries, then what `balance.strategy` sets.

    Args:
        params: the study's parameters.
        model: a key of `params.recipes`. An entry, or a key of its `augment`, that is null or left out has the
            value of `train`. A given `focal_alpha` takes the place of the class weights of the strategy 'focal'.

    Raises:
        InputError: there is no such entry, or the strategy contradicts another value.

    >>> from tumorboard.base.params import find_params, load_params
    >>> params = load_params(find_params())
    >>> recipe = resolve_recipe(params, "linear")
    >>> recipe.architecture, recipe.lr, recipe.epochs == params.train.epochs
    ('linear', 0.0001, True)
    >>> resolve_recipe(params, "lineal")
    Traceback (most recent call last):
    tumorboard.base.errors.InputError: model 'lineal' has no entry under recipes; did you mean linear?
    """
    if model not in params.recipes:
        raise InputError(f"model '{model}' has no entry under recipes{nearest(model, params.recipes)}")
    own: dict[str, Any] = params.recipes[model].model_dump(exclude_none=True)  # type: ignore[attr-defined]
    recipe = {"seed": params.seed} | dict(params.train) | own
    recipe["augment"] = params.train.augment.model_dump() | own.get("augment", {})
    return parse(Recipe, recipe | _strategy_entries(params, model, own=own, recipe=recipe), f"recipes.{model}")


def _strategy_entries(
    params: Params, model: str, *, own: Mapping[str, Any], recipe: Mapping[str, Any]
) -> dict[str, str]:
    strategy = params.balance.strategy
    entries = dict(STRATEGIES[strategy])
    if strategy == "focal" and recipe["focal_alpha"] is not None:
        del entries["class_weights"]
    for key, value in entries.items():
        where = f"recipes.{model}.{key}" if key in own else f"train.{key}"
        if recipe[key] != value and (key in own or recipe[key] != _NEUTRAL[key]):
            raise InputError(
                f"balance.strategy {strategy} sets {key} to {value}, but {where} is {recipe[key]!r}: "
                f"choose another strategy, or set it to {'null' if key in own else _NEUTRAL[key]}"
            )
    return entries
