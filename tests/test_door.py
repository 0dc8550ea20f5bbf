"""How a stage ends: a user's mistake, a machine that lacks something, a mistake of ours."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from tumorboard.door import run
from tumorboard.errors import InputError
from tumorboard.params import Params

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["stages/split.py", "a", "b"])


def test_a_stage_gets_params_and_arguments() -> None:
    found = []
    run(lambda params, *words: found.append((type(params), words)))
    assert found == [(Params, ("a", "b"))]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (InputError("labels.csv, line 3: no label"), "labels.csv, line 3: no label"),
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "models/x"),
            "[Errno 28] No space left on device: 'models/x'",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "metrics"), "[Errno 13] Permission denied: 'metrics'"),
    ],
)
def test_what_a_user_can_mend_is_one_message(
    error: Exception, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def stage(*_: object) -> None:
        raise error

    with pytest.raises(SystemExit) as end:
        run(stage)
    assert end.value.code == 1
    assert capsys.readouterr().err == f"\nsplit: {message}\n"


def test_a_mistake_of_ours_keeps_its_traceback() -> None:
    def stage(*_: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file", "forgotten.csv")

    with pytest.raises(FileNotFoundError):
        run(stage)
