"""Architectures of the study's own code: what is run, what their digest covers, and each way to get them wrong."""

import sys
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from tumorboard.base.errors import InputError
from tumorboard.base.params import Params, Recipe
from tumorboard.models.model_file import ModelCard, load_model, save_model
from tumorboard.models.recipes import pin_recipes
from tumorboard.models.registry import Classifier, build_model, outline_model
from tumorboard.models.study_code import build_study_network, study_digest, study_sources

MEAN_STD = ((0.5,) * 3, (0.5,) * 3)
NAME = "architectures.mine:network"
NETWORK = """
from torch import nn

def network(side):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * side * side, 5))
"""


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder `architectures` of a study that is the current folder, with mine.py."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "architectures"
    folder.mkdir()
    (folder / "mine.py").write_text(NETWORK)
    return folder


def build(recipe: Recipe, **changes: object) -> Classifier:
    return build_model(recipe.model_copy(update={"architecture": NAME} | changes), 2, 16, MEAN_STD)


@pytest.mark.usefixtures("study")
def test_a_network_ends_in_features_that_the_head_follows(recipe: Recipe) -> None:
    model = build(recipe)
    assert model.head.in_features == 5
    assert model(torch.zeros(3, 3, 16, 16)).shape == (3, 2)
    assert all(module.training for module in model.modules())
    assert model.versions == {NAME: study_digest(NAME)}
    assert torch.equal(model.backbone[1].weight, build(recipe).backbone[1].weight)  # a function of the recipe's seed
    assert not torch.equal(model.backbone[1].weight, build(recipe, seed=recipe.seed + 1).backbone[1].weight)


def test_the_code_is_that_of_the_file_even_if_it_changes_within_a_second(study: Path) -> None:
    """Python itself would take a .pyc of the same second and size, or the module that it has already."""
    for width in "56789":
        (study / "mine.py").write_text(NETWORK.replace("5)", f"{width})"))
        assert build_study_network(NAME, 4)[1].out_features == int(width)
    assert not (study / "__pycache__").exists()


@pytest.mark.usefixtures("study")
def test_the_code_is_that_of_the_current_folder(tmp_path: Path, monkeypatch) -> None:
    other = tmp_path / "other/architectures"
    other.mkdir(parents=True)
    (other / "mine.py").write_text(NETWORK.replace("5)", "9)"))
    assert build_study_network(NAME, 4)[1].out_features == 5
    monkeypatch.chdir(other.parent)
    assert build_study_network(NAME, 4)[1].out_features == 9
    assert str(tmp_path) not in sys.path


def test_the_digest_covers_what_the_module_imports_and_no_other_file(study: Path) -> None:
    (study / "mine.py").write_text("from architectures.parts.blocks import block\n" + NETWORK)
    (study / "parts").mkdir()
    (study / "parts/blocks.py").write_text("from torch import nn\nblock = nn.ReLU\n")
    (study / "other.py").write_text("a = 1")
    files = ["architectures/mine.py", "architectures/parts/blocks.py"]
    assert [file.as_posix() for file in study_sources(NAME) if file.suffix == ".py"] == files
    digests = [study_digest(NAME)]
    (study / "other.py").write_text("a = 2")
    assert study_digest(NAME) == digests[0]
    (study / "parts/blocks.py").write_text("from torch import nn\nblock = nn.ELU\n")
    digests.append(study_digest(NAME))
    (study / "mine.py").write_text("from architectures.parts.blocks import block\n\n" + NETWORK)
    digests.append(study_digest(NAME))
    assert len(set(digests)) == 3
    assert isinstance(build_study_network(NAME, 4), nn.Sequential)


@pytest.mark.parametrize(
    "code",
    [
        "def network(): return nn.Flatten()",
        "def network(side=8, width=3): return nn.Flatten()",
        "def network(*, side): return nn.Flatten()",
        "def network(**settings): return nn.Flatten()",
        "class network(nn.Flatten): pass",
    ],
)
def test_a_factory_takes_nothing_or_the_side(study: Path, recipe: Recipe, code: str) -> None:
    (study / "mine.py").write_text(f"from torch import nn\n{code}\n")
    assert build(recipe).head.in_features == 3 * 16 * 16


def test_a_hidden_layer_that_is_called_fc_is_kept(study: Path, recipe: Recipe) -> None:
    code = (
        "from torch import nn\nfrom torchvision.models import resnet18\ndef network(): return resnet18(num_classes=7)\n"
    )
    (study / "mine.py").write_text(code)
    model = build(recipe)
    assert (model.head.in_features, model.backbone.fc.out_features) == (7, 7)
    with pytest.raises(InputError, match="has no output layer of its own: set head_input to features"):
        build(recipe, head_input="classifier")


def test_pretrained_weights_of_a_file_go_into_the_network(study: Path, recipe: Recipe, tmp_path: Path) -> None:
    code = "def network():\n    found = resnet18()\n    found.fc = nn.Identity()\n    return found\n"
    (study / "mine.py").write_text(f"from torch import nn\nfrom torchvision.models import resnet18\n{code}")
    torch.manual_seed(9)
    published = torchvision.models.resnet18().state_dict()
    torch.save({"state_dict": {f"model.{name}": tensor for name, tensor in published.items()}}, tmp_path / "start.pth")
    held = build(recipe, pretrained=str(tmp_path / "start.pth")).backbone.state_dict()
    assert all(torch.equal(tensor, published[name]) for name, tensor in held.items())


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def network(: pass", r"architectures/mine\.py:1: "),
        (
            "import nothing_of_the_kind",
            r"the module raised ModuleNotFoundError: .*nothing_of_the_kind.* \(mine\.py, line 1\)",
        ),
        ("def netwrk(): pass", r"mine\.py has no function 'network'; did you mean netwrk\?"),
        ("network = 3", r"mine\.py has no function 'network'"),
        ("def network(depth): pass", r"the factory needs an argument 'depth', .*give it a default"),
        ("def network():\n    return 1 / 0", r"it raised ZeroDivisionError: division by zero \(mine\.py, line 2\)"),
        ("def network():\n    raise TypeError('odd')", r"it raised TypeError: odd \(mine\.py, line 2\)"),
        ("def network():\n    raise SystemExit(2)", r"it raised SystemExit: 2 \(mine\.py, line 2\)"),
        ("raise SystemExit(2)\ndef network(): pass", r"the module raised SystemExit: 2 \(mine\.py, line 1\)"),
        ("def network(): return 3", r"it returned a int, expected a nn\.Module"),
        ("from .blocks import block", r"mine\.py:1: a relative import; write the module's whole name"),
    ],
)
def test_code_that_cannot_be_used_is_named(study: Path, recipe: Recipe, code: str, message: str) -> None:
    (study / "mine.py").write_text(code)
    with pytest.raises(InputError, match=rf"^architecture architectures\.mine:network: .*{message}"):
        build(recipe)


OUTPUTS = {
    "images": r"it makes float32\[2, 3, 16, 16\], expected features float32\[2, F\]",
    "images.flatten()": r"it makes float32\[1536\]",
    "images.flatten()[None]": r"it makes float32\[1, 1536\]",
    "images.flatten(1)[:, :0]": r"it makes float32\[2, 0\]",
    "images.flatten(1).double()": r"it makes float64\[2, 768\]",
    "[images]": r"it makes a list",
    "images[:, 7]": r"raised IndexError: .*\(mine\.py, line 4\)",
}


@pytest.mark.parametrize("output", OUTPUTS)
def test_an_output_of_another_shape_is_named(study: Path, recipe: Recipe, output: str) -> None:
    (study / "mine.py").write_text(
        f"from torch import nn\nclass network(nn.Module):\n    def forward(self, images):\n        return {output}\n"
    )
    with pytest.raises(InputError, match=rf"^architecture {NAME}: .*images float32\[2, 3, 16, 16\] {OUTPUTS[output]}"):
        build(recipe)


@pytest.mark.parametrize(
    "name", ["mypackage.module:factory", "architectures:network", "architectures.a/b:c", "os:system"]
)
def test_code_elsewhere_than_in_the_folder_is_refused(name: str, recipe: Recipe) -> None:
    with pytest.raises(InputError, match=r"expected architectures\.<module>:<factory>: put the module into the folder"):
        build(recipe, architecture=name)


def test_a_name_of_the_hub_without_timm_is_told_how_it_is_written(recipe: Recipe) -> None:
    with pytest.raises(InputError, match=r"A model of the Hugging Face Hub is timm/hf-hub:<owner>/<name>$"):
        build(recipe, architecture="hf-hub:timm/resnet18.a1_in1k")


@pytest.mark.parametrize("elsewhere", ["blocks.py", "blocks/__init__.py"])
def test_an_import_that_dvc_does_not_watch_is_refused(study: Path, recipe: Recipe, elsewhere: str) -> None:
    (study.parent / elsewhere).parent.mkdir(exist_ok=True)
    (study.parent / elsewhere).write_text("a = 1")
    (study / "mine.py").write_text("import torch\nimport blocks\n" + NETWORK)
    with pytest.raises(
        InputError, match=r"mine\.py:2: imports 'blocks' of the study's folder, which DVC does not watch"
    ):
        build(recipe)


def test_a_recipe_is_pinned_with_the_digest_of_its_code(study: Path, params: Params) -> None:
    changed = params.recipes["cnn"].model_copy(update={"architecture": NAME})
    params = params.model_copy(update={"recipes": params.recipes | {"cnn": changed}})
    assert pin_recipes(params)["cnn"]["architecture_sha256"] == study_digest(NAME)
    assert "architecture_sha256" not in pin_recipes(params)["linear"]
    (study / "mine.py").unlink()
    with pytest.raises(
        InputError, match=rf"^recipes\.cnn: architecture {NAME}: there is no file architectures/mine\.py in"
    ):
        pin_recipes(params)
    (study / "mine.py").write_text("1 / 0")
    with pytest.raises(InputError, match=r"^recipes\.cnn: .*the module raised ZeroDivisionError"):
        pin_recipes(params)
    (study / "mine.py").write_text("from torch import nn\ndef network(): return nn.Conv2d(3, 4, 3)\n")
    side = params.crop.side
    with pytest.raises(
        InputError, match=rf"^recipes\.cnn: .* it makes float32\[2, 4, {side - 2}, {side - 2}\], expected"
    ):
        pin_recipes(params)


def saved(params: Params, recipe: Recipe, path: Path) -> Classifier:
    recipe = recipe.model_copy(update={"architecture": NAME})
    model = build(recipe)
    crop = params.crop.model_copy(update={"side": 16})
    card = {"name": "mine", "classes": ("a", "b"), "fold": 0, "crop": crop, "recipe": recipe, "epoch": 1, "seed": 0}
    card |= {"mean": MEAN_STD[0], "std": MEAN_STD[1], "manifest": "0", "parameters": 1, "score": {}}
    save_model(path, model, ModelCard.model_validate(card | {"versions": model.versions}))
    return model


def test_a_model_file_is_read_with_the_code_of_its_training_alone(
    study: Path, params: Params, recipe: Recipe, tmp_path: Path, monkeypatch
) -> None:
    path = tmp_path / "model.safetensors"
    model = saved(params, recipe, path)
    assert torch.equal(load_model(path, "cpu")[0].backbone[1].weight, model.backbone[1].weight)
    (study / "mine.py").write_text(NETWORK + "# edited\n")
    with pytest.raises(
        InputError, match=rf"model\.safetensors: its architecture {NAME} is not the code .* `dvc repro`"
    ):
        load_model(path, "cpu")
    monkeypatch.chdir(study)
    with pytest.raises(
        InputError, match=rf"there is no file architectures/mine\.py in {study}: run this in the folder"
    ):
        load_model(path, "cpu")


def test_a_foreign_model_file_cannot_name_code_to_run(
    study: Path, params: Params, recipe: Recipe, tmp_path: Path
) -> None:
    saved(params, recipe, tmp_path / "model.safetensors")
    (study / "mine.py").write_text("from pathlib import Path\nPath('touched').touch()\n")
    with pytest.raises(InputError, match="is not the code that it was trained with"):
        load_model(tmp_path / "model.safetensors", "cpu")
    assert not Path("touched").exists()


@pytest.mark.usefixtures("study")
def test_an_outline_has_the_networks_tensors(recipe: Recipe) -> None:
    torch.manual_seed(1)
    outline = outline_model(recipe.model_copy(update={"architecture": NAME}), 2, 16, 5)
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(1)), "the caller's random state is unchanged"
    shapes = {name: tensor.shape for name, tensor in build(recipe).state_dict().items()}
    assert {name: tensor.shape for name, tensor in outline.state_dict().items()} == shapes
