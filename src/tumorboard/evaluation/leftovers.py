"""What earlier runs left in a folder that several stages fill: of a model or fold that is no longer listed."""

import shutil
from collections.abc import Collection
from pathlib import Path


def remove_leftovers(folder: Path, pattern: str, kept: Collection[Path]) -> None:
    """Delete what matches `pattern` below `folder` and is not `kept`, and the folder it lay in when that is empty then.

    A stage that depends on the whole folder would otherwise be recorded with content that a fresh clone lacks. What
    does not match is somebody else's and stays.
    """
    for path in sorted(folder.glob(pattern)):
        if path in kept:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
        if not any(path.parent.iterdir()):
            path.parent.rmdir()
