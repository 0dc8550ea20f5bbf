"""check_checkout: the code of another checkout is refused by name."""

from pathlib import Path

import pytest

from tumorboard.base.checkout import check_checkout
from tumorboard.base.errors import InputError

ROOT = Path(__file__).resolve().parents[2]


def test_the_own_checkout_and_a_folder_without_code_are_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    check_checkout()
    monkeypatch.chdir(tmp_path)
    check_checkout()


def test_a_link_to_the_own_checkout_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link").symlink_to(ROOT)
    monkeypatch.chdir(tmp_path / "link")
    check_checkout()


def test_another_checkout_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "src/tumorboard").mkdir(parents=True)
    (tmp_path / "src/tumorboard/__init__.py").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"running code is .*, not .*/src/tumorboard of this project") as raised:
        check_checkout()
    assert str(ROOT / "src/tumorboard") in str(raised.value)
    assert str(tmp_path / "src/tumorboard") in str(raised.value)
