"""Checks that a command may write the file that it is asked for, before it computes anything."""

from collections.abc import Sequence
from pathlib import Path

from tumorboard.base.errors import InputError, printable
from tumorboard.panel.predict import check_writable


def check_target(out: Path, force: bool, option: str = "", *, inputs: Sequence[Path]) -> None:
    """Raises InputError where a file cannot be written, would replace one that is read, or another without --force.

    Args:
        out: the file.
        force: whether it may replace an ordinary file.
        option: the option that names the file, for the message.
        inputs: the files that the command reads; some need not exist.
    """
    check_writable(out)
    name = f"{option} {printable(str(out))}".strip()
    if out.exists() and any(file.exists() and file.samefile(out) for file in inputs):
        raise InputError(f"{name}: is a file that this command reads: name another one")
    if out.is_symlink():  # such as /dev/stdout
        raise InputError(f"{name}: is a link, which the file would replace: name another one")
    if out.exists() and not out.is_file():
        raise InputError(f"{name}: is no ordinary file: name another one")
    if out.exists() and not force:
        raise InputError(f"{name}: exists: name another file, or replace it with --force")
