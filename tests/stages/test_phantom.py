"""The stage phantom: it writes the data set into an empty folder and never into one that holds files."""

from pathlib import Path

import pytest

from stages import phantom
from tumorboard.base.errors import InputError
from tumorboard.base.params import Params
from tumorboard.data.phantom import draw_phantom


def test_the_stage_writes_every_picture(params: Params, tmp_path: Path) -> None:
    few = params.model_copy(update={"phantom": params.phantom.model_copy(update={"images": 40, "patients": 10})})
    (tmp_path / "out").mkdir()
    phantom.main(few, out=tmp_path / "out")
    written = {
        path.relative_to(tmp_path / "out").as_posix(): path.read_bytes()
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    }
    assert written == dict(draw_phantom(few.phantom, few.seed))


def test_a_folder_with_files_is_refused_and_kept(params: Params, tmp_path: Path) -> None:
    (tmp_path / "mine.png").write_bytes(b"x")
    with pytest.raises(InputError, match=r"holds files already; delete them first"):
        phantom.main(params, out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.png"]
