"""Finds the locks and the queued experiments that a killed process left behind."""

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from tumorboard.base.findings import FIX, Finding
from tumorboard.base.versioning import run_git

RWLOCKS = (".dvc/tmp/rwlock", ".dvc/tmp/exps/rwlock")
RUNS = ".dvc/tmp/exps/run"  # one folder per started experiment of the queue; <revision>.json has its process
WRITING_SECONDS = 0.3  # longer than DVC takes to write its lock file anew
FRESH_SECONDS = 60.0  # a younger lock file of git may belong to a command that runs


def check_locks(project: Path) -> list[Finding]:
    """Checks the lock files of DVC and git."""
    findings = [finding for name in RWLOCKS if (finding := _check_rwlock(project, name))]
    findings += [finding for finding in [_check_git_lock(project)] if finding]
    return findings or [Finding("locks", "ok", "no stale lock")]


def works_now(project: Path) -> bool:
    """Returns whether a command of DVC works in a project, whose outputs may thus be half-written."""
    holders = _read_holders(project / RWLOCKS[0])
    return any(is_command_of_dvc(number) for number, _ in holders or ())


def _check_rwlock(project: Path, name: str) -> Finding | None:
    """Checks the file in which DVC's commands note what they read and write."""
    file = project / name
    if not file.is_file():
        return None
    holders = _read_holders(file)
    if holders is None:
        time.sleep(WRITING_SECONDS)
        holders = _read_holders(file)
    if holders is None:
        message = f"{name} is damaged ({file.stat().st_size} bytes): a kill or a power cut while DVC wrote it"
        return Finding("locks", "problem", message, f"rm {name}", lambda: _remove(file, name))
    if not holders:
        return None
    stale = [(number, command) for number, command in holders if not is_command_of_dvc(number)]
    if len(stale) < len(holders):
        number, command = next(holder for holder in holders if holder not in stale)
        message = f"another command works here: {command} (process {number})"
        return Finding("locks", "note", message, f"wait until it ends, or end it: kill {number}")
    if any(psutil.pid_exists(number) for number, _ in stale):
        number, command = next(holder for holder in stale if psutil.pid_exists(holder[0]))
        message = f"{name} waits for `{command}`, which has ended; process {number} is another program now"
        return Finding("locks", "problem", message, f"rm {name}", lambda: _remove(file, name))
    return None  # DVC itself removes the entries of processes that do not exist


def _read_holders(file: Path) -> list[tuple[int, str]] | None:
    """Returns number and command of each process that a lock file names; None if DVC could not read the file."""
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
        entries = [
            *tree.get("write", {}).values(),
            *(entry for each in tree.get("read", {}).values() for entry in each),
        ]
        return [(int(entry["pid"]), str(entry["cmd"])) for entry in entries if entry]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _check_git_lock(project: Path) -> Finding | None:
    """Checks the lock of git's index, with which git and `dvc exp run` fail.

    In a worktree and in a submodule it lies outside of the project's folder.
    """
    name = (run_git(project, "rev-parse", "--git-path", "index.lock") or ".git/index.lock").removesuffix("\n")
    file = project / name
    try:
        age = time.time() - file.stat().st_mtime
    except OSError:
        return None
    running = any(process.info["name"] == "git" for process in psutil.process_iter(["name"]))
    if age < FRESH_SECONDS or running:
        return Finding("locks", "note", f"{name} is there: a git command runs, or one was killed", "git status")
    message = f"{name} is {age / 60:.0f} minutes old, and no git command runs"
    return Finding("locks", "problem", message, f"rm {shlex.quote(name)}", lambda: _remove(file, name))


def check_queue(project: Path) -> list[Finding]:
    """Checks the started experiments of the queue: one whose process has died stays "Running" for ever."""
    findings = []
    for file, info in _unfinished_tasks(project):
        name = f"{RUNS}/{file.stem}/{file.name}"
        if info is None:
            message = f"{name} is damaged: a kill or a power cut while DVC wrote it"
            findings.append(Finding("queue", "problem", message, FIX, lambda file=file: _end_task(project, file)))  # type: ignore[misc]
        elif not is_command_of_dvc(info["pid"]):
            message = f"experiment {file.stem[:7]} is called Running, but its process {info['pid']} has ended"
            findings.append(Finding("queue", "problem", message, FIX, lambda file=file: _end_task(project, file)))  # type: ignore[misc]
    return findings or [Finding("queue", "ok", "no dead experiment")]


def _unfinished_tasks(project: Path) -> Iterator[tuple[Path, dict[str, Any] | None]]:
    """Yields the file of each experiment without an exit status, with its content; None if it cannot be read."""
    for file in sorted((project / RUNS).glob("*/*.json")):
        try:
            info = json.loads(file.read_text(encoding="utf-8"))
            if info["returncode"] is None:
                yield file, {"pid": int(info["pid"])}
        except FileNotFoundError:
            continue
        except (ValueError, TypeError, KeyError):
            yield file, None


def _end_task(project: Path, file: Path) -> str:
    """Marks an experiment as failed.

    `dvc queue kill` alone would send its signal to whatever process has the number now.
    """
    try:
        info = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        info = {"pid": 0, "stdin": None, "stdout": str(file.with_suffix(".out")), "stderr": None}
    file.write_text(json.dumps(info | {"returncode": -1}), encoding="utf-8")
    command = [sys.executable, "-m", "dvc", "queue", "kill", file.stem[:7]]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    said = "" if done.returncode == 0 else f" ({(done.stderr.strip().splitlines() or [''])[-1]})"
    return f"experiment {file.stem[:7]} is marked as failed{said}; `dvc queue remove --failed` removes it"


def is_command_of_dvc(number: int) -> bool:
    """Returns whether a process exists and runs DVC or this program."""
    with suppress(psutil.Error):
        process = psutil.Process(number)
        if process.status() != psutil.STATUS_ZOMBIE:
            return any("dvc" in word or "tumorboard" in word for word in process.cmdline())
    return False


def _remove(file: Path, name: str) -> str:
    file.unlink(missing_ok=True)
    return f"removed {name}"
