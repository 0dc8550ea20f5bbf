from pathlib import Path

import pytest

from tests.base.real_params import REAL, load
from tumorboard.base.errors import InputError
from tumorboard.base.params import Balance, Params, Recipe
from tumorboard.base.recipe import STRATEGIES, resolve_recipe


def test_a_recipe_is_train_with_the_models_own_entries(tmp_path: Path) -> None:
    params = load(tmp_path, REAL)
    recipe = resolve_recipe(params, "linear")
    assert (recipe.architecture, recipe.lr, recipe.seed) == ("linear", 0.0001, params.seed)
    inherited = set(Recipe.model_fields) - {"architecture", "lr", "select", "seed"}
    assert {key: getattr(recipe, key) for key in inherited} == {key: getattr(params.train, key) for key in inherited}


def test_a_null_in_a_recipe_is_as_in_train(tmp_path: Path) -> None:
    spelled = REAL.replace("  cnn: {architecture: cnn}", "  cnn: {architecture: cnn, lr: null, augment: {zoom: null}}")
    assert spelled != REAL
    assert resolve_recipe(load(tmp_path, spelled), "cnn") == resolve_recipe(load(tmp_path, REAL), "cnn")


def test_a_recipe_overrides_single_keys_of_augment(tmp_path: Path) -> None:
    text = REAL.replace("  cnn: {architecture: cnn}", "  cnn: {architecture: cnn, augment: {rotate: 5, zoom: [1, 2]}}")
    params = load(tmp_path, text)
    expected = params.train.augment.model_copy(update={"rotate": 5.0, "zoom": (1.0, 2.0)})
    assert resolve_recipe(params, "cnn").augment == expected


@pytest.mark.parametrize(
    ("strategy", "entries", "expected"),
    [
        ("none", {}, {}),
        ("augment", {}, {}),
        ("weights", {}, {"class_weights": "balanced"}),
        ("sampler", {}, {"sampler": "balanced"}),
        ("focal", {}, {"loss": "focal", "class_weights": "balanced"}),
        ("focal", {"focal_alpha": (1.0, 2.0)}, {"loss": "focal", "focal_alpha": (1.0, 2.0)}),
        # What a recipe says already is no conflict, nor are weights of its own where the strategy sets none.
        ("weights", {"class_weights": "balanced"}, {"class_weights": "balanced"}),
        ("weights", {"loss": "focal"}, {"class_weights": "balanced", "loss": "focal"}),
        ("sampler", {"class_weights": (1.0, 3.0)}, {"sampler": "balanced", "class_weights": (1.0, 3.0)}),
    ],
)
@pytest.mark.parametrize("of_the_model", [True, False])
def test_a_balancing_strategy_sets_its_entries_of_every_recipe(
    params: Params, strategy: str, entries: dict[str, object], expected: dict[str, object], of_the_model: bool
) -> None:
    plain = resolve_recipe(balanced(params, "none", {}, of_the_model), "cnn")
    recipe = resolve_recipe(balanced(params, strategy, entries, of_the_model), "cnn")
    assert recipe == plain.model_copy(update=expected)


@pytest.mark.parametrize(
    ("strategy", "entries", "of_the_model", "message"),
    [
        (
            "weights",
            {"class_weights": (1.0, 2.0)},
            True,
            r"recipes\.cnn\.class_weights is \(1\.0, 2\.0\): .* to null",
        ),
        (
            "weights",
            {"class_weights": (1.0, 2.0)},
            False,
            r"weights sets .* train\.class_weights is .* set it to none",
        ),
        ("weights", {"class_weights": "none"}, True, r"recipes\.cnn\.class_weights is 'none'"),
        (
            "sampler",
            {"sampler": "shuffle"},
            True,
            r"strategy sampler sets sampler .* recipes\.cnn\.sampler is 'shuffle'",
        ),
        ("focal", {"loss": "cross_entropy"}, True, r"strategy focal sets loss to focal, but recipes\.cnn\.loss is"),
        ("focal", {"class_weights": (1.0, 2.0)}, False, r"sets class_weights to balanced, but train\.class_weights is"),
        ("sampler", {"class_weights": "balanced"}, False, "evens the classes out twice"),
    ],
)
def test_a_recipe_that_contradicts_the_strategy(
    params: Params, strategy: str, entries: dict[str, object], of_the_model: bool, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        resolve_recipe(balanced(params, strategy, entries, of_the_model), "cnn")


def balanced(params: Params, strategy: str, entries: dict[str, object], of_the_model: bool) -> Params:
    """Params with a strategy, and with entries of `recipes.cnn` or of `train`."""
    if of_the_model:
        recipes = params.recipes | {"cnn": params.recipes["cnn"].model_copy(update=entries)}
        changed = params.model_copy(update={"recipes": recipes})
    else:
        changed = params.model_copy(update={"train": params.train.model_copy(update=entries)})
    return changed.model_copy(update={"balance": params.balance.model_copy(update={"strategy": strategy})})


def test_every_strategy_that_params_admit_is_known() -> None:
    assert set(STRATEGIES) == set(Balance.model_fields["strategy"].annotation.__args__)  # type: ignore[union-attr]
