"""The stage crop: what it writes, and the line that it prints, which `tumorboard check` does not."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages import crop
from tumorboard.base.errors import InputError
from tumorboard.base.params import Params
from tumorboard.data.check import check_folder
from tumorboard.data.store import CropStore


@pytest.fixture
def project(tmp_path: Path, params: Params, monkeypatch: pytest.MonkeyPatch) -> Params:
    """Params of a project in the current folder whose raw images are two files per class, two of them equal."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    for number, path in enumerate(["a/0.png", "a/1.png", "b/0.png"]):
        (tmp_path / "raw" / path).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "raw" / path)
    (tmp_path / "raw/b/1.png").write_bytes((tmp_path / "raw/b/0.png").read_bytes())
    data = params.data.model_copy(update={"raw": "raw", "group_pattern": None})
    return params.model_copy(update={"study": "Mine", "data": data})


def test_the_stage_writes_the_outs_and_prints_what_it_decoded(
    project: Params, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for decoded in (3, 0):
        crop.main(project, out=tmp_path / "out", metrics=tmp_path / "metrics/crop.json")
        output = capsys.readouterr()
        assert output.out == ""
        assert output.err == f"crop: 4 files, {decoded} decoded, {4 - decoded} from the crop cache\n"
    assert json.loads((tmp_path / "metrics/crop.json").read_text()) == {
        "images": 4,
        "classes": {"a": 2, "b": 2},
        "groups": 4,
        "quarantined": 0,
        "ignored": 0,
        "equal_files": 1,
        "equal_pixels": 1,
        "own_range": 0,
        "decoder_warnings": 0,
    }
    assert CropStore(tmp_path / "out/store").ids == ["a/0.png", "a/1.png", "b/0.png", "b/1.png"]
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"manifest.csv", "images.csv", "attributes.csv", "quarantined.csv", "ignored.csv", "store"}
    assert list((tmp_path / ".cache/crops").rglob("*.pack"))


def test_values_left_over_from_the_embedded_data_set_are_reported(
    project: Params, params: Params, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    crop.main(project.model_copy(update={"study": params.study}), out=tmp_path / "out", metrics=tmp_path / "crop.json")
    assert "Warning: study is still that of the embedded data set, and preset is cells: name" in capsys.readouterr().err


def test_a_check_of_the_same_folder_prints_nothing(project: Params, capfd: pytest.CaptureFixture[str]) -> None:
    account = check_folder(Path("raw"), project)
    assert account.accepted == ["a/0.png", "a/1.png", "b/0.png", "b/1.png"]
    assert capfd.readouterr() == ("", "")


def test_the_stage_warns_of_a_folder_that_a_queued_experiment_lacks(
    project: Params, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / ".dvc").mkdir()
    git = ("git", "-c", "user.name=t", "-c", "user.email=t@localhost")
    for command in (("init", "--quiet"), ("commit", "--quiet", "--allow-empty", "-m", "begin")):
        subprocess.run([*git, *command], check=True)
    crop.main(project, out=tmp_path / "out", metrics=tmp_path / "crop.json")
    assert "Warning: 'raw' is not known to git" in capsys.readouterr().err
    (tmp_path / "raw.dvc").touch()
    subprocess.run([*git, "add", "raw.dvc"], check=True)
    subprocess.run([*git, "commit", "--quiet", "-m", "data"], check=True)
    crop.main(project, out=tmp_path / "out", metrics=tmp_path / "crop.json")
    assert "Warning" not in capsys.readouterr().err


def test_a_missing_folder_that_dvc_tracks_is_told_with_the_command(project: Params, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "raw")
    (tmp_path / "raw.dvc").touch()
    with pytest.raises(InputError, match=r"there is no 'raw': 'raw\.dvc' tracks it: `dvc checkout raw\.dvc`"):
        crop.main(project, out=tmp_path / "out", metrics=tmp_path / "crop.json")
