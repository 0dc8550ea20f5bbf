"""The space of `tumorboard search`: which values a trial may try, and the recipe that they make."""

import itertools
import json
import re
from collections.abc import Mapping
from typing import Any, TypeAlias

from tumorboard.base.errors import InputError
from tumorboard.base.params import Augment, Overrides, Params, Recipe, Train
from tumorboard.base.recipe import resolve_recipe
from tumorboard.base.schema import nearest, parse
from tumorboard.base.search_params import Dimension, Value

Point: TypeAlias = dict[str, Value]  # a value per searched key, such as {'train.lr': 0.01}
CORNERS = 1024  # combinations of ends that are checked before a search
KEYS = frozenset(f"train.{key}" for key in Train.model_fields if key != "augment") | frozenset(
    f"train.augment.{key}" for key in Augment.model_fields
)
_PLAIN = re.compile(r"(?!(?:true|false|null|nan|inf)$)[A-Za-z_][\w./:-]*", re.IGNORECASE)  # needs no quotes behind -S


def check_space(params: Params, model: str) -> None:
    """Checks that a model's recipe takes every value of the space, before anything runs.

    Args:
        params: the study's parameters; the space is `search.space`.
        model: an entry under `recipes`.

    Raises:
        InputError: the space is empty, has a key that a recipe lacks, or a value or a combination of its ends that the
            recipe refuses.
    """
    dimensions = params.search.dimensions
    if not dimensions:
        raise InputError(
            "params.yaml: search.space is empty: name a key, as in train.lr: {low: 0.001, high: 0.1, log: true}"
        )
    for key, dimension in dimensions.items():
        where = f"params.yaml: search.space.{key}"
        if key not in KEYS:
            raise InputError(f"{where}: is no key of train, which a model's recipe overrides{nearest_key(key)}")
        for value in dimension.ends:
            parse(Overrides, _nested({key: value}), where)
    corners = itertools.product(*(dimension.ends for dimension in dimensions.values()))
    for values in itertools.islice(corners, CORNERS):
        point = dict(zip(dimensions, values, strict=True))
        try:
            recipe_at(params, model, point)
        except InputError as error:
            raise InputError(f"params.yaml: search.space: with {describe_point(point)}: {error}") from None


def nearest_key(key: str) -> str:
    """Returns the end of a message about an unknown key: a key with the same last word, else the proposal of `nearest`.

    >>> nearest_key("lr"), nearest_key("recipes.cnn.rotate"), nearest_key("train.lrr")
    ('; did you mean train.lr?', '; did you mean train.augment.rotate?', '; did you mean train.lr?')
    """
    word = key.rpartition(".")[2]
    return nearest(next((known for known in sorted(KEYS) if known.endswith(f".{word}")), key), KEYS)


def recipe_at(params: Params, model: str, point: Mapping[str, Value]) -> Recipe:
    """Returns a model's recipe at a point of the space.

    Raises:
        InputError: the recipe refuses the values.

    >>> from tumorboard.base.params import find_params, load_params
    >>> recipe_at(load_params(find_params()), "cnn", {"train.lr": 0.5, "train.augment.rotate": 3.0}).lr
    0.5
    """
    own: dict[str, Any] = params.recipes[model].model_dump(exclude_none=True)  # type: ignore[attr-defined]
    tree = _nested(point)
    merged = own | tree | ({"augment": own.get("augment", {}) | tree["augment"]} if "augment" in tree else {})
    recipes = params.recipes | {model: parse(Overrides, merged, f"recipes.{model}")}
    return resolve_recipe(params.model_copy(update={"recipes": recipes}), model)


def present_point(params: Params, model: str) -> Point | None:
    """Returns the point of the model's present recipe; None where it is not in the space."""
    recipe = resolve_recipe(params, model).model_dump()
    point: Point = {}
    for key, dimension in params.search.dimensions.items():
        value: Any = recipe
        for step in key.split(".")[1:]:
            value = value[step]
        if dimension.choices is not None:
            if value not in dimension.choices:
                return None
        elif isinstance(value, str | bool) or value is None or not dimension.ends[0] <= value <= dimension.ends[1]:
            return None
        point[key] = value
    return point


def overrides_of(model: str, point: Mapping[str, Value]) -> list[str]:
    """Returns the arguments of `dvc exp run -S` that set a point in the model's recipe; other models keep theirs.

    >>> overrides_of("cnn", {"train.lr": 0.0012, "train.head_widths": (64, 32), "train.keep": "last"})
    ['++recipes.cnn.lr=0.0012', '++recipes.cnn.head_widths=[64,32]', '++recipes.cnn.keep=last']
    """
    return [f"++recipes.{model}.{key.removeprefix('train.')}={_text(value)}" for key, value in point.items()]


def _text(value: Value) -> str:
    if isinstance(value, tuple):
        return f"[{','.join(map(_text, value))}]"
    return value if isinstance(value, str) and _PLAIN.fullmatch(value) else json.dumps(value)


def describe_point(point: Mapping[str, Value]) -> str:
    """Returns a point for a reader, with rounded numbers.

    >>> describe_point({"train.lr": 0.00123456, "train.batch_size": 32})
    'lr 0.00123, batch_size 32'
    """
    return ", ".join(f"{key.removeprefix('train.')} {describe_value(value)}" for key, value in point.items())


def describe_value(value: Value) -> str:
    """Returns one value for a reader: three digits of a number with a fraction.

    >>> describe_value(0.000123456), describe_value((64, 32)), describe_value("adam")
    ('0.000123', '[64,32]', 'adam')
    """
    return f"{value:.3g}" if isinstance(value, float) else _text(value)


def is_whole(key: str, dimension: Dimension) -> bool:
    """Returns whether a range holds whole numbers alone: both ends are whole, and the recipe takes no fraction.

    >>> is_whole("train.epochs", Dimension(low=2, high=8)), is_whole("train.warmup_epochs", Dimension(low=0, high=2))
    (True, False)
    """
    if not isinstance(dimension.low, int) or not isinstance(dimension.high, int):
        return False
    try:
        parse(Overrides, _nested({key: dimension.low + 0.5}), key)
    except InputError:
        return True
    return False


def _nested(point: Mapping[str, Value]) -> dict[str, Any]:
    """Returns a point as the entries of a recipe."""
    tree: dict[str, Any] = {}
    for key, value in point.items():
        *sections, name = key.split(".")[1:]
        place = tree
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = value
    return tree
