"""Raw folders of files that nothing decodes, and the message with which one is refused."""

from pathlib import Path

import pytest

from tests.data.cropping import data_section
from tumorboard.base.data_params import Data
from tumorboard.base.errors import InputError
from tumorboard.data.sources import list_images


def touch(raw: Path, *paths: str) -> None:
    """Writes a file of one byte per path."""
    for path in paths:
        (raw / path).parent.mkdir(parents=True, exist_ok=True)
        (raw / path).write_bytes(b"x")


def refusal(raw: Path, data: Data | None = None) -> str:
    """Returns the message with which `list_images` refuses a folder."""
    with pytest.raises(InputError) as caught:
        list_images(raw, data or data_section())
    return str(caught.value)
