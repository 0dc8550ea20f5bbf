import copy
import difflib
import re
from pathlib import Path

import pytest
import yaml

from tests.base.real_params import REAL, load
from tumorboard.base.errors import InputError
from tumorboard.base.params import (
    DVC_IGNORED_KEYS,
    AtCost,
    AtSensitivity,
    AtSpecificity,
    Cost,
    Params,
    Recipe,
    Threshold,
    load_params,
)
from tumorboard.base.presets import fill_empty
from tumorboard.base.recipe import resolve_recipe
from tumorboard.base.schema import parse


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("  epochs: 8", "  epoch: 8", "train.epoch: unknown key; did you mean epochs?"),
        ("  epochs: 8", "  epoch: 8", "train.epochs: missing"),
        ("\ncrop:", "\ncorp:", "corp: unknown key; did you mean crop?"),
        (
            "architecture: cnn}",
            "architecture: cnn, optimiser: sgd}",
            "recipes.cnn.optimiser: unknown key; did you mean opt",
        ),
        ("  lr: 0.001", "  lr: fast", "train.lr: is 'fast': input should be a valid number"),
        ("lr: 0.0001", "lr: '0.0001'", "recipes.linear.lr: is '0.0001': input should be a valid number"),
        ("  lr: 0.001", "  lr: -1", "train.lr: is -1: input should be greater than 0"),
        ("seed: 0", "seed: true", "seed: is True: input should be a valid integer"),
        ("  batch_size: 32 ", "  batch_size: 32.5 ", "train.batch_size: is 32.5: input should be a valid integer"),
        (
            "    zoom:                         # by preset",
            "    zoom: [1.2, 1.1]",
            "balance.augment.zoom: the lower end 1.2 exceeds the upper end 1.1",
        ),
        ("loss: cross_entropy", "loss: ce", "train.loss: is 'ce': input should be 'cross_entropy' or 'focal'"),
        ("vote: auto", "vote: median", "input should be 'auto', 'single', 'hard', 'soft', 'product', 'weighted' or"),
        ("[linear, cnn", "[linear, cnm", "models lists 'cnm', which has no entry under recipes; did you mean cnn?"),
        ("[linear, cnn", "[cnn, cnn", "models lists an entry twice"),
        ("folds: [0]", "folds: [5]", "folds lists 5, but split.folds makes 0 to 4"),
        ("  window:     ", "  window: [5, 5]", "crop.window: the lower end 5.0 must be below the upper end 5.0"),
        (
            "  cnn3: {architecture: cnn3}",
            "  cn: {lr: 0.5}",
            "yaml: recipes.cn: there is no such recipe, and an own one needs an architecture; did you mean cnn?",
        ),
        (
            "  cnn3: {architecture: cnn3}",
            "  xyzw: {lr: 0.5}",
            "yaml: recipes.xyzw: there is no such recipe, and an own one needs an architecture, such as resnet18",
        ),
        (
            "  cnn: {architecture: cnn}",
            "  cnn: {architecture: }",
            "yaml: recipes.cnn.architecture is empty: name one, such as resnet18",
        ),
        (
            "  cnn: {architecture: cnn}",
            "  cnn: {lr: 0.5}",
            "yaml: recipes.cnn: there is no such recipe, and an own one needs an architecture; did you mean cnn3?",
        ),
        ("  - 0\n  - 0\n  - 0", "  - 0\n  - 0\n  - 256", "crop.background.2: is 256"),
        ("  frames:     ", "  frames: last", "data.frames: is 'last': input should be 'first' or 'middle'"),
        ("raw: data/phantom ", "raw: medmnist:bloodmnist ", "the list medmnist must have bloodmnist, to be downloaded"),
        ("  lr: 0.001", "  lr: 1\n  lr: 2", "the key 'lr' is given twice"),
        ("seed: 0", "seed: [", "not readable as YAML"),
        ("  cnn3: {", "  size: {", "recipes has a model named 'size': DVC ignores changes below a key of that name"),
    ],
)
def test_a_wrong_key_or_value_is_named(tmp_path: Path, right: str, wrong: str, message: str) -> None:
    assert right in REAL
    with pytest.raises(InputError) as raised:
        load(tmp_path, REAL.replace(right, wrong, 1))
    assert message in str(raised.value)
    assert "params.yaml" in str(raised.value)


FORMS = (
    "expected youden, {sensitivity: 0.95}, {specificity: 0.95}, {cost: {false_negative: 10, false_positive: 1}} "
    "or an empty value"
)


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        ("recipes: {cn: {lr: 0.5}}", "recipes.cn: there is no such recipe, and an own one needs an architecture; did "),
        ("train:", "train: is empty: give it keys, or delete the line"),
        ("evaluate: {confidence: 1}", "evaluate.confidence: is 1, expected a number above 0 and below 1"),
        ("evaluate: {primary: [vote]}", "evaluate.primary: is ['vote'], expected two names, such as [vote, cnn]"),
        (
            "evaluate: {primary: [vote, soft]}",
            "evaluate.primary compares the vote that heads the report with 'soft', which it may be itself "
            "(ensemble.vote: auto): name a member or another vote",
        ),
        (
            "ensemble: {vote: hard}\nevaluate: {primary: [hard, vote]}",
            "evaluate.primary compares the vote that heads the report with 'hard', which it is (ensemble.vote: hard): ",
        ),
        ("evaluate: {threshold: best}", f"evaluate.threshold: is 'best', {FORMS}"),
        ("evaluate: {threshold: 0.5}", f"evaluate.threshold: is 0.5, {FORMS}"),
        ("evaluate: {threshold: [youden]}", f"evaluate.threshold: is ['youden'], {FORMS}"),
        ("evaluate: {threshold: {}}", f"evaluate.threshold: is {{}}, {FORMS}"),
        ("evaluate: {threshold: {sensitivty: 0.9}}", f"evaluate.threshold: is {{'sensitivty': 0.9}}, {FORMS}"),
        (
            "evaluate: {threshold: {sensitivity: 0.9, specificity: 0.8}}",
            f"evaluate.threshold: is {{'sensitivity': 0.9, 'specificity': 0.8}}, {FORMS}",
        ),
        (
            "evaluate: {threshold: {sensitivity: 95}}",
            "evaluate.threshold.sensitivity: is 95, expected a number above 0 and below 1",
        ),
        (
            "evaluate: {threshold: {specificity: x}}",
            "evaluate.threshold.specificity: is 'x', expected a number above 0 and below 1",
        ),
        ("evaluate: {threshold: {cost: {false_negative: 1}}}", "evaluate.threshold.cost.false_positive: missing"),
        (
            "evaluate: {threshold: {cost: {false_negative: 1, false_positive: 1, false_positiv: 1}}}",
            "evaluate.threshold.cost.false_positiv: unknown key; did you mean false_positive?",
        ),
        ("crop: {window: {low: 1}}", "crop.window: is {'low': 1}: input should be a valid list or input should be "),
        ("train: {class_weights: [1, -1]}", "train.class_weights.1: is -1: input should be greater than 0"),
    ],
)
def test_a_short_file_has_one_message_for_one_fault(tmp_path: Path, lines: str, fault: str) -> None:
    with pytest.raises(InputError) as raised:
        load(tmp_path, f"tumorboard: 0.0.1\n{lines}\n")
    assert str(raised.value).removeprefix(f"{tmp_path}/params.yaml: ").startswith(fault)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        ("train.lr: 1", "train.lr: unknown key: write lr below `train:`"),
        ("train: {augment.zoom: 1}", "train.augment.zoom: unknown key: write zoom below `augment:`"),
        ("\u00a0seed: 1", "\u00a0seed: unknown key, with invisible characters: '\\xa0seed'"),
        ("1: 2", "1: the key 1 is not text: write it in quotes"),
        ("true: 2", "1: the key True is not text: write it in quotes"),
        ("null: 2", "the key None is not text: write it in quotes"),
        ("recipes: {1: {architecture: cnn}}", "recipes.1: the key 1 is not text: write it in quotes"),
        ("data: {raw: ''}", "data.raw: is '': string should have at least 1 character"),
    ],
)
def test_a_key_that_is_written_in_another_way_is_told_apart_from_an_unknown_one(
    tmp_path: Path, lines: str, fault: str
) -> None:
    with pytest.raises(InputError) as raised:
        load(tmp_path, f"tumorboard: 0.0.1\n{lines}\n")
    assert str(raised.value) == f"{tmp_path}/params.yaml: {fault}"


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        (".", "string should match pattern"),
        ("..", "string should match pattern"),
        ("a" * 201, "string should have at most 200 characters"),
        ("vote", "which is the name of a vote: rename it"),
        ("heading", "which is the name of a vote: rename it"),
        ("soft", "which is the name of a vote: rename it"),
        (".hidden", ""),
        ("softer", ""),
    ],
)
def test_a_model_has_a_name_that_is_a_folder_s_and_no_vote_s(tmp_path: Path, name: str, fault: str) -> None:
    text = f"tumorboard: 0.0.1\nmodels: ['{name}']\nrecipes: {{'{name}': {{architecture: cnn}}}}\n"
    if not fault:
        assert load(tmp_path, text).models == (name,)
        return
    with pytest.raises(InputError, match=re.escape(fault)):
        load(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "threshold"),
    [
        ("youden", "youden"),
        ("", None),
        ("{sensitivity: 0.95}", AtSensitivity(sensitivity=0.95)),
        ("{specificity: 0.9}", AtSpecificity(specificity=0.9)),
        ("{cost: {false_negative: 10, false_positive: 1}}", AtCost(cost=Cost(false_negative=10.0, false_positive=1.0))),
    ],
)
def test_each_form_of_a_threshold_is_read_and_read_again(tmp_path: Path, text: str, threshold: Threshold) -> None:
    evaluate = load(tmp_path, f"tumorboard: 0.0.1\nevaluate:\n  threshold: {text}\n").evaluate
    assert evaluate.threshold == threshold
    assert type(evaluate)(**dict(evaluate)) == evaluate  # by instances
    assert parse(type(evaluate), evaluate.model_dump(), "here") == evaluate


def test_a_short_file_may_add_a_recipe_and_change_one_of_the_package(tmp_path: Path) -> None:
    params = load(tmp_path, "tumorboard: 0.0.1\nrecipes: {cnn: {lr: 0.5}, mine: {architecture: cnn, lr: 0.25}}\n")
    assert resolve_recipe(params, "cnn").lr == 0.5
    assert (resolve_recipe(params, "mine").architecture, resolve_recipe(params, "mine").lr) == ("cnn", 0.25)


@pytest.mark.parametrize("value", ["zz", 0.123, [], ["zz", {}], {}, {"zz": {"zz": None}}, [[None]]])
def test_no_message_has_a_name_of_python(value: object) -> None:
    """A wrong value at any key is reported by words of params.yaml: pydantic names the members of a union by types."""
    plain = yaml.safe_load(REAL)
    paths = [(name,) for name in plain]
    paths += [(name, key) for name, section in plain.items() if isinstance(section, dict) for key in section]
    for *above, last in paths:
        tree = copy.deepcopy(plain)
        node = tree[above[0]] if above else tree
        node[last] = value
        try:
            parse(Params, fill_empty(tree), "here")
        except InputError as error:
            for line in str(error).splitlines():
                assert not re.search(r"literal\[|tuple|function-|constrained|instance of|dictionary|after val", line), (
                    line
                )


def test_all_wrong_values_are_in_one_message(tmp_path: Path) -> None:
    with pytest.raises(InputError) as raised:
        load(tmp_path, REAL.replace("\n  lr: 0.001", "\n  lr: no", 1).replace("vote: auto", "vote: no"))
    assert len(str(raised.value).splitlines()) == 2


def test_scalars_are_read_as_dvc_reads_them(tmp_path: Path) -> None:
    params = load(tmp_path, REAL.replace("  lr: 0.001", "  lr: 2e-3").replace("precision: bf16", "precision: off"))
    assert params.train.lr == 0.002
    assert params.train.precision == "off"


def test_a_wrong_key_of_a_recipes_augment_is_named(tmp_path: Path) -> None:
    text = REAL.replace("  cnn: {architecture: cnn}", "  cnn: {architecture: cnn, augment: {rotates: 5}}")
    with pytest.raises(InputError, match=r"recipes\.cnn\.augment\.rotates: unknown key; did you mean rotate\?"):
        load(tmp_path, text)


def test_experiments_leave_the_rest_of_the_file_as_it_is(tmp_path: Path) -> None:
    """`dvc exp run -S` rewrites params.yaml; besides the values set, only the lists of models and folds change form."""
    from dvc.utils.hydra import apply_overrides

    file = tmp_path / "params.yaml"
    file.write_text(REAL, encoding="utf-8")
    settings = {
        "train.lr": "0.01",
        "train.augment.rotate": "10",
        "balance.strategy": "weights",
        "crop.side": "48",
        "data.raw": "datasets/mine",
        "ensemble.vote": "soft",
        "split.fold_seed": "3",
        "runtime.workers": "2",
        "++recipes.resnet18.lr": "0.3",
        "++recipes.cnn.optimizer": "sgd",
    }
    for key, value in settings.items():
        apply_overrides(file, [f"{key}={value}"])
    before, after = REAL.splitlines(), file.read_text(encoding="utf-8").splitlines()
    changed = [line for line in difflib.ndiff(before, after) if line.startswith(("- ", "+ "))]
    assert len(changed) <= 10 + 2 * len(settings)
    changed_recipe = resolve_recipe(load_params(file), "resnet18")
    assert (changed_recipe.lr, changed_recipe.augment.rotate) == (0.3, 10.0)
    assert load_params(file).folds == (0,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head_dropout": (0.1,), "head_widths": (8, 4)}, "head_dropout has 1 entries for 2 head_widths"),
        ({"freeze_epochs": 3, "epochs": 3}, "freeze_epochs 3 leaves the backbone none of 3 epochs"),
        ({"warmup_epochs": 9.0}, "warmup_epochs 9 is longer than all of 8 epochs"),
        ({"lr": float("inf")}, "lr: is inf: input should be a finite number"),
        ({"seed": 2**63}, "seed: is 9223372036854775808: input should be less than 9223372036854775808"),
        ({"accumulate": 64}, "accumulate 64 exceeds batch_size 32"),
        ({"sampler": "balanced", "class_weights": "balanced"}, "evens the classes out twice"),
    ],
)
def test_a_recipe_that_contradicts_itself(tmp_path: Path, change: dict[str, object], message: str) -> None:
    recipe = dict(resolve_recipe(load(tmp_path, REAL), "cnn"))
    with pytest.raises(InputError, match=message):
        parse(Recipe, recipe | change, "recipe")


def test_no_parameter_has_a_name_that_dvc_ignores() -> None:
    """As DVC's own run cache says: two values under one of these keys have the same hash."""
    from dvc.stage.cache import _get_cache_hash

    for key in DVC_IGNORED_KEYS:
        assert len({_get_cache_hash({"params": {"crop": {key: value}}}, key=True) for value in (32, 64)}) == 1
    assert len({_get_cache_hash({"params": {"crop": {"side": value}}}, key=True) for value in (32, 64)}) == 2

    def keys(tree: object) -> set[str]:
        if not isinstance(tree, dict):
            return set()
        return set(tree) | {key for value in tree.values() for key in keys(value)}

    assert not keys(yaml.safe_load(REAL)) & DVC_IGNORED_KEYS


def test_every_section_of_the_file_is_described_by_a_comment() -> None:
    sections = yaml.safe_load(REAL)
    for name in sections:
        line = next(line for line in REAL.splitlines() if line.startswith(f"{name}:"))
        head, follow = REAL.split("\n" + line, 1)
        lines = (head.splitlines()[-1], line, follow.splitlines()[1])
        assert any("#" in text for text in lines), f"{name} has no comment"
