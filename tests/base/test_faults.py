"""explain_fault and reported_errors: what is the machine's fault, its cause and its cure, and how a program ends."""

import errno
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tumorboard.base.errors import InputError
from tumorboard.base.faults import (
    MIN_ADDRESS_SPACE,
    explain_environment,
    explain_fault,
    is_shortage,
    reported_errors,
)

ROOT = Path(__file__).resolve().parents[2]


def raised_by(work: Callable[[], object]) -> BaseException:
    try:
        work()
    except BaseException as error:
        return error
    raise AssertionError("no error")


def chained() -> None:
    try:
        raise OSError(errno.EMFILE, "Too many open files", "torch/lib/a.so")
    except OSError as error:
        raise ImportError("numpy cannot be imported") from error


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(lambda: np.empty(1 << 50, np.uint8), id="numpy"),
        pytest.param(lambda: torch.empty(1 << 50, dtype=torch.uint8), id="torch"),
        pytest.param(lambda: cv2.copyMakeBorder(np.zeros((1, 1)), 0, 1 << 30, 0, 1 << 20, 0), id="OpenCV"),
        pytest.param(lambda: bytearray(1 << 50), id="Python"),
    ],
)
def test_too_little_memory_is_one_line_by_whichever_library_it_is_told(error: Callable[[], object]) -> None:
    found = raised_by(error)
    assert is_shortage(found)
    message = explain_fault(found)
    assert message is not None
    assert message.startswith("out of memory")
    assert message.endswith("free some, or lower runtime.workers, runtime.processes or batch_size")
    assert "\n" not in message


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("can't start new thread"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        MemoryError(),
    ],
)
def test_the_system_s_own_errors_of_memory(error: BaseException) -> None:
    assert (explain_fault(error) or "").startswith("out of memory")


def test_too_many_files_names_the_limit_and_its_command() -> None:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    for error in (OSError(errno.EMFILE, "Too many open files"), raised_by(chained)):
        message = explain_fault(error)
        assert message is not None
        assert f"this process may have {limit} files open (`ulimit -n`): raise it (`ulimit -n 4096`)" in message


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.ENAMETOOLONG])
def test_a_file_that_cannot_be_written_brings_the_findings_of_doctor(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    error = OSError(number, os.strerror(number), "models/cnn/0.safetensors")
    assert explain_fault(error) == str(error)  # nothing is wrong with these disks
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1 << 40, 1 << 40, 1 << 29))
    lines = (explain_fault(error) or "").splitlines()
    assert lines[:3] == [
        str(error),
        f"disk: 0.5 GiB are free on the disk of {tmp_path} (where it was written)",
        "  cure: dvc gc --all-commits",
    ]
    assert any("(temporary files)" in line for line in lines)
    assert "  cure: export TMPDIR=/another/folder" in lines


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "access", lambda path, _: Path(path).name != "models")
    error = PermissionError(errno.EACCES, "Permission denied", "models/0.safetensors")
    folder = tmp_path / "models"
    assert (explain_fault(error) or "").splitlines()[1:] == [
        f"disk: {folder} (where it was written) cannot be written",
        f"  cure: ls -ld {folder}",
    ]


def test_a_missing_or_damaged_package_is_one_line_with_the_environment_s_cure(tmp_path: Path) -> None:
    program = "from tumorboard.base.faults import report_uncaught_faults\nreport_uncaught_faults('train')\n"
    for line, words in (
        ("import no_such_package.part", f"{sys.executable} has no package no_such_package: make the environment"),
        (
            "raise ImportError('libcudart.so.12: cannot open shared object file', name='torch._C')",
            "is damaged (libcudart.so.12: cannot open shared object file): make the environment (`rm -r .venv && make",
        ),
    ):
        done = subprocess.run(
            [sys.executable, "-c", program + line],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 1
        assert len(done.stderr.strip().splitlines()) == 1
        assert done.stderr.startswith("\ntrain: ")
        assert words in done.stderr


@pytest.mark.parametrize(
    "error",
    [
        ModuleNotFoundError("No module named 'tumorboard.gone'", name="tumorboard.gone"),
        ImportError("cannot import name 'a' from 'torch'", name="torch"),
        ValueError("undefined symbol"),
    ],
)
def test_a_fault_of_the_program_s_imports_is_none_of_the_environment(error: Exception) -> None:
    assert explain_environment(error) is None


@pytest.mark.parametrize(
    "error",
    [
        ValueError("not enough memory cards"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        cv2.error("OpenCV(5): error: (-215:Assertion failed) !_src.empty()"),
        FileNotFoundError(errno.ENOENT, "No such file", "forgotten.csv"),
        ImportError("cannot import name 'a'"),
    ],
)
def test_a_fault_of_the_program_is_none_of_the_machine_and_keeps_its_traceback(error: Exception) -> None:
    assert explain_fault(error) is None
    with pytest.raises(type(error)), reported_errors("crop"):
        raise error


@pytest.mark.parametrize("error", [InputError("labels.csv: no label"), MemoryError("9 GiB")])
def test_a_message_ends_the_program_with_status_1(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end, reported_errors("crop", before=""):
        raise error
    assert end.value.code == 1
    assert capsys.readouterr().err.startswith(f"crop: {'labels.csv: no label' if 'label' in str(error) else 'out of'}")


def limited(kind: int, limit: int, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs Python with a limit of the system."""
    return subprocess.run(
        [sys.executable, *words],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}"},
        preexec_fn=lambda: resource.setrlimit(kind, (limit, limit)),
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_stage_that_cannot_load_its_libraries_says_so_in_one_line(tmp_path: Path) -> None:
    """It fails while it imports, before it runs; with 500 MiB OpenBLAS would wait forever."""
    stage = ("-m", "stages.crop", "--out", "out", "--metrics", "m.json")
    for kind, limit, words in (
        (resource.RLIMIT_AS, 500 << 20, f"may have 500 MiB (`ulimit -v`): raise it to {MIN_ADDRESS_SPACE >> 20} MiB"),
        (resource.RLIMIT_NOFILE, 5, "this process may have 5 files open (`ulimit -n`): raise it"),
    ):
        done = limited(kind, limit, *stage, cwd=tmp_path)
        assert done.returncode == 1
        assert len(done.stderr.strip().splitlines()) == 1
        assert done.stderr.startswith("\ncrop: ")
        assert words in done.stderr
