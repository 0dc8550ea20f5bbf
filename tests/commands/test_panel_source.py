import pytest

from tumorboard.base.errors import InputError
from tumorboard.commands.panel_source import naming_the_cure


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
