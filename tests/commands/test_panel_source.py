from pathlib import Path

import pytest
import torch

from tumorboard.base.errors import InputError
from tumorboard.base.params import package_params
from tumorboard.commands import panel_source
from tumorboard.commands.panel_source import naming_the_cure, open_source


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (
            "models/panel.json: cannot be read",
            "models/panel.json: cannot be read; if it is damaged, `dvc repro` restores it",
        ),
        (
            "models/panel.json: is not there: `dvc pull` fetches it",
            "models/panel.json: is not there: `dvc pull` fetches it",
        ),
    ],
)
def test_a_damaged_file_of_the_study_is_told_with_its_cure(message: str, told: str) -> None:
    with pytest.raises(InputError) as raised, naming_the_cure():
        raise InputError(message)
    assert str(raised.value) == told


def test_a_missing_gpu_is_no_damaged_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").touch()
    monkeypatch.setattr(panel_source, "study_models", lambda _: [])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    params = package_params("general")
    params = params.model_copy(update={"runtime": params.runtime.model_copy(update={"device": "cuda"})})
    with pytest.raises(InputError, match=r"set it to auto or cpu$"):
        open_source(params)
