"""Builds networks from the study's own code: `architectures.<module>:<factory>`, in the folder `architectures`."""

import ast
import importlib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, Any

from tumorboard.base.digests import source_files
from tumorboard.base.errors import InputError, clip
from tumorboard.base.schema import nearest

if TYPE_CHECKING:
    from torch import Tensor, nn

FOLDER = "architectures"  # the study's folder of own code, which DVC watches

_NAME = re.compile(r"(architectures(?:\.[A-Za-z_]\w*)+):([A-Za-z_]\w*)", re.ASCII)


def is_study_code(architecture: str) -> bool:
    """Returns whether an architecture's name means code of the study: it has a colon.

    >>> [is_study_code(name) for name in ("architectures.mine:network", "resnet18", "timm/hf-hub:timm/resnet18")]
    [True, False, False]
    """
    return ":" in architecture and not architecture.startswith("timm/")


def study_digest(architecture: str) -> str:
    """Returns the SHA-256 of the source files of an architecture, hexadecimal.

    The digest covers the factory's file and its imports from the folder `architectures`, with their paths.

    Args:
        architecture: such as "architectures.mine:network".

    Raises:
        InputError: the name has another form, a file is missing or no Python, or one imports a file of the study that
            is in another folder.
    """
    lines = [f"{sha256(file.read_bytes()).hexdigest()}  {file.as_posix()}\n" for file in study_sources(architecture)]
    return sha256("".join(lines).encode()).hexdigest()


def study_sources(architecture: str) -> list[Path]:
    """Returns the source files of an architecture, from the current folder on; raises as `study_digest` does."""
    module, _ = _parts_of(architecture)
    try:
        files = sorted(source_files(module, {FOLDER: Path(FOLDER)}))
        _check_imports(architecture, [file for file in files if file.suffix == ".py"])
    except SyntaxError as error:
        raise InputError(f"architecture {architecture}: {error.filename}:{error.lineno}: {error.msg}") from None
    except InputError:
        raise
    except ValueError as error:  # a relative import
        raise InputError(f"architecture {architecture}: {error}") from None
    if not files:
        raise InputError(
            f"architecture {architecture}: there is no file {module.replace('.', '/')}.py in {Path.cwd()}: run this in "
            "the folder of the study whose code it is, or bring the file there"
        )
    return files


def build_study_network(architecture: str, side: int) -> "nn.Module":
    """Calls an architecture's factory.

    The source files are compiled anew, so that the network always matches `study_digest`.

    Args:
        architecture: such as "architectures.mine:network". The factory takes nothing, or the keyword argument `side`.
        side: side of the square images in pixels.

    Returns:
        What the factory returned: a module from images float32[N, 3, side, side] to features [N, F].

    Raises:
        InputError: there is no such file or factory, or the factory fails or returns something else.
    """
    from torch import nn  # here, because recognizing a name needs no torch

    factory = load_factory(architecture)
    try:
        network = factory(**_settings_of(architecture, factory, side))
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # a script that parses its command line ends by SystemExit
        raise InputError(f"architecture {architecture}: it raised {_describe(error)}") from error
    if not isinstance(network, nn.Module):
        raise InputError(f"architecture {architecture}: it returned a {type(network).__name__}, expected a nn.Module")
    return network


def study_features(network: "nn.Module", side: int, architecture: str) -> "Tensor":
    """Returns the features [2, F] of two black images.

    Raises:
        InputError: the network fails, or its output has another shape or type.
    """
    import torch

    try:
        features = network(torch.zeros(2, 3, side, side))
    except (Exception, SystemExit) as error:
        raise InputError(
            f"architecture {architecture}: images float32[2, 3, {side}, {side}] raised {_describe(error)}"
        ) from error
    kind = f"a {type(features).__name__}"
    if isinstance(features, torch.Tensor):
        kind = f"{str(features.dtype).removeprefix('torch.')}{list(features.shape)}"
        if features.ndim == 2 and len(features) == 2 and features.shape[1] and features.dtype == torch.float32:
            return features
    raise InputError(
        f"architecture {architecture}: of images float32[2, 3, {side}, {side}] it makes {kind}, expected features "
        "float32[2, F]"
    )


def load_factory(architecture: str) -> Callable[..., Any]:
    """Runs an architecture's module and returns its factory; raises as `build_study_network` does."""
    study_sources(architecture)
    name, attribute = _parts_of(architecture)
    try:
        module = _import(name)
    except (Exception, SystemExit) as error:
        raise InputError(f"architecture {architecture}: the module raised {_describe(error)}") from error
    factory = getattr(module, attribute, None)
    if not callable(factory):
        known = [key for key, value in vars(module).items() if callable(value) and value.__module__ == name]
        raise InputError(
            f"architecture {architecture}: {module.__file__} has no function '{attribute}'{nearest(attribute, known)}"
        )
    _settings_of(architecture, factory, 0)
    result: Callable[..., Any] = factory
    return result


def _parts_of(architecture: str) -> tuple[str, str]:
    match = _NAME.fullmatch(architecture)
    if match is None:
        is_from_hub = architecture.startswith(("hf-hub:", "hf_hub:"))
        raise InputError(
            f"architecture {clip(architecture)!r}: expected {FOLDER}.<module>:<factory>: put the module into the "
            f"folder {FOLDER} of the study, which DVC watches"
            f"{'. A model of the Hugging Face Hub is timm/hf-hub:<owner>/<name>' if is_from_hub else ''}"
        )
    return match[1], match[2]


def _settings_of(architecture: str, factory: Callable[..., Any], side: int) -> dict[str, int]:
    """Returns the keyword arguments for a factory; raises InputError where it needs an argument other than `side`."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (ValueError, TypeError):  # some built-in functions and classes have no signature
        return {}
    named = [one for one in parameters if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
    if needed := [one.name for one in named if one.default is one.empty and one.name != "side"]:
        raise InputError(
            f"architecture {architecture}: the factory needs an argument '{needed[0]}', but is called with nothing or "
            "with side=<pixels>: give it a default"
        )
    return {"side": side} if "side" in [one.name for one in named] else {}


def _check_imports(architecture: str, files: Sequence[Path]) -> None:
    """Raises InputError where a file imports a module of the current folder that DVC does not watch."""
    for file in files:
        for line, top in _imported_packages(file):
            here = Path(top)
            if top != FOLDER and (here.with_suffix(".py").is_file() or any(here.glob("*.py"))):
                raise InputError(
                    f"architecture {architecture}: {file}:{line}: imports '{top}' of the study's folder, which DVC "
                    f"does not watch: move it into {FOLDER}, and import {FOLDER}.{top}"
                )


def _imported_packages(file: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(file.read_bytes(), filename=str(file))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.lineno, node.module.partition(".")[0]


class _FromSource(SourceFileLoader):
    """Compiles a module at each import: a .pyc file can stem from another edit within the same second."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)  # type: ignore[no-any-return]


class _StudyFinder(MetaPathFinder):
    """Finds the modules of the folder `architectures` in one folder of a study, wherever the program was started."""

    def __init__(self, study: Path) -> None:
        self.study = study

    def find_spec(self, fullname: str, *_: object) -> ModuleSpec | None:
        base = self.study.joinpath(*fullname.split("."))
        if fullname.partition(".")[0] != FOLDER:
            return None
        if (file := base / "__init__.py").is_file():
            loader = _FromSource(fullname, str(file))
            return importlib.util.spec_from_file_location(
                fullname, file, loader=loader, submodule_search_locations=[str(base)]
            )
        if (file := base.with_suffix(".py")).is_file():
            return importlib.util.spec_from_file_location(fullname, file, loader=_FromSource(fullname, str(file)))
        if base.is_dir():
            spec = ModuleSpec(fullname, None, is_package=True)
            spec.submodule_search_locations = [str(base)]
            return spec
        return None


def _import(name: str) -> ModuleType:
    """Imports a module of the folder `architectures` of the current folder, and what it imports from there, anew."""
    for loaded in [module for module in sys.modules if module.partition(".")[0] == FOLDER]:
        del sys.modules[loaded]
    others = [finder for finder in sys.meta_path if not isinstance(finder, _StudyFinder)]
    sys.meta_path[:] = [_StudyFinder(Path.cwd()), *others]
    return importlib.import_module(name)


def _describe(error: BaseException) -> str:
    """Returns an exception's type and message, and the last line of the study's code that it went through."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if f"/{FOLDER}/" in frame.filename]
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {clip(str(error), 300)}{place}"
