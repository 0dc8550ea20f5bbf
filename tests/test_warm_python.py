"""What the programs of tests/warm_python.py and ordinary processes have in common."""

import marshal
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.warm_python import executable, search_path, warm_python

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="there is no server on this system")

TELL = """
import os, sys
print(sys.argv, __name__, os.getcwd(), os.environ.get("TOLD"), os.environ.get("OMP_NUM_THREADS"), sys.stdin.read())
print("wrong", file=sys.stderr)
if len(sys.argv) > 1:
    os.write(int(sys.argv[1]), b"passed on")
sys.exit(sys.argv[2:] and "the end" or 3)
"""


def both(folder: Path, *words: str, **settings: object) -> list[tuple[int, str, str]]:
    """Returns the status, output and errors of Python with some words, ordinary and warm."""
    results = []
    for program in (sys.executable, executable()):
        own = os.environ | {"TOLD": "yes", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [program, *words], cwd=folder, env=own, input="given", capture_output=True, text=True, **settings
        )
        results.append((done.returncode, done.stdout, done.stderr))
    return results


@pytest.mark.parametrize("words", [["-c", TELL], ["tell.py"], ["-m", "package.tell"], ["-u", "-B", "tell.py"]])
def test_words_folder_environment_files_and_status_are_those_of_an_ordinary_process(
    tmp_path: Path, words: list[str]
) -> None:
    (tmp_path / "package").mkdir()
    for file in (tmp_path / "tell.py", tmp_path / "package/tell.py"):
        file.write_text(TELL)
    reading, writing = os.pipe()
    for more in ([], [str(writing), "more"]):
        ordinary, warm = both(tmp_path, *words, *more, pass_fds=[writing])
        assert warm == ordinary
        assert ordinary[0] == (1 if more else 3)
    assert os.read(reading, 100) == b"passed on" * 2
    os.close(reading)
    os.close(writing)


def test_an_error_has_its_traceback_and_a_missing_module_its_message(tmp_path: Path) -> None:
    ordinary, warm = both(tmp_path, "-c", "1 / 0")
    assert (warm[0], warm[2].splitlines()[-1]) == (1, ordinary[2].splitlines()[-1])
    ordinary, warm = both(tmp_path, "-m", "no_such_module")
    assert (warm[0], warm[2].split(": ")[1]) == (1, ordinary[2].split(": ")[1])


WAIT = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
print(os.getpid(), flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 7), (signal.SIGINT, -2), (signal.SIGKILL, -9)])
def test_a_signal_to_the_program_reaches_the_command(number: int, status: int) -> None:
    with subprocess.Popen([executable(), "-c", WAIT], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        command = int(process.stdout.readline())
        process.send_signal(number)
        assert process.wait(30) == status
    deadline = time.monotonic() + 30
    while Path(f"/proc/{command}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT])
def test_a_command_that_a_signal_ends_ends_its_program_so(tmp_path: Path, number: int) -> None:
    ordinary, warm = both(tmp_path, "-c", f"import os; os.kill(os.getpid(), {int(number)})")
    assert warm[0] == ordinary[0] == -number


def test_streams_may_be_replaced_and_have_the_encoding_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii:replace")
    code = (
        "import io, sys; print('caf\xe9', flush=True); sys.stdout = io.TextIOWrapper(sys.stdout.detach()); print('end')"
    )
    ordinary, warm = both(tmp_path, "-c", code)
    assert warm[:2] == ordinary[:2] == (0, "caf?\nend\n")


def test_the_projects_modules_are_imported_anew(tmp_path: Path) -> None:
    code = (
        "import sys; print(sorted(name for name in sys.modules if name.startswith(('tumorboard', 'stages', 'tests'))))"
    )
    done = subprocess.run([executable(), "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_dvc_is_on_the_path_and_so_is_what_is_no_warm_program() -> None:
    server = warm_python()
    assert server is not None
    first, second = search_path().split(os.pathsep)[:2]
    assert (first, second) == (str(server.programs), str(Path(sys.executable).parent))
    done = subprocess.run(
        ["dvc", "--version"], env=os.environ | {"PATH": search_path()}, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert done.stdout[0].isdigit()


def test_dvc_reads_yaml_as_an_ordinary_one_does_also_again_and_after_a_change(tmp_path: Path) -> None:
    code = "from dvc.utils import strictyaml; from dvc.utils.serialize import load_yaml; "
    code += "print(load_yaml('a.yaml'), strictyaml.load('a.yaml')[0])"
    for text in ("a: {b: [1, 1e-3, 010, yes, null, '2']}\n", "a: 2026-01-02\n", "a: &x [1]\nb: *x\n"):
        (tmp_path / "a.yaml").write_text(text, encoding="utf-8")
        ordinary, warm = both(tmp_path, "-c", code)
        assert ordinary[0] == 0, ordinary
        assert warm == ordinary
        again = subprocess.run([executable(), "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert again.stdout == ordinary[1]
    (tmp_path / "a.yaml").write_text("a: [", encoding="utf-8")
    ordinary, warm = both(tmp_path, "-c", code)
    assert (warm[0], warm[2].splitlines()[-1]) == (1, ordinary[2].splitlines()[-1])


@pytest.mark.parametrize("sent", [b"", b".", b"." + marshal.dumps((["-c", "1"], [], ".", {}))[:-9]])
def test_a_client_that_is_killed_before_it_has_sent_all_leaves_the_server_to_the_others(sent: bytes) -> None:
    address = Path(executable()).parents[1] / "socket"
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(address))
        client.sendall(sent)
    assert subprocess.run([executable(), "-c", "print('there')"], capture_output=True, text=True).stdout == "there\n"
