"""The command `serve`: a process that tells its address, answers, and ends cleanly at Ctrl-C."""

import os
import re
import signal
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.commands.serving import make_study, picture
from tests.warm_python import executable
from tumorboard.base.params import Params


def test_the_command_states_its_address_answers_and_ends_at_ctrl_c(tmp_path: Path, params: Params) -> None:
    make_study(tmp_path, params)
    (tmp_path / "tmp").mkdir()
    models = [word for name in ("linear", "cnn") for word in ("--model", f"models/{name}/0.safetensors")]
    with subprocess.Popen(
        [executable(), "-m", "tumorboard.commands.app", "serve", "--port", "0", *models],
        cwd=tmp_path,
        env=os.environ | {"TMPDIR": str(tmp_path / "tmp"), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        address = re.fullmatch(
            r"The panel is at (http://127\.0\.0\.1:\d+/) on this machine alone; Ctrl-C ends it\.\n", line
        )
        if address is None:
            process.kill()
            pytest.fail(f"{line}{process.stderr.read() if process.stderr else ''}")
        for name, content in (("a.png", picture(1)), ("b.txt", b"no picture")):
            url = f"{address[1]}api/images?name={name}"
            row = httpx.post(url, content=content, timeout=60).json()["row"]
            assert (row["path"], row["problem"] == "") == (name, name == "a.png")
        assert row["unlike"] is None, "model files alone have no statistics"
        process.send_signal(signal.SIGINT)
        printed = process.stdout.read()
        errors = process.stderr.read() if process.stderr else ""
    assert printed == "For research, not for diagnosis.\nimages classified: 1; files that could not be used: 1\n"
    assert (process.returncode, errors) == (0, "")
    assert not list((tmp_path / "tmp").iterdir())
