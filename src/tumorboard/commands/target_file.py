"""Checks that a command may write the file that it is asked for, before it computes anything."""

from pathlib import Path

from tumorboard.base.errors import InputError, printable
from tumorboard.panel.predict import check_writable


def check_target(out: Path, force: bool, option: str = "") -> None:
    """Raises InputError where a file cannot be written, or would replace another one without --force.

    Args:
        out: the file.
        force: whether it may replace an ordinary file.
        option: the option that names the file, for the message.
    """
    check_writable(out)
    name = f"{option} {printable(str(out))}".strip()
    if out.exists() and not out.is_file():
        raise InputError(f"{name}: is no ordinary file: name another one")
    if out.exists() and not force:
        raise InputError(f"{name}: exists: name another file, or replace it with --force")
