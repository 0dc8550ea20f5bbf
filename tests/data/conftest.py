"""Fixtures of several test files: a folder of images to crop."""

from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.data.cropping import Pixels, picture, save
from tumorboard.base.params import Crop, Params
from tumorboard.images import crop as images


@pytest.fixture(scope="session")
def params(params: Params) -> Params:
    """The tests' params for any classes: none of them is to be detected."""
    return params.model_copy(update={"data": params.data.model_copy(update={"positive": None})})


@pytest.fixture
def crop(params: Params) -> Crop:
    """Crops of 24 pixels that keep the border."""
    return params.crop.model_copy(update={"side": 24, "border": False})


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Five files in a, six in b; b/again.png repeats a file of a, and b/resaved.bmp the picture of another one."""
    folder = tmp_path / "raw"
    for number in range(4):
        save(folder / f"a/P{number}, é {number}.png", picture(number, 40 + number))
        save(folder / f"b/-{number}.png", picture(10 + number))
    save(folder / "a/turned\nname.png", picture(99, 31, 24))
    (folder / "b/again.png").write_bytes((folder / "a/P0, é 0.png").read_bytes())
    save(folder / "b/resaved.bmp", picture(1, 41))
    return folder


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The SHA-256 of every file content that is decoded."""
    seen: list[str] = []
    decode = images.decode

    def counting(content: bytes, *limits: Any) -> tuple[Pixels, images.Header]:
        seen.append(sha256(content).hexdigest())
        return decode(content, *limits)

    monkeypatch.setattr(images, "decode", counting)
    return seen
