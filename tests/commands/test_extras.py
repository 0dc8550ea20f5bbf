"""What a command says where a package of an extra is missing, against pyproject.toml."""

import re
import tomllib
from pathlib import Path

import pytest

from tumorboard.base.errors import InputError
from tumorboard.commands import extras
from tumorboard.commands.extras import EXTRAS, naming_extras

ROOT = Path(__file__).parents[2]
MODULES = {"scikit-learn": "sklearn"}  # where a package's module has another name
ASSISTING = {"ruamel.yaml.clib"}  # packages that nothing imports by themselves


def test_the_modules_are_those_of_the_extras() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for extra in ("train", "predict"):
        names = [re.split(r"[<>=\[]", requirement)[0] for requirement in listed[extra]]
        modules = {MODULES.get(name, name) for name in names if name not in ASSISTING}
        assert {module for module, one in EXTRAS.items() if one == extra} == modules
    assert set(EXTRAS.values()) <= set(listed)


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    installed = tmp_path / "lib/site-packages/tumorboard/__init__.py"
    monkeypatch.setattr(extras.tumorboard, "__file__", str(installed))
    with (
        pytest.raises(InputError, match=r"torch\.nn, .*: pip install 'tumorboard\[train\]'"),
        naming_extras(),
    ):
        raise ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn")
    with pytest.raises(InputError, match=r"pip install 'tumorboard\[predict\]'"), naming_extras():
        raise ModuleNotFoundError("No module named 'onnxruntime'", name="onnxruntime")
    for name in ("elsewhere", None):
        with pytest.raises(ModuleNotFoundError), naming_extras():
            raise ModuleNotFoundError("no module", name=name)


def test_in_a_checkout_the_environment_is_what_make_makes() -> None:
    with pytest.raises(ModuleNotFoundError), naming_extras():
        raise ModuleNotFoundError("No module named 'torch'", name="torch")
