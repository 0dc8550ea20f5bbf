"""Imports torchvision, only where one of its networks is used, and without torch's compiler.

Importing torchvision takes as long as importing torch. Nine tenths of that is torch's compiler (torch._dynamo), which
torchvision imports for one function: its pooling for detectors asks whether it can be compiled.
"""

import importlib
import sys
from functools import cache
from types import ModuleType
from typing import Any

_COMPILER = ("torch._dynamo", "torch._dynamo.utils")


@cache
def torchvision_models() -> Any:
    """Returns the package torchvision.models, which has no types.

    While torchvision is imported, a module without content is in the compiler's place; the compiler is imported as
    soon as anything else in it is used or somebody imports it.
    """
    if "torchvision" in sys.modules or _COMPILER[0] in sys.modules:
        return importlib.import_module("torchvision.models")
    torch = importlib.import_module("torch")
    package, utils = map(_StandIn, _COMPILER)
    package.__path__ = [f"{torch.__path__[0]}/_dynamo"]
    utils.is_compile_supported = _is_compile_supported  # type: ignore[attr-defined]
    sys.modules.update(zip(_COMPILER, (package, utils), strict=True))
    try:
        return importlib.import_module("torchvision.models")
    finally:
        _remove_stand_ins()


class _StandIn(ModuleType):
    """Stands in for a module, which is imported when one of its attributes is used."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        _remove_stand_ins()
        return getattr(importlib.import_module(self.__name__), name)


def _remove_stand_ins() -> None:
    for name in _COMPILER:
        if isinstance(sys.modules.get(name), _StandIn):
            del sys.modules[name]


def _is_compile_supported(device_type: str) -> bool:
    return bool(importlib.import_module(_COMPILER[1]).is_compile_supported(device_type))
