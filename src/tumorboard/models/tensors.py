"""Reads files of tensors without running code, and copies tensors into a network by name and shape."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TypeGuard, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from tumorboard.base.errors import InputError, clip
from tumorboard.models.published import check_suffix

CARD_KEY = "tumorboard"  # key of the ModelCard in the header of a .safetensors file
_BACKBONE = "backbone."  # prefix of the backbone's tensors in a model file of this project


def copy_tensors(module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Copies tensors into the parameters and buffers of the same names; copies all of them or none.

    Args:
        module: receives the tensors; each of its own must be given, except a batch norm's count of batches, which old
            files lack.
        tensors: the tensors by name.
        where: the beginning of an error message, such as the file's name.

    Raises:
        InputError: names the first tensor that is missing, unknown, of another shape, or of integers (a quantized file)
            or complex numbers where the module has floating point.
    """
    check_tensors(module, tensors, where)
    own = module.state_dict()
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)


def check_tensors(module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Checks that `copy_tensors` can copy; raises its InputError."""
    own = module.state_dict()
    for name, tensor in own.items():
        if name not in tensors and not name.endswith("num_batches_tracked"):
            raise InputError(f"{where}: tensor '{name}' {list(tensor.shape)} is missing")
        if name in tensors and tensors[name].shape != tensor.shape:
            raise InputError(
                f"{where}: tensor '{name}' has the shape {list(tensors[name].shape)}, expected {list(tensor.shape)}"
            )
        if name in tensors and tensor.is_floating_point() and not tensors[name].is_floating_point():
            kind = str(tensors[name].dtype).removeprefix("torch.")
            raise InputError(f"{where}: tensor '{name}' has values of type {kind}, expected floating point")
    for name, tensor in tensors.items():
        if name not in own:
            raise InputError(f"{where}: tensor {clip(name)!r} {list(tensor.shape)} has no place in the network")


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], str | None]:
    """Reads a .safetensors file.

    Returns:
        The tensors on the CPU by name, and the JSON of the ModelCard, None in a file that this project did not write.

    Raises:
        InputError: there is no such file, or it is no whole .safetensors file.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a folder, expected a .safetensors file")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, (file.metadata() or {}).get(CARD_KEY)  # noqa: SIM118
    except FileNotFoundError:
        raise InputError(f"{path}: no such file of weights") from None
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a whole .safetensors file: {error}") from error


def read_tensors(path: Path) -> Mapping[str, Tensor]:
    """Reads the tensors of a .safetensors, .pth or .pt file by name, without running code that it may hold.

    A checkpoint (`{"state_dict": …, "epoch": 3}`) is read where exactly one of its entries is a state dict.

    Returns:
        All tensors on the CPU; from a model file of this project the backbone's only, without their prefix.

    Raises:
        InputError: the file is missing, damaged, of another kind, or holds more than tensors.
    """
    if path.suffix == ".safetensors":
        tensors, card = read_safetensors(path)
        if card is None:
            return tensors
        return {name.removeprefix(_BACKBONE): tensors[name] for name in tensors if name.startswith(_BACKBONE)}
    check_suffix(str(path))
    return _read_state_dict(path)


def _read_state_dict(path: Path) -> Mapping[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"pretrained: {path}: no such file") from None
    except Exception as error:  # torch raises many kinds for damaged bytes
        # Only the name of the foreign class is quoted: torch's message goes on to advise running the file's code.
        foreign = re.search(r"GLOBAL ([\w.]+)", str(error))
        cause = f"it holds {foreign[1]}" if foreign else f"torch cannot read it: {type(error).__name__}"
        raise InputError(
            f"pretrained: {path}: not a file of tensors alone ({cause}); expected what "
            "torch.save(model.state_dict(), ...) writes"
        ) from error
    return _state_dict_in(content, path)


def _state_dict_in(content: object, path: Path) -> Mapping[str, Tensor]:
    """Returns the one state dict in the content that torch.load read: the content itself, or an entry of it."""
    if _is_state_dict(content):
        return content
    entries = content if isinstance(content, Mapping) else {}
    inner = {str(key): value for key, value in entries.items() if isinstance(value, Mapping) and value}
    state_dicts = [key for key, value in inner.items() if _is_state_dict(value)]
    if not state_dicts and len(inner) == 1:
        return _state_dict_in(next(iter(inner.values())), path)
    if len(state_dicts) == 1:
        return cast("Mapping[str, Tensor]", inner[state_dicts[0]])
    cause = f"; it has several: {', '.join(map(clip, state_dicts))}" if state_dicts else ""
    cause = cause or (f"; it has the entries {clip(', '.join(map(str, entries)))}" if entries else "")
    raise InputError(
        f"pretrained: {path}: expected a mapping of names to tensors (a state dict), or one in a checkpoint{cause}: "
        "save the one you mean by itself with torch.save"
    )


def _is_state_dict(content: object) -> TypeGuard[Mapping[str, Tensor]]:
    return isinstance(content, Mapping) and all(
        isinstance(name, str) and isinstance(tensor, Tensor) and not tensor.is_meta for name, tensor in content.items()
    )
