"""Explains a folder of images without labels, which is for `tumorboard predict`."""

import shlex
from pathlib import Path

from tumorboard.data.class_folders import parse_part
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
    parts = [folder for folder in raw.iterdir() if parse_part(folder.name) and folder.is_dir()]
    images = sum(_begins_as_image(file) for folder in (raw, *parts) for file in folder.iterdir())
    if not images:
        return ""
    within = f", in {', '.join(sorted(folder.name for folder in parts))}," if parts else ","
    lie = "1 image lies" if images == 1 else f"{images} images lie"
    predict = f"`tumorboard predict {shlex.quote(str(raw))}`"
    return (
        f"{lie} directly in '{raw}'{within} without a class: sort them into one folder per class, or list them in "
        f"a table labels.csv; a trained panel classifies them without labels: {predict}"
    )


def _begins_as_image(file: Path) -> bool:
    try:
        if file.name.startswith(".") or not file.is_file():
            return False
        with file.open("rb") as stream:
            return is_readable(stream.read(HEAD_BYTES))
    except OSError:
        return False
