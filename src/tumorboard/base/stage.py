"""Runs a stage: reads params.yaml, passes the command line's options, turns the user's errors into one message."""

import argparse
import errno
import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tumorboard.base.errors import InputError
from tumorboard.base.params import load_params

# The machine's faults, which the user can mend. Any other OSError is a fault of this program and keeps its traceback.
MACHINE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}


def run_stage(main: Callable[..., None]) -> None:
    """Calls `main(params, **options)` with params.yaml and the options of the command line.

    An InputError, a full disk or a folder without write permission is printed to standard error as one message, and
    the process exits with status 1.

    Args:
        main: takes Params and then keyword-only parameters of type Path, int or str. Each one is a required option.
    """
    name = Path(sys.argv[0]).stem
    options = parse_options(main, name, sys.argv[1:])
    try:
        main(load_params("params.yaml"), **options)
    except (InputError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in MACHINE_ERRORS:
            raise
        print(f"\n{name}: {error}", file=sys.stderr)
        sys.exit(1)


def parse_options(main: Callable[..., None], name: str, words: Sequence[str]) -> dict[str, Any]:
    """Parses a command line by the keyword-only parameters of a function: `fold: int` is the option `--fold N`.

    Args:
        main: the function; its docstring is the help text.
        name: of the stage, for the usage line.
        words: the command line without the program.

    Returns:
        The values by parameter name, each of its parameter's type.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m stages.{name}",
        description=inspect.getdoc(main),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for parameter in inspect.signature(main).parameters.values():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            kind = parameter.annotation
            flag = "--" + parameter.name.replace("_", "-")
            parser.add_argument(flag, type=kind, required=True, metavar=kind.__name__.upper())
    return vars(parser.parse_args(words))
