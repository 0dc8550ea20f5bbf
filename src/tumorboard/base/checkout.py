"""Refuses to run the study of one checkout with the code of another, which DVC would not record."""

from pathlib import Path

import tumorboard
from tumorboard.base.errors import InputError


def check_checkout() -> None:
    """Raises InputError if the current folder is a checkout of this project and the running code is not its own."""
    here = Path("src/tumorboard/__init__.py").resolve()
    running = Path(str(tumorboard.__file__)).resolve()
    if here.is_file() and here != running:
        raise InputError(
            f"the running code is {running.parent}, not {here.parent} of this project, whose files DVC records: "
            "activate this project's environment (`make env`, then `. .venv/bin/activate`)"
        )
