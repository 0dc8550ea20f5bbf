"""Files as people have them: prefixes, positions of vision transformers and published names, against timm itself."""

import logging
from collections.abc import Mapping

import pytest
import timm
import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from tumorboard.base.errors import InputError
from tumorboard.models.fit_tensors import fit_tensors, without_prefix
from tumorboard.models.output_layer import output_layer_names
from tumorboard.models.tensors import copy_tensors


def small(seed: int = 0) -> nn.Module:
    """A network with an output layer, whose tensor names occur within each other: bn.weight and inner.bn.weight."""
    torch.manual_seed(seed)
    network = nn.Module()
    network.conv, network.bn, network.fc = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)
    network.inner = nn.Module()
    network.inner.conv, network.inner.bn = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)
    return network


def fit(tensors: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    return fit_tensors(tensors, network, "file", output_layer_names(network))


def prefixed(prefix: str, seed: int = 1) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in small(seed).state_dict().items()}


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.", "net.", "module._orig_mod.", "inner."])
def test_a_prefix_of_all_tensors_is_removed(prefix: str) -> None:
    fitted = fit(prefixed(prefix), small())
    expected = small(1).state_dict()
    assert fitted.keys() == expected.keys()
    assert all(torch.equal(fitted[name], expected[name]) for name in expected)


def test_what_a_lightning_module_has_beside_the_network_is_left_out_with_a_warning(caplog) -> None:
    given = prefixed("model.") | {"loss.weight": torch.ones(2), "head.bn.weight": torch.ones(4)}
    with caplog.at_level(logging.WARNING):
        assert fit(given, small()).keys() == small().state_dict().keys()
    assert "2 tensors without the prefix 'model.' are left out" in caplog.text


def test_a_network_under_two_prefixes_is_ambiguous() -> None:
    with pytest.raises(
        InputError, match=r"^file: it has the network's tensors under the prefixes 'ema\.' and 'model\.'"
    ):
        fit(prefixed("model.") | prefixed("ema.", 2), small())
    with pytest.raises(InputError, match=r"under the prefixes '' and 'ema\.'"):
        fit(prefixed("") | prefixed("ema.", 2), small())


def test_half_a_network_under_a_second_prefix_is_no_rival() -> None:
    half = {name: tensor for name, tensor in prefixed("ema.", 2).items() if "inner" in name}
    fitted = fit(prefixed("model.") | half, small())
    assert torch.equal(fitted["inner.conv.weight"], small(1).inner.conv.weight)


def test_under_a_prefix_the_first_tensor_that_does_not_fit_is_named() -> None:
    given = prefixed("module.")
    del given["module.inner.bn.bias"]
    with pytest.raises(InputError, match=r"^file: tensor 'inner\.bn\.bias' \[4\] is missing$"):
        fit(given, small())
    given = prefixed("module.") | {"module.conv.bias": torch.zeros(5)}
    with pytest.raises(InputError, match=r"^file: tensor 'conv\.bias' has the shape \[5\], expected \[4\]$"):
        fit(given, small())


def test_without_a_prefix_a_tensor_that_has_no_place_is_named() -> None:
    with pytest.raises(InputError, match=r"^file: tensor 'loss\.weight' \[2\] has no place in the network$"):
        fit(prefixed("") | {"loss.weight": torch.ones(2)}, small())


def test_of_a_foreign_file_the_names_on_both_sides_are_shown() -> None:
    given = {f"encoder.layer.{number}.weight": torch.zeros(1) for number in range(5)}
    with pytest.raises(InputError) as raised:
        fit(given, small())
    assert str(raised.value) == (
        "file: tensor 'conv.weight' [4, 3, 3, 3] is missing; the file has encoder.layer.0.weight, "
        "encoder.layer.1.weight, encoder.layer.2.weight …; the network has conv.weight, conv.bias, bn.weight …"
    )
    with pytest.raises(InputError, match=r"is missing; the file has no tensors; the network has"):
        fit({}, small())


def test_an_output_layer_that_the_network_lacks_is_no_part_of_the_comparison() -> None:
    network = small()
    network.fc = nn.Identity()
    assert fit(prefixed("model."), network).keys() == network.state_dict().keys()


def test_tensors_without_a_match_are_returned_as_they_are() -> None:
    given = {"a.b": torch.zeros(1)}
    assert without_prefix(given, frozenset({"c"}), "file") == given


def random_vit(architecture: str, side: int, **settings: object) -> nn.Module:
    """A small vision transformer of timm with random weights, positions included."""
    torch.manual_seed(side)
    shape = {"img_size": side, "depth": 2, "embed_dim": 24, "num_heads": 2, "num_classes": 0}
    network = timm.create_model(architecture, **shape | settings)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    return network.eval()


@pytest.mark.parametrize(
    ("architecture", "given", "side"),
    [
        ("vit_small_patch16_224", 64, 96),
        ("vit_small_patch14_dinov2", 70, 42),
        ("vit_small_patch14_reg4_dinov2", 70, 42),
    ],
)
def test_positions_of_timm_are_resampled_as_timm_does(architecture: str, given: int, side: int) -> None:
    source, network = random_vit(architecture, given), random_vit(architecture, side)
    tensors = source.state_dict()
    copy_tensors(network, fit(tensors, network), "file")
    prefix = 0 if "reg4" in architecture else 1  # positions of the class token
    patch = source.patch_embed.patch_size[0]
    expected = resample_abs_pos_embed(tensors["pos_embed"], [side // patch] * 2, num_prefix_tokens=prefix)
    assert network.pos_embed.shape[1] == (side // patch) ** 2 + prefix
    torch.testing.assert_close(network.pos_embed.data, expected)
    for name, tensor in network.state_dict().items():
        assert name == "pos_embed" or torch.equal(tensor, tensors[name]), name
    # A network that resamples at each call sees the same.
    flexible = random_vit(architecture, given, dynamic_img_size=True)
    flexible.load_state_dict(tensors)
    images = torch.rand(1, 3, side, side)
    with torch.no_grad():
        torch.testing.assert_close(network(images), flexible(images), rtol=1e-4, atol=1e-4)


def test_positions_are_resampled_under_a_prefix_and_equal_ones_are_untouched() -> None:
    source, network = random_vit("vit_small_patch16_224", 64), random_vit("vit_small_patch16_224", 96)
    wrapped = {f"module.{name}": tensor for name, tensor in source.state_dict().items()}
    assert fit(wrapped, network)["pos_embed"].shape == network.pos_embed.shape
    same = random_vit("vit_small_patch16_224", 64)
    assert torch.equal(fit(wrapped, same)["pos_embed"], source.pos_embed)


def test_names_of_metas_dinov2_files_are_converted() -> None:
    network = random_vit("vit_small_patch14_reg4_dinov2", 42)
    tensors = random_vit("vit_small_patch14_reg4_dinov2", 70).state_dict()
    published = {"register_tokens" if name == "reg_token" else name: tensor for name, tensor in tensors.items()}
    published |= {"mask_token": torch.zeros(1, 24), "cls_token": tensors["cls_token"]}
    published["pos_embed"] = torch.cat([torch.zeros(1, 1, 24), tensors["pos_embed"]], 1)  # theirs has one of the class
    fitted = fit(published, network)
    assert fitted.keys() == network.state_dict().keys()
    assert torch.equal(fitted["reg_token"], tensors["reg_token"])


def test_another_patch_size_is_refused_and_not_resampled() -> None:
    tensors = random_vit("vit_small_patch16_224", 64).state_dict() | {"pos_embed": torch.zeros(1, 5, 24)}
    with pytest.raises(InputError, match=r"'patch_embed\.proj\.weight' has the shape .*16, 16\], expected .*32, 32\]"):
        fit(tensors, random_vit("vit_small_patch32_224", 64))


def test_positions_of_torchvision_are_resampled_as_timm_does() -> None:
    def build(side: int) -> VisionTransformer:
        torch.manual_seed(side)
        network = VisionTransformer(side, patch_size=16, num_layers=1, num_heads=2, hidden_dim=16, mlp_dim=32)
        nn.init.normal_(network.encoder.pos_embedding)
        return network

    source, network = build(64), build(96)
    fitted = fit(source.state_dict(), network)
    given = source.encoder.pos_embedding
    expected = resample_abs_pos_embed(given, [6, 6], num_prefix_tokens=1)
    assert fitted["encoder.pos_embedding"].shape == (1, 37, 16)
    torch.testing.assert_close(fitted["encoder.pos_embedding"], expected)
    assert torch.equal(fitted["encoder.pos_embedding"][:, 0], given[:, 0])
    odd = source.state_dict() | {"encoder.pos_embedding": torch.zeros(1, 12, 16)}
    with pytest.raises(
        InputError, match=r"'encoder\.pos_embedding' has the shape \[1, 12, 16\], expected \[1, 37, 16\]"
    ):
        fit(odd, network)
