"""Fits the tensors of a file to a network: removes prefixes, resamples positions, converts published names."""

import logging
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from tumorboard.base.errors import InputError, clip
from tumorboard.models.output_layer import without_output_layer
from tumorboard.models.tensors import check_tensors

_POSITIONS = "encoder.pos_embedding"  # position embedding of torchvision's vision transformers
_PATCHES = "patch_embed.proj.weight"  # patch embedding of timm's vision transformers
_SHOWN = 3  # tensor names in a message

_log = logging.getLogger(__name__)


def fit_tensors(
    tensors: Mapping[str, Tensor], backbone: nn.Module, where: str, outputs: tuple[str, ...]
) -> dict[str, Tensor]:
    """Returns a file's tensors under the names and in the shapes of a network.

    A prefix that all of the network's tensors have in the file (`module.` of DataParallel, `_orig_mod.` of
    torch.compile, `model.` of Lightning modules) is removed, and tensors without it are left out. Where the tensors
    still do not fit, the positions of a vision transformer are resampled to its side, and then timm's own conversion of
    published files is tried.

    Args:
        tensors: the file's tensors by name.
        backbone: the network.
        where: the beginning of an error message, such as the file's name.
        outputs: names of the backbone's output layers, which may be missing or of another width.

    Raises:
        InputError: the tensors fit in no way, or under several prefixes.
    """
    first: InputError | None = None
    optional = ("num_batches_tracked", *(f"{name}.{part}" for name in outputs for part in ("weight", "bias")))
    names = frozenset(name for name in backbone.state_dict() if not name.endswith(optional))
    stripped = without_prefix(tensors, names, where)
    for candidate in _candidates(tensors, stripped, backbone):
        try:
            fitted = without_output_layer(candidate, backbone, where, outputs)
            check_tensors(backbone, fitted, where)
        except InputError as error:
            first = first or error
        else:
            return fitted
    assert first is not None
    if sum(name in stripped for name in names) > len(names) / 2:
        raise first
    raise InputError(
        f"{first}; the file has {_first(list(tensors))}; the network has {_first(list(backbone.state_dict()))}"
    )


def without_prefix(tensors: Mapping[str, Tensor], names: frozenset[str], where: str) -> Mapping[str, Tensor]:
    """Removes the prefix under which a file has a network's tensors.

    Args:
        tensors: the file's tensors by name.
        names: names of the network's tensors that a file must have.
        where: the beginning of an error message.

    Returns:
        The tensors that have the prefix, without it; all tensors where there is none.

    Raises:
        InputError: there is a whole network under several prefixes.

    >>> given = {"model.conv.weight": torch.zeros(2), "model.conv.bias": torch.ones(1), "loss.weight": torch.zeros(3)}
    >>> sorted(without_prefix(given, frozenset({"conv.weight", "conv.bias"}), "file"))
    ['conv.bias', 'conv.weight']
    """
    counts: Counter[str] = Counter()
    for name in tensors:
        parts = name.split(".")
        for start in range(len(parts)):
            if ".".join(parts[start:]) in names:
                counts["".join(f"{part}." for part in parts[:start])] += 1
    whole = sorted(prefix for prefix, count in counts.items() if count == len(names))
    if len(whole) > 1:
        listed = " and ".join(f"'{prefix}'" for prefix in whole)
        raise InputError(
            f"{where}: it has the network's tensors under the prefixes {listed}: save those you mean alone"
        )
    prefix = max(counts, key=lambda key: (counts[key], -len(key)), default="")
    if not prefix:
        return tensors
    kept = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    if whole and len(kept) < len(tensors):
        _log.warning("%s: %d tensors without the prefix '%s' are left out", where, len(tensors) - len(kept), prefix)
    return kept


def check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """Raises InputError with the name of the first tensor that has a number that is not finite."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not (finite := torch.isfinite(tensor)).all():
            count = int((~finite).sum())
            raise InputError(
                f"{where}: tensor {clip(name)!r} has {count} of {tensor.numel()} values that are NaN or infinite: the "
                "training that wrote it had failed"
            )


def resample_positions(tensors: Mapping[str, Tensor], backbone: nn.Module) -> dict[str, Tensor]:
    """Returns the tensors of a torchvision vision transformer with positions resampled to the network's side.

    The grid of positions is resampled as in timm, by bicubic interpolation with antialiasing.

    Args:
        tensors: tensors by name; the positions are float[1, 1 + G * G, D], the class token's first.
        backbone: the network.
    """
    own = backbone.state_dict().get(_POSITIONS)
    given = tensors.get(_POSITIONS)
    if own is None or given is None or given.ndim != 3 or round((given.shape[1] - 1) ** 0.5) ** 2 != given.shape[1] - 1:
        return dict(tensors)
    from timm.layers.pos_embed import resample_abs_pos_embed  # here, because timm is slow to import

    side = round((own.shape[1] - 1) ** 0.5)
    return {**tensors, _POSITIONS: resample_abs_pos_embed(given, [side, side], num_prefix_tokens=1)}


def _candidates(
    tensors: Mapping[str, Tensor], stripped: Mapping[str, Tensor], backbone: nn.Module
) -> Iterator[Mapping[str, Tensor]]:
    """Yields the possible readings of a file's tensors, the most literal one first."""
    yield stripped
    yield resample_positions(stripped, backbone)
    # timm's module of a network has the function that converts published files: names of other libraries, positions.
    convert = getattr(sys.modules[type(backbone).__module__], "checkpoint_filter_fn", None)
    if convert is not None and hasattr(backbone, "pretrained_cfg") and _same_patches(stripped, backbone):
        for given in (stripped, tensors):
            try:
                yield convert(dict(given), backbone)
            except (KeyError, ValueError, RuntimeError, AttributeError, TypeError, IndexError, AssertionError):
                continue  # it expects another file; what did not fit before is reported


def _same_patches(tensors: Mapping[str, Tensor], backbone: nn.Module) -> bool:
    """Whether a file has patches of the network's size, if any: timm would resample these as well."""
    own, given = backbone.state_dict().get(_PATCHES), tensors.get(_PATCHES)
    return own is None or given is None or given.ndim != own.ndim or given.shape == own.shape


def _first(names: Sequence[str]) -> str:
    shown = ", ".join(map(clip, names[:_SHOWN]))
    return f"{shown} …" if len(names) > _SHOWN else shown or "no tensors"
