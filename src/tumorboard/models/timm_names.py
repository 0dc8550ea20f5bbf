"""The models of timm by name: `timm/<name>`, and `timm/hf-hub:<owner>/<name>` for models of the Hugging Face Hub.

timm is imported within the functions: it takes half a second, and most studies use none of its models.
"""

import re
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from tumorboard.base.errors import InputError

if TYPE_CHECKING:
    from torch import nn

TIMM_PREFIX = "timm/"  # prefix of the architectures that timm builds

_HUB_PREFIX = "timm/hf-hub:"  # prefix of the architectures that the Hub describes
_HUB_NAME = re.compile(r"timm/hf-hub:[\w.-]+/[\w.-]+(@[\w./-]+)?", re.ASCII)


class TimmConfig(NamedTuple):
    """What timm records about a model's weights."""

    mean: tuple[float, ...]  # mean per channel, of pixel values from 0 to 1
    std: tuple[float, ...]
    fixed_side: bool  # whether the network is built for one side of the images
    name: str  # name of the weights, `<architecture>.<tag>`


def timm_names() -> list[str]:
    """Returns the names of all models that timm has on this machine, with and without a tag."""
    import timm

    return [TIMM_PREFIX + name for name in (*timm.list_models(), *timm.list_models(pretrained=True))]


def is_timm_name(architecture: str) -> bool:
    """Returns whether timm has a model of this name on this machine."""
    return architecture.startswith(TIMM_PREFIX) and architecture in timm_names()


def is_pretrained(architecture: str) -> bool:
    """Returns whether timm publishes weights of a model; its name starts with "timm/"."""
    import timm

    return bool(timm.is_model_pretrained(architecture.removeprefix(TIMM_PREFIX)))


def is_hub_name(architecture: str) -> bool:
    """Returns whether a name has the form of a model of the Hub.

    >>> [is_hub_name(name) for name in ("timm/hf-hub:timm/resnet18.a1_in1k", "timm/resnet18", "timm/hf-hub:resnet18")]
    [True, False, False]
    """
    return _HUB_NAME.fullmatch(architecture) is not None


def timm_config(architecture: str) -> TimmConfig:
    """Returns what timm records about a model's weights; for a model of the Hub, what its description states.

    Args:
        architecture: starts with "timm/".

    Raises:
        InputError: the description cannot be fetched.
    """
    import timm

    name = architecture.removeprefix(TIMM_PREFIX)
    if architecture.startswith(_HUB_PREFIX):
        given, base = _hub_description(architecture)
        known: Any = timm.get_pretrained_cfg(base)
        return TimmConfig(
            tuple(given.get("mean", known.mean)),
            tuple(given.get("std", known.std)),
            bool(given.get("fixed_input_size", known.fixed_input_size)),
            name,
        )
    cfg: Any = timm.get_pretrained_cfg(name)
    tagged = ".".join(part for part in (cfg.architecture, cfg.tag) if part)
    return TimmConfig(tuple(cfg.mean), tuple(cfg.std), cfg.fixed_input_size, tagged)


def create_timm(architecture: str, pretrained: bool = False, **settings: Any) -> "nn.Module":
    """Builds a model of timm.

    Args:
        architecture: starts with "timm/".
        pretrained: whether to fetch its weights.
        settings: further arguments of timm.create_model.

    Raises:
        InputError: the description of a model of the Hub cannot be fetched, or timm has no such network.
    """
    import timm

    if architecture.startswith(_HUB_PREFIX):
        _hub_description(architecture)
    network: nn.Module = timm.create_model(architecture.removeprefix(TIMM_PREFIX), pretrained=pretrained, **settings)
    return network


@cache
def _hub_description(architecture: str) -> tuple[dict[str, Any], str]:
    """Returns the weights' configuration and the architecture of a model of the Hub, from its config.json."""
    import timm
    from timm.models import load_model_config_from_hf

    model = architecture.removeprefix(_HUB_PREFIX)
    try:
        given, base, _ = load_model_config_from_hf(model)
    except OSError as error:
        raise InputError(
            f"architecture {architecture}: its description cannot be fetched from the Hugging Face Hub "
            f"({type(error).__name__}). Offline, fetch config.json and model.safetensors of {model} elsewhere, "
            f'name its network, {TIMM_PREFIX}<"architecture" in config.json>, and set pretrained to weights/<file>'
        ) from error
    if not timm.is_model(base):
        raise InputError(f"architecture {architecture}: it is a {base}, which timm {timm.__version__} does not have")
    return dict(given), base
