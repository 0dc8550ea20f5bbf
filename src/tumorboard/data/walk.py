"""Walks through a raw folder: its files, the links that lead out of it, and what is ignored."""

import os
from pathlib import Path
from typing import Literal, NamedTuple, NoReturn

from tumorboard.base.errors import InputError
from tumorboard.data.links import LinkRule

SYSTEM_FILES = (
    *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "dicomdir", "__macosx", "icon\r"),
    # folders of network drives, and what systems keep of deleted or damaged files
    *("@eadir", "@tmp", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "lost+found", "lost.dir"),
    *("$recycle.bin", "recycler", "system volume information", "network trash folder", "temporary items"),
)

# Why a file that is not wrong is left out; docs/quarantine.md explains each reason.
IgnoreReason = Literal[
    "hidden", "system file", "not in the table", "not in data.classes", "outside the class folders", "empty folder"
]

_EMPTY_FOLDER: IgnoreReason = "empty folder"


class Walk(NamedTuple):
    """The content of a folder and its subfolders; all paths are POSIX paths relative to the folder."""

    files: list[str]  # sorted, the outward links included
    outward_links: set[str]  # links to folders outside, which are not followed
    ignored: dict[str, IgnoreReason]  # hidden and system files, and the topmost folders without any file


def walk_folder(raw: Path, rule: LinkRule) -> Walk:
    """Walks through a folder and follows the links to folders that the rule allows.

    Raises:
        InputError: a subfolder cannot be read, or links form a circle.
    """

    def fail(error: OSError) -> NoReturn:
        raise InputError(f"folder {error.filename!r} cannot be read: {error.strerror}")

    files: list[str] = []
    outward_links: set[str] = set()
    ignored: dict[str, IgnoreReason] = {}
    visited: dict[Path, str] = {}
    filled = {Path()}
    for folder, subfolders, names in os.walk(raw, onerror=fail, followlinks=True):
        first = visited.setdefault(Path(folder).resolve(), folder)
        if first != folder:
            raise InputError(f"{first!r} and {folder!r} are the same folder, by a link: remove one of them")
        relative = Path(folder).relative_to(raw)
        for name in [*subfolders, *names]:
            path = (relative / name).as_posix()
            if name.startswith("."):
                ignored[path] = "hidden"
            elif name.lower() in SYSTEM_FILES:
                ignored[path] = "system file"
        subfolders[:] = [name for name in subfolders if (relative / name).as_posix() not in ignored]
        outward = [name for name in subfolders if not rule.allows((Path(folder) / name).resolve())]
        subfolders[:] = [name for name in subfolders if name not in outward]
        outward_links |= {(relative / name).as_posix() for name in outward}
        here = [path for name in [*names, *outward] if (path := (relative / name).as_posix()) not in ignored]
        files += here
        if here:
            filled |= {relative, *relative.parents}
    walked = [Path(folder).relative_to(raw) for folder in visited.values()]
    empty = [folder.as_posix() for folder in walked if folder not in filled and folder.parent in filled]
    return Walk(sorted(files), outward_links, ignored | dict.fromkeys(empty, _EMPTY_FOLDER))
