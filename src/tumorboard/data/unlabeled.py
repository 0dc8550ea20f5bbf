"""Explains a folder of images without labels, which is for `tumorboard predict`."""

import shlex
from pathlib import Path

from tumorboard.images.formats import HEAD_BYTES, is_readable


def explain_unlabeled(raw: Path) -> str:
    """Returns what to do with a folder whose images lie in it without class folders.

    Args:
        raw: the folder, or the table whose rows are missing.

    Returns:
        One sentence; '' if the folder itself has no images.
    """
    if not raw.is_dir():
        return ""
    images = sum(_begins_as_image(file) for file in raw.iterdir())
    if not images:
        return ""
    lie = "1 image lies" if images == 1 else f"{images} images lie"
    return (
        f"{lie} directly in '{raw}', without a class: sort them into one folder per class, or list them in a table "
        f"labels.csv; a trained panel classifies them without labels: `tumorboard predict {shlex.quote(str(raw))}`"
    )


def _begins_as_image(file: Path) -> bool:
    try:
        if file.name.startswith(".") or not file.is_file():
            return False
        with file.open("rb") as stream:
            return is_readable(stream.read(HEAD_BYTES))
    except OSError:
        return False
