"""The command without its subcommands: what its help lists, what it imports, its version, and users' errors."""

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from tumorboard.base.errors import InputError
from tumorboard.commands import app as app_module
from tumorboard.commands.app import SUMMARIES, app, load_command
from tumorboard.commands.errors import reports_user_errors

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = tuple(SUMMARIES)


def imported_by(*arguments: str) -> set[str]:
    """The modules that a fresh process has imported when `tumorboard ARGUMENTS` has ended."""
    program = (
        "import sys\n"
        "from tumorboard.commands.app import app\n"
        "try:\n    app(sys.argv[1:])\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "print('IMPORTED', *sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=ROOT / "src", capture_output=True, text=True, check=True
    )
    return set(done.stdout.rpartition("IMPORTED")[2].split())


def test_help_imports_no_command_and_nothing_slow() -> None:
    modules = imported_by("--help")
    slow = {"torch", "torchvision", "timm", "pandas", "numpy", "sklearn", "scipy", "cv2", "PIL", "dvc", "pydantic"}
    assert modules & slow == set()
    assert {name for name in modules if name.startswith("tumorboard.")} == {
        "tumorboard.base",
        "tumorboard.base.cores",
        "tumorboard.base.errors",
        "tumorboard.base.faults",
        "tumorboard.base.interrupts",
        "tumorboard.commands",
        "tumorboard.commands.app",
    }


def test_a_command_imports_its_own_module_only() -> None:
    modules = imported_by("check", "--help")
    files = {f"tumorboard.commands.{name.replace('-', '_')}" for name in COMMANDS}
    assert modules & files == {"tumorboard.commands.check"}
    assert "torch" not in modules
    assert "torch" not in imported_by("run", "--help")


def test_help_lists_every_command_with_its_summary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    shown = CliRunner().invoke(app, ["--help"])
    assert shown.exit_code == 0
    lines = [" ".join(line.strip("│ ").split()) for line in shown.stdout.splitlines()]
    listed = [line for line in lines if line.split(" ")[0] in COMMANDS]
    assert listed == [f"{name} {summary}" for name, summary in SUMMARIES.items()]
    assert CliRunner().invoke(app, []).stdout.split() == shown.stdout.split()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_summary_is_the_first_line_of_the_commands_help(name: str) -> None:
    command = load_command(name)
    assert command.name == name
    assert command.help.splitlines()[0] == SUMMARIES[name]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_ends_with_an_example_of_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    shown = CliRunner().invoke(app, [name, "--help"])
    assert shown.exit_code == 0
    last = shown.stdout.rstrip().splitlines()[-1].strip()
    assert last.startswith(f"Example: tumorboard {name} ")
    words = last.split()[3:]
    load_command(name).make_context(name, words)  # raises where an argument or an option of the example is wrong


def test_every_module_that_defines_a_command_is_listed() -> None:
    folder = ROOT / "src/tumorboard/commands"
    defining = {file.stem for file in folder.glob("*.py") if "@app.command(" in file.read_text(encoding="utf-8")}
    assert defining == {name.replace("-", "_") for name in COMMANDS}


def test_an_unknown_command_is_a_usage_error_that_suggests() -> None:
    done = CliRunner().invoke(app, ["chekc"])
    assert done.exit_code == 2
    assert "No such command 'chekc'. Did you mean 'check'?" in done.stderr


def test_version_is_that_of_the_installed_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_module, "version", {"tumorboard": "1.2.3"}.__getitem__)
    done = CliRunner().invoke(app, ["--version"])
    assert (done.exit_code, done.stdout) == (0, "tumorboard 1.2.3\n")


def test_version_without_metadata_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(app_module, "version", missing)
    done = CliRunner().invoke(app, ["--version"])
    assert done.exit_code == 0, done.output
    assert done.stdout == "tumorboard, version unknown: the package is not installed here, so it has no metadata\n"


def test_the_module_runs_as_a_script() -> None:
    command = [sys.executable, "-m", "tumorboard.commands.app", "--version"]
    done = subprocess.run(command, cwd=ROOT / "src", capture_output=True, text=True, check=True)
    try:
        assert done.stdout == f"tumorboard {version('tumorboard')}\n"
    except PackageNotFoundError:
        assert done.stdout.startswith("tumorboard, version unknown: ")


def test_the_entry_point_is_this_app() -> None:
    assert 'tumorboard = "tumorboard.commands.app:app"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert callable(app)


def test_a_users_error_is_one_message_and_any_other_a_traceback() -> None:
    tried = typer.Typer(add_completion=False)

    @tried.command()
    @reports_user_errors
    def lr_find(kind: str) -> None:
        raise {"input": InputError("params.yaml: no such file"), "other": KeyError("a fault of the program")}[kind]

    done = CliRunner().invoke(tried, ["input"])
    assert (done.exit_code, done.stdout, done.stderr) == (1, "", "lr-find: params.yaml: no such file\n")
    assert isinstance(CliRunner().invoke(tried, ["other"]).exception, KeyError)


def test_ctrl_c_is_one_line_and_status_130() -> None:
    tried = typer.Typer(add_completion=False)

    @tried.command()
    @reports_user_errors
    def lr_find() -> None:
        raise KeyboardInterrupt

    done = CliRunner().invoke(tried, [])
    assert (done.exit_code, done.stdout, done.stderr) == (130, "", "\nlr-find: interrupted\n")


def test_the_code_of_another_checkout_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "src/tumorboard").mkdir(parents=True)
    (tmp_path / "src/tumorboard/__init__.py").touch()
    monkeypatch.chdir(tmp_path)
    tried = typer.Typer(add_completion=False)

    @tried.command()
    @reports_user_errors
    def lr_find() -> None:
        raise AssertionError

    done = CliRunner().invoke(tried, [])
    assert done.exit_code == 1
    assert done.stderr.startswith(f"lr-find: the running code is {ROOT}/src/tumorboard, not {tmp_path}/src/tumorboard")


@pytest.mark.parametrize("status", [0, 1])
def test_a_command_that_ends_with_a_status_skips_pythons_slow_end(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    ends: list[int] = []
    monkeypatch.setattr("tumorboard.commands.errors.note_end", ends.append)

    @reports_user_errors
    def doctor() -> None:
        raise typer.Exit(status)

    with pytest.raises(typer.Exit):
        doctor()
    assert ends == [status]
