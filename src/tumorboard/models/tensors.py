"""Reads files of tensors without running code, and copies tensors into a network by name and shape."""

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TypeGuard

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from tumorboard.base.errors import InputError, clip
from tumorboard.models.foreign_weights import ENDS_EARLY, explain_weights_file
from tumorboard.models.published import check_suffix

CARD_KEY = "tumorboard"  # key of the ModelCard in the header of a .safetensors file
_CUT = re.compile("truncated|unexpected EOF|unexpected pos|Ran out of input", re.IGNORECASE)
_PLAIN = (int, float, str, type(None))  # values beside the tensors of a state dict that are no part of it
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
        if path.is_file() and (cause := explain_weights_file(path, safetensors=True)):
            raise InputError(f"{path}: {cause}") from error
        raise InputError(f"{path}: not a whole .safetensors file: {error}") from error


def read_tensors(path: Path) -> Mapping[str, Tensor]:
    """Reads the tensors of a .safetensors, .pth or .pt file by name, without running code that it may hold.

    A checkpoint (`{"state_dict": …, "epoch": 3}`) is read where exactly one of its entries is a state dict. Numbers and
    texts beside the tensors of a state dict are left out.

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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that a TorchScript archive, which is refused, is one
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"pretrained: {path}: no such file") from None
    except Exception as error:  # torch raises many kinds for damaged bytes
        # Only the name of the foreign class is quoted: torch's message goes on to advise running the file's code.
        foreign = re.search(r"GLOBAL ([\w.]+)", str(error))
        if path.is_file() and (known := explain_weights_file(path, safetensors=False)):
            raise InputError(f"pretrained: {path}: {known}") from error
        if isinstance(error, EOFError) or _CUT.search(str(error)):
            raise InputError(f"pretrained: {path}: {ENDS_EARLY}") from error
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
    if tensors := _tensors_beside_numbers(content):
        return tensors
    entries = content if isinstance(content, Mapping) else {}
    inner = {str(key): value for key, value in entries.items() if isinstance(value, Mapping) and value}
    state_dicts = {key: value for key, value in inner.items() if _is_state_dict(value)}
    state_dicts = state_dicts or {
        key: found for key, value in inner.items() if (found := _tensors_beside_numbers(value))
    }
    has_weights = any(isinstance(value, Tensor) and value.ndim for value in entries.values())
    if not state_dicts and len(inner) == 1 and not has_weights:
        return _state_dict_in(next(iter(inner.values())), path)
    if len(state_dicts) == 1:
        return next(iter(state_dicts.values()))
    cause = f"; it has several: {', '.join(map(clip, state_dicts))}" if state_dicts else _name_entries(entries)
    raise InputError(
        f"pretrained: {path}: expected a mapping of names to tensors (a state dict), or one in a checkpoint{cause}: "
        "save the one you mean by itself with torch.save"
    )


def _name_entries(entries: Mapping[object, object]) -> str:
    """Returns a clause about the entries of a checkpoint: those beside its tensors, or without tensors all of them."""
    others = [name for name, value in entries.items() if not isinstance(value, Tensor) or not isinstance(name, str)]
    if 0 < len(others) < len(entries):
        return (
            f"; beside tensors it has {clip(', '.join(f'{name} ({type(entries[name]).__name__})' for name in others))}"
        )
    return f"; it has the entries {clip(', '.join(map(str, entries)))}" if entries else ""


def _tensors_beside_numbers(content: object) -> dict[str, Tensor]:
    """Returns the tensors of a state dict that also has plain numbers or texts, such as an epoch; else {}.

    Single numbers that are tensors, such as a loss, are no state dict.
    """
    if not isinstance(content, Mapping):
        return {}
    tensors = {name: value for name, value in content.items() if not isinstance(value, _PLAIN)}
    if _is_state_dict(tensors) and any(tensor.ndim for tensor in tensors.values()):
        return dict(tensors)
    return {}


def _is_state_dict(content: object) -> TypeGuard[Mapping[str, Tensor]]:
    return isinstance(content, Mapping) and all(
        isinstance(name, str) and isinstance(tensor, Tensor) and not tensor.is_meta for name, tensor in content.items()
    )
