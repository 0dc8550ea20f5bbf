"""How a stage begins and ends: params.yaml is read, paths come from argv, a user's mistake is one message."""

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

from tumorboard.errors import InputError
from tumorboard.params import load_params

# What the machine lacks, in a user's eyes; any other OSError is a mistake of ours.
_MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}


def run(stage: Callable[..., None]) -> None:
    """Call `stage(params, *arguments)`; an InputError, a full disk, a folder that cannot be written become a message on
    standard error and exit status 1."""
    name = Path(sys.argv[0]).stem
    try:
        stage(load_params("params.yaml"), *sys.argv[1:])
    except (InputError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _MACHINE:
            raise
        print(f"\n{name}: {error}", file=sys.stderr)
        sys.exit(1)


def find_params() -> Path:
    """The params.yaml of the current folder; else that of the installed package, or of the checkout it runs from."""
    package = Path(__file__).parent
    places = (Path("params.yaml"), package / "params.yaml", package.parents[1] / "params.yaml")
    return next((place for place in places if place.is_file()), places[0])


def side_cache(name: str) -> Path:
    """A folder that survives runs and experiments; deleting it costs time, never results.

    It hangs at the main checkout even where DVC runs an experiment in a temporary copy.
    """
    return Path(os.environ.get("DVC_ROOT", ".")).resolve() / ".cache" / name
