"""run_stage: options from the command line, and how a stage ends on an error."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from tumorboard.base.errors import InputError
from tumorboard.base.params import Params
from tumorboard.base.stage import Input, Output, run_stage

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["stages/split.py"])


def test_a_stage_gets_params_and_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []

    def stage(params: Params, *, fold: int, audit_metrics: Path, model: str) -> None:
        seen.extend((type(params), fold, audit_metrics, model))

    monkeypatch.setattr("sys.argv", ["split.py", "--model", "cnn", "--audit-metrics", "a b.json", "--fold=2"])
    run_stage(stage)
    assert seen == [Params, 2, Path("a b.json"), "cnn"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "the following arguments are required: --fold"),
        (["--fold", "one"], "argument --fold: invalid int value: 'one'"),
        (["--fold", "1", "--model", "cnn"], "unrecognized arguments: --model cnn"),
        (["--fol", "1"], "the following arguments are required: --fold"),
    ],
)
def test_wrong_options_are_named(
    words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stage(_: Params, *, fold: int) -> None:
        raise AssertionError(fold)

    monkeypatch.setattr("sys.argv", ["split.py", *words])
    with pytest.raises(SystemExit) as end:
        run_stage(stage)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_help_is_the_docstring_and_lists_the_options(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stage(_: Params, *, fold: int) -> None:
        """Splits the images."""

    monkeypatch.setattr("sys.argv", ["split.py", "--help"])
    with pytest.raises(SystemExit) as end:
        run_stage(stage)
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert "usage: python -m stages.split [-h] --fold INT" in text
    assert "Splits the images." in text


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
    def stage(_: Params) -> None:
        raise error

    with pytest.raises(SystemExit) as end:
        run_stage(stage)
    assert end.value.code == 1
    assert capsys.readouterr().err == f"\nsplit: {message}\n"


def test_a_fault_of_the_program_keeps_its_traceback() -> None:
    def stage(_: Params) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file", "forgotten.csv")

    with pytest.raises(FileNotFoundError):
        run_stage(stage)


def test_an_interrupt_is_one_line_and_status_130(capsys: pytest.CaptureFixture[str]) -> None:
    def stage(_: Params) -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as end:
        run_stage(stage)
    assert end.value.code == 130
    assert capsys.readouterr().err == "\nsplit: interrupted\n"


def test_too_little_memory_is_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    def stage(_: Params) -> None:
        raise MemoryError("Unable to allocate 9 GiB")

    with pytest.raises(SystemExit) as end:
        run_stage(stage)
    assert end.value.code == 1
    assert "split: out of memory (Unable to allocate 9 GiB)" in capsys.readouterr().err


@pytest.mark.parametrize("changed", ["input", "params", "further"])
def test_a_stage_whose_input_changes_while_it_runs_fails_and_leaves_no_output(
    changed: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("in.csv", "more.csv"):
        Path(name).write_text("old")
    text = Path("params.yaml").read_text(encoding="utf-8")

    def stage(_: Params, *, source: Input, out: Output, metrics: Output) -> None:
        (out / "store").mkdir(parents=True)
        (out / "store" / "shard.npy").touch()
        metrics.write_text("{}")
        if changed == "params":
            Path("params.yaml").write_text(text.replace("\n  side: ", "\n  side: 32 ", 1), encoding="utf-8")
        else:
            Path("in.csv" if changed == "input" else "more.csv").write_text("new one")
        assert source.is_file()

    monkeypatch.setattr("sys.argv", ["crop.py", "--source", "in.csv", "--out", "made", "--metrics", "made.json"])
    with pytest.raises(SystemExit) as end:
        run_stage(stage, lambda *_: [Path("more.csv")])
    assert end.value.code == 1
    assert not Path("made").exists()
    assert not Path("made.json").exists()
    named = {
        "input": "in.csv was changed",
        "further": "more.csv was changed",
        "params": "crop.side was None and is 32",
    }[changed]
    assert named in capsys.readouterr().err
