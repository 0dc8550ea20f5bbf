"""Lists the images of a folder that has one folder per class, perhaps inside folders of parts or folds."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from tumorboard.base.errors import InputError
from tumorboard.data.label_table import SPLIT_NAMES, Row, check_text
from tumorboard.data.look_alikes import describe_twin


def list_class_folders(files: list[str], outward_links: set[str], raw: Path) -> list[Row]:
    """Returns one row per file in a class folder, which may lie in a part folder such as Training or fold0.

    A link to a folder elsewhere gets a row and is quarantined later, so that its class is reported without images.
    So does a broken link in the place of a class folder, for example to a disk that is not mounted.

    Args:
        files: POSIX paths of all files in the folder, relative to it.
        outward_links: those among them that are links to folders elsewhere.
        raw: the folder.

    Raises:
        InputError: part folders lie beside others, or the name of a class cannot be used.
    """
    beside = (path for path in files if "/" not in path or (path.count("/") == 1 and parse_part(path.split("/")[0])))
    links = outward_links | {path for path in beside if _is_broken_link(raw / path)}
    tops = {path.split("/")[0] for path in files if "/" in path or path in links}
    parts = {top: part for top in tops if (part := parse_part(top))}
    if parts and parts.keys() != tops:
        raise InputError(
            f"data.raw: '{raw}' has part folders ({_quote(set(parts))}) beside others "
            f"({_quote(tops - parts.keys())}): either all its folders are parts, named Training and Testing, or train, "
            "val and test, or fold0, fold1 ..., or none is. Move what is no part of this set out of data.raw"
            f"{''.join(describe_twin(top.lower(), SPLIT_NAMES) for top in sorted(tops - parts.keys()))}"
        )
    if all(fold for _, fold in parts.values()):
        # With fold folders alone the test set is still to be drawn, so that no split is given.
        parts = {top: ("", fold) for top, (_, fold) in parts.items()}
    rows = []
    for path in files:
        steps = path.split("/")
        split, fold = parts.get(steps[0], ("", ""))
        steps = steps[1:] if parts else steps
        if len(steps) > 1 or path in links:
            steps = steps or [path]
            check_text("label", steps[0], f"data.raw: folder of {path!r}")
            rows.append({"path": path, "label": steps[0], "group": "", "split": split, "fold": fold})
    return rows


def parse_part(folder: str) -> tuple[str, str] | None:
    """Returns the split and the fold that a folder's name gives, or None for any other name.

    >>> parse_part("Testing"), parse_part("fold_3"), parse_part("glioma")
    (('test', ''), ('train', '3'), None)
    """
    if folder.lower() in SPLIT_NAMES:
        return SPLIT_NAMES[folder.lower()], ""
    fold = re.fullmatch(r"fold[ _-]?(\d+)", folder, re.IGNORECASE)
    return ("train", fold[1]) if fold else None


def _is_broken_link(file: Path) -> bool:
    return file.is_symlink() and not os.access(file, os.F_OK)


def _quote(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in sorted(names))
