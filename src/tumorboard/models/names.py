"""The names of architectures. A right one is recognized without torch, torchvision or timm where possible."""

import difflib
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from tumorboard.base.errors import InputError, clip
from tumorboard.models.study_code import FOLDER, is_study_code, study_sources
from tumorboard.models.timm_names import TIMM_PREFIX, is_hub_name, is_timm_name, timm_names
from tumorboard.models.zoo import torchvision_models

# The project's own networks, which `registry.ARCHITECTURES` builds.
OWN = (
    "linear",
    "cnn",
    "cnn3",
    "googlenet_bn",
    "lstm_resnet18",
    "resnet50_v1",
    "resnet101_v1",
    "resnet152_v1",
)

# A function that torchvision registers as a model under its own name, with its other decorators.
_REGISTERED = re.compile(r"^@register_model\(\)\n(?:[@ \t)].*\n)*def (\w+)\(", re.MULTILINE)


def check_architecture(name: str) -> None:
    """Checks that an architecture has this name.

    Raises:
        InputError: no architecture has it; names the nearest ones and lists the project's own. Or the study's own
            code that it names is missing.

    >>> check_architecture("resnet18")
    >>> check_architecture("resnet_18")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    tumorboard.base.errors.InputError: unknown architecture 'resnet_18'; did you mean resnet18, ...
    """
    if is_study_code(name):
        study_sources(name)
    elif name.startswith(TIMM_PREFIX):
        if not is_hub_name(name) and not is_timm_name(name):
            raise _unknown(name)
    elif name not in OWN and not is_torchvision_name(name):
        raise _unknown(name)


def is_torchvision_name(name: str) -> bool:
    """Returns whether torchvision has a classifier of this name.

    Its source text is searched first: importing torchvision takes as long as importing torch.

    >>> [is_torchvision_name(name) for name in ("resnet18", "resnet_18", "raft_large")]
    [True, False, False]
    """
    return name in names_in_source() or name in _torchvision_names()


@cache
def names_in_source() -> frozenset[str]:
    """Returns the names of the classifiers that torchvision's source files register in a visible way."""
    spec = find_spec("torchvision")
    folders = spec.submodule_search_locations if spec else None
    files = [file for folder in folders or () for file in sorted(Path(folder, "models").glob("*.py"))]
    return frozenset(name for file in files for name in _REGISTERED.findall(file.read_text(encoding="utf-8")))


def _torchvision_names() -> list[str]:
    models = torchvision_models()
    names: list[str] = models.list_models(module=models)
    return names


def _unknown(name: str) -> InputError:
    close = difflib.get_close_matches(name, sorted({*OWN, *_torchvision_names(), *timm_names()}), n=3)
    return InputError(
        f"unknown architecture {clip(name)!r}{'; did you mean ' + ', '.join(close) + '?' if close else '.'} "
        f"Own ones: {', '.join(OWN)}; beside them every classifier of torchvision by its name there, "
        f"every model of timm as {TIMM_PREFIX}<name> and of the Hub as {TIMM_PREFIX}hf-hub:<owner>/<name>, and the "
        f"study's own as {FOLDER}.<module>:<factory>"
    )
