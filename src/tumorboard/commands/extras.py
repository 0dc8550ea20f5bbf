"""Names the extra of the package that holds what a command cannot import: `predict` alone needs no torch."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import tumorboard
from tumorboard.base.errors import InputError

# The extra of each module, by the module's top-level name; pyproject.toml has the packages.
EXTRAS = {
    module: extra
    for extra, modules in {
        "train": "torch torchvision timm scipy sklearn cleanlab matplotlib jinja2 tensorboard dvc dvclive",
        "predict": "onnxruntime",
        "onnx": "onnx onnxscript",
        "search": "optuna",
        "serve": "fastapi starlette uvicorn",
    }.items()
    for module in modules.split()
}


@contextmanager
def naming_extras() -> Iterator[None]:
    """Turns the error of a module that an extra holds into an InputError with the line that installs it.

    It does nothing in a checkout, whose environment `make env` makes.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").split(".")[0])
        if extra is None or _is_checkout():
            raise
        raise InputError(
            f"this needs the package {error.name}, which is not installed here: pip install 'tumorboard[{extra}]'"
        ) from None


def _is_checkout() -> bool:
    return (Path(str(tumorboard.__file__)).resolve().parents[2] / "pyproject.toml").is_file()
