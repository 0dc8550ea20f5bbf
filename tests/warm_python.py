"""A Python that has imported the large libraries already, for commands that tests run again and again.

Half of a stage's time on small data is the import of torch, timm and scikit-learn. A server imports them once. Programs
named `python`, `dvc` and `tumorboard`, in a folder for PATH, send their command to it. The server forks, and its child
runs the command as Python does: with the same folder, environment, open files and, at its end, exit status. Each child
imports the project's own modules anew. `sys.executable` and the children of `multiprocessing` are such programs too.
The processes of pytest-xdist share one server. DVC's reader of YAML remembers what it has read.

What this cannot show is a module that uses a library which it has not imported itself. So the first run of the pipeline
(`finished` in tests/conftest.py) is one by ordinary processes, and so is whatever a signal ends or a limit of the
system stops: a child is in the server's session and has its limits.
"""

import atexit
import fcntl
import functools
import gc
import hashlib
import importlib
import marshal
import multiprocessing
import os
import runpy
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:  # the server does without
    import pytest

LIBRARIES = (
    *("torch", "torchvision", "timm", "sklearn.metrics", "scipy.stats", "pandas", "matplotlib.pyplot", "cv2"),
    *("PIL.Image", "pydantic", "typer", "jinja2", "dvclive", "torch.distributed.run", "multiprocessing.spawn"),
    *("dvc.cli", "dvc.repo.reproduce", "dvc.repo.experiments", "dvc.stage.cache"),
)
PROGRAMS: dict[str, list[str]] = {"python": [], "dvc": ["-m", "dvc"], "tumorboard": ["-m", "tumorboard.commands.app"]}
FIRST_SPARE = 200  # above the numbers of all files that a command inherits
# Starts without site-packages, in hundredths of a second. A command with other options of Python is an ordinary one.
CLIENT = """#!{python} -IS
import marshal, os, select, signal, socket, sys
words = {words} + sys.argv[1:]
names = {{"-B": "PYTHONDONTWRITEBYTECODE", "-s": "PYTHONNOUSERSITE", "-u": "PYTHONUNBUFFERED"}}
while words and words[0] in names:  # as multiprocessing and torchrun have them
    os.environ[names[words.pop(0)]] = "1"
if not words or (words[0][0] == "-" and words[0] not in ("-m", "-c")):
    os.execv({python!r}, [{python!r}, *words])
files = []
for number in range({limit}):
    try:
        files += [number] * os.get_inheritable(number)
    except OSError:  # there is none of this number
        pass
passed_on = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
signal.pthread_sigmask(signal.SIG_BLOCK, passed_on)  # until it is known to whom: the command may be running already
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    socket.send_fds(server, [b"."], files)
    server.sendall(marshal.dumps((words, files, os.getcwd(), dict(os.environ))))
    reply = server.makefile("rb", 0)
    process = int(reply.readline())
    for number in passed_on:
        signal.signal(number, lambda number, _: os.kill(process, number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, passed_on)
    while not select.select([server], [], [], 0.2)[0]:
        pass  # a signal that came just before the wait has its turn
    status = int(reply.readline())
if status < 0:
    if status != -signal.SIGKILL:
        signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
sys.exit(status)
"""


class WarmPython:
    """The folder of PROGRAMS, and the server, which is started unless another process has started it.

    Args:
        folder: for the programs and the socket; its path is short, since a socket's has at most 107 bytes.
        owner: the process at whose end the server deletes the folder and ends.
    """

    def __init__(self, folder: Path, owner: int) -> None:
        self.programs = folder / "bin"
        folder.mkdir(exist_ok=True)
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (folder / "socket").exists():
                self._start(folder, owner)

    def _start(self, folder: Path, owner: int) -> None:
        self.programs.mkdir()
        address = str(folder / "socket")
        settings = {"python": sys.executable, "address": address, "limit": FIRST_SPARE}
        for name, words in PROGRAMS.items():
            program = self.programs / name
            program.write_text(CLIENT.format(**settings, words=words), encoding="utf-8")
            program.chmod(0o755)
        server = subprocess.Popen(
            [sys.executable, __file__, address, self.programs / "python", str(owner)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n", "the server of tests/warm_python.py ended"

    @property
    def executable(self) -> str:
        return str(self.programs / "python")


@functools.cache
def warm_python() -> WarmPython | None:
    """Returns the server of this process, which the first call starts; None where the system lacks what it needs."""
    if not hasattr(os, "pidfd_open"):
        return None
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    if run:
        return WarmPython(Path(tempfile.gettempdir(), f"warm-{run[:12]}"), os.getppid())
    return WarmPython(Path(tempfile.mkdtemp(prefix="warm-")), os.getpid())


def search_path() -> str:
    """Returns PATH with PROGRAMS in front."""
    warm = warm_python()
    return os.pathsep.join(
        [*([str(warm.programs)] if warm else []), str(Path(sys.executable).parent), os.environ["PATH"]]
    )


def spawn_warm_children(monkeypatch: "pytest.MonkeyPatch") -> None:
    """Makes the children that `multiprocessing` spawns forks of the server.

    Not for children that are killed: their program is waited for, but they themselves end a moment later.
    """
    monkeypatch.setattr("multiprocessing.spawn._python_exe", os.fsencode(executable()))


def executable() -> str:
    """Returns the program to use in the place of `sys.executable`."""
    warm = warm_python()
    return warm.executable if warm else sys.executable


def serve(address: str, owner: int) -> list[str]:
    """Answers clients until its owner ends; a fork returns the words of its command."""
    watched = os.pidfd_open(owner)
    with socket.socket(socket.AF_UNIX) as listener, selectors.DefaultSelector() as selector:
        listener.bind(address)
        listener.listen(64)
        selector.register(listener, selectors.EVENT_READ)
        selector.register(watched, selectors.EVENT_READ)
        print("ready", flush=True)
        while True:
            for key, _ in selector.select()[:1]:  # the first event may end the second one's process
                if key.fd == watched:
                    shutil.rmtree(Path(address).parent, ignore_errors=True)
                    sys.exit()
                if key.fileobj is listener:
                    client, _ = listener.accept()
                    try:
                        received, command = receive(client)
                    except (EOFError, OSError, TypeError, ValueError):  # the client was killed before it had sent all
                        client.close()
                        continue
                    process = os.fork()
                    if not process:
                        for opened in (selector, listener, client):
                            opened.close()
                        os.close(watched)
                        return become(received, *command)
                    for file in received:
                        os.close(file)
                    with suppress(OSError):
                        client.sendall(b"%d\n" % process)
                    selector.register(os.pidfd_open(process), selectors.EVENT_READ, (process, client))
                    selector.register(client, selectors.EVENT_READ, (process, None))
                elif key.data[1] is None:  # the client was killed
                    selector.unregister(key.fileobj)
                    os.kill(key.data[0], signal.SIGKILL)
                else:
                    finish(selector, key.fd, *key.data)


def receive(client: socket.socket) -> tuple[list[int], Any]:
    """Returns a command's open files, by our numbers; and its words, its own numbers of them, folder, environment.

    Raises:
        EOFError, OSError, TypeError, ValueError: the client ended before it had sent all.
    """
    _, files, _, _ = socket.recv_fds(client, 1, FIRST_SPARE)
    try:
        with client.makefile("rb") as stream:
            return files, marshal.load(stream)  # noqa: S302  # of our own client
    except BaseException:
        for file in files:
            os.close(file)
        raise


def finish(selector: selectors.BaseSelector, handle: int, process: int, client: socket.socket) -> None:
    """Tells a client how its process has ended: its status, or minus the number of a signal."""
    _, status = os.waitpid(process, 0)
    selector.unregister(handle)
    os.close(handle)
    if client.fileno() in selector.get_map():
        selector.unregister(client)
        with suppress(OSError):  # the client was killed
            client.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
    client.close()


def become(
    files: list[int], words: list[str], numbers: list[int], folder: str, environment: dict[str, str]
) -> list[str]:
    """Makes this fork what an interpreter is that was started with these files, by their numbers, and settings."""
    spare = [fcntl.fcntl(file, fcntl.F_DUPFD, FIRST_SPARE) for file in files]
    os.closerange(3, FIRST_SPARE)
    for number, file in zip(numbers, spare, strict=True):
        os.dup2(file, number)
        os.close(file)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    encoding, _, errors = environment.get("PYTHONIOENCODING", "").partition(":")
    if encoding:
        # The server's streams could seek; pipes that took their place cannot, so that all are opened anew.
        sys.stdin = os.fdopen(0, encoding=encoding, errors=errors or "strict", closefd=False)
        sys.stdout = os.fdopen(1, "w", encoding=encoding, errors=errors or "strict", closefd=False)
        sys.stderr = os.fdopen(2, "w", 1, encoding=encoding, errors="backslashreplace", closefd=False)
    if environment.get("PYTHONUNBUFFERED"):
        sys.stdout.reconfigure(write_through=True)  # type: ignore[union-attr]
    sys.dont_write_bytecode = bool(environment.get("PYTHONDONTWRITEBYTECODE"))
    sys.path[:0] = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    threads = environment.get("OMP_NUM_THREADS", "")
    importlib.import_module("torch").set_num_threads(int(threads) if threads else len(os.sched_getaffinity(0)))
    return words


def run(words: list[str]) -> NoReturn:
    """Runs a command of Python and ends as the interpreter does, except that it frees no memory first."""
    sys.modules["__main__"] = main = ModuleType("__main__")
    main.__dict__["__builtins__"] = __builtins__
    sys.orig_argv[:] = [sys.executable, *words]
    status = 0
    try:
        if words[0] == "-m":
            sys.path.insert(0, str(Path.cwd()))
            sys.argv[:] = words[1:]
            as_main: Any = runpy._run_module_as_main  # type: ignore[attr-defined]
            as_main(words[1])
        else:
            is_file = words[0] != "-c"
            sys.path.insert(0, str(Path(words[0]).resolve().parent) if is_file else "")
            sys.argv[:] = words if is_file else ["-c", *words[2:]]
            if is_file:
                main.__file__ = words[0]
            text = Path(words[0]).read_text(encoding="utf-8") if is_file else words[1]
            exec(compile(text, words[0] if is_file else "<string>", "exec"), main.__dict__)  # noqa: S102
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if end.code is not None and not isinstance(end.code, int):
            print(end.code, file=sys.stderr)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        status = -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(ValueError):  # it was closed, or another one took its buffer
            stream.flush()
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status & 255)


def remember_yaml(folder: Path) -> None:
    """Keeps what DVC reads from YAML, by the text: it parses params.yaml, in slow Python, several times per stage.

    What is read in order to be changed, with its comments, is parsed each time.

    Args:
        folder: for the parsed files.
    """
    names = ("dvc.utils.serialize._yaml", "dvc.utils.serialize", "dvc.utils.strictyaml")
    modules: list[Any] = [importlib.import_module(name) for name in names]
    parse = modules[0].parse_yaml

    def parse_yaml(text: str, path: str, typ: str = "safe") -> Any:
        file = folder / f"{hashlib.sha256(text.encode()).hexdigest()}.yaml"
        if typ == "safe" and file.exists():
            return marshal.loads(file.read_bytes())  # noqa: S302  # of our own
        tree = parse(text, path, typ)
        if typ == "safe":
            with suppress(ValueError):  # a date, which marshal does not know
                own = file.with_suffix(f".{os.getpid()}")
                own.write_bytes(marshal.dumps(tree))
                own.rename(file)
        return tree

    for module in modules:
        module.parse_yaml = parse_yaml


def main() -> NoReturn:
    _, address, python, owner = sys.argv
    sys.path.pop(0)  # the folder of this file
    os.environ.pop("PYTHONPATH", None)
    for library in LIBRARIES:
        importlib.import_module(library)
    remember_yaml(Path(address).parent)
    sys.executable = python
    multiprocessing.set_executable(python)
    gc.collect()
    gc.freeze()  # so that a child's collections leave the shared memory alone
    run(serve(address, int(owner)))


if __name__ == "__main__":
    main()
