from pathlib import Path

import pytest

from tests.base.real_params import REAL, load
from tumorboard.base.errors import InputError

SHORT = "study: x\nmodels: [cnn]\nfolds: [0]\nmedmnist: []\npreset: cells\ndata: {raw: images}\ntrain: {epochs: 1}\n"


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("", "not in the file"),
        ("tumourboard: '0.1.0'\n", ": 'tumourboard' is misspelled"),
        ("1: 2\n", "not in the file"),
    ],
)
def test_a_short_file_without_the_line_that_makes_it_one_is_one_message(tmp_path: Path, line: str, hint: str) -> None:
    with pytest.raises(InputError) as raised:
        load(tmp_path, line + SHORT)
    assert 'params.yaml: lacks the line `tumorboard: "' in str(raised.value)
    assert str(raised.value).endswith(hint)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("version", ["", "0.1", "[1]"])
def test_a_version_that_is_no_text_is_refused_with_the_line_to_write(tmp_path: Path, version: str) -> None:
    with pytest.raises(InputError, match=r'params\.yaml: tumorboard: is .*, expected `tumorboard: "'):
        load(tmp_path, f"tumorboard: {version}\n{SHORT}")


def test_a_key_that_a_file_in_full_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"params\.yaml: seed: missing$"):
        load(tmp_path, REAL.replace("\nseed: 0 ", "\n#", 1))
