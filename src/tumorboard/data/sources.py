"""Lists the images of a raw folder, a label table or a MedMNIST file, and reads the bytes of each image."""

import os
import re
import stat
import unicodedata
from io import FileIO
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple, NoReturn, TypeAlias

import pandas as pd

from tumorboard.base.errors import ImageError, InputError
from tumorboard.base.params import Data
from tumorboard.data import medmnist
from tumorboard.data.label_table import LABEL_COLUMNS, SPLIT_NAMES, Row, check_path, check_text, read_label_table

SYSTEM_FILES = ("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "dicomdir", "__macosx", "icon\r")

LAYOUT = (
    "data.raw must be a folder with one folder per class (if wanted inside Training and Testing, or train, val and "
    "test, or fold0, fold1 ...), a folder with a table labels.csv that has the columns path and label, or a MedMNIST "
    ".npz file"
)

MAX_FOLD_DIGITS = 9  # digits of a fold number, so that it fits any integer type

# Why a file that is not wrong is left out; docs/quarantine.md explains each reason.
IgnoreReason = Literal["hidden", "system file", "not in the table", "outside the class folders", "empty folder"]

_EMPTY_FOLDER: IgnoreReason = "empty folder"
_OUTSIDE_CLASSES: IgnoreReason = "outside the class folders"
_NOT_IN_TABLE: IgnoreReason = "not in the table"

# One row per image: path (POSIX, relative to data.raw), label, group ('' if not given), split ('train', 'val' or
# 'test', '' if not given), fold (Int64, missing if not given).
ListedImages: TypeAlias = pd.DataFrame
IgnoredFiles: TypeAlias = pd.DataFrame  # one row per file: path, reason (an IgnoreReason)


def list_images(raw: Path, data: Data, labels: Path | None = None) -> tuple[ListedImages, IgnoredFiles]:
    """Lists the images to crop and the files that are left out, both sorted by path.

    Only the label table or the .npz file is opened. Whether a file is an image, and whether a link leads to one, is
    found out when it is decoded.

    Args:
        raw: a folder, or a MedMNIST .npz file.
        data: the section `data` of params.yaml; names the label table and the pattern of groups.
        labels: a label table that replaces `data.table` and may lie outside `raw`.

    Returns:
        The listed images and the ignored files.

    Raises:
        InputError: `raw`, the table or the pattern cannot be used, or there are fewer than two classes.
    """
    ignored: dict[str, IgnoreReason] = {}
    if raw.is_file():
        rows, source = _list_npz(raw, labels or data.table), raw
    elif raw.is_dir():
        rows, ignored, source = _list_folder(raw, labels or _find_table(raw, data))
    elif raw.name.startswith(medmnist.PREFIX) and not raw.exists():
        name = raw.name.removeprefix(medmnist.PREFIX)
        raise InputError(
            f"data.raw: '{raw}' is not downloaded yet: set medmnist: [{name}] in params.yaml and run dvc repro"
        )
    else:
        raise InputError(f"data.raw: there is no '{raw}'; {LAYOUT}")
    _check_classes(rows, source)
    pattern = _compile_group_pattern(data.group_pattern)
    for row in rows:
        if pattern and not row["group"]:
            row["group"] = _extract_group(row["path"], pattern)
    rows.sort(key=lambda row: row["path"])
    images = pd.DataFrame(rows, columns=list(LABEL_COLUMNS), dtype=object)
    images["fold"] = pd.array([_parse_fold(row) if row["fold"] else None for row in rows], dtype="Int64")
    return images, pd.DataFrame(sorted(ignored.items()), columns=["path", "reason"], dtype=object)


def list_files(folder: Path) -> list[str]:
    """Returns the sorted POSIX paths of all files in a folder and its subfolders, without hidden and system files.

    Raises:
        InputError: a subfolder cannot be read, or links form a circle.
    """
    return _walk(folder).files


def read_content(raw: Path, path: str) -> bytes:
    """Returns the bytes of a listed image.

    Args:
        raw: the folder or MedMNIST .npz file that was listed.
        path: of the image, as listed.

    Raises:
        ImageError: the file cannot be read, or is a link to nothing or out of `raw`.
    """
    if raw.is_file():
        return medmnist.read_npz_image(raw, path)
    name = f"{raw}/{path}"  # the methods of Path take longer than the system calls
    try:
        mode = os.lstat(name).st_mode
        if stat.S_ISLNK(mode):
            mode = _resolve_link(Path(name), raw).stat().st_mode
        if not stat.S_ISREG(mode):
            raise ImageError("unreadable", "not a regular file")
        with FileIO(name) as file:
            return file.readall()
    except OSError as error:
        raise ImageError("unreadable", error.strerror or str(error)) from error


def _resolve_link(link: Path, raw: Path) -> Path:
    """Returns the target of a link; raises ImageError if there is none or it lies outside `raw`."""
    try:
        target = link.resolve(strict=True)
    except (OSError, RuntimeError):  # RuntimeError: a circle of links, before Python 3.13
        raise ImageError("broken or outward link", f"leads to '{link.readlink()}', which does not exist") from None
    if not target.is_relative_to(raw.resolve()):
        raise ImageError("broken or outward link", f"leads out of data.raw, to '{target}'")
    return target


def _find_table(raw: Path, data: Data) -> Path | None:
    if data.table is not None:
        return raw / check_path(data.table, raw.resolve(), "data.table")
    return raw / "labels.csv" if (raw / "labels.csv").is_file() else None


def _list_npz(raw: Path, table: Path | str | None) -> list[Row]:
    """Lists the images of a MedMNIST file, which allows no label table beside it."""
    if table:
        raise InputError(
            f"data.raw: '{raw}' holds its own labels, so that the table '{table}' would be ignored: omit --labels, "
            "and set data.table to null"
        )
    return [
        {"path": path, "label": label, "group": "", "split": split, "fold": ""}
        for path, label, split in medmnist.list_npz_images(raw)
    ]


def _list_folder(raw: Path, table: Path | None) -> tuple[list[Row], dict[str, IgnoreReason], Path]:
    """Lists the images of a label table, or of the class folders if there is none.

    Returns:
        One row per image, the ignored files, and the path that gave the labels: the table or the folder.
    """
    files, outward_links, ignored = _walk(raw)
    if table is None:
        rows = _list_class_folders(files, outward_links, raw)
        unlisted = set(files) - {row["path"] for row in rows}
        return rows, ignored | dict.fromkeys(unlisted, _OUTSIDE_CLASSES), raw
    rows = read_label_table(table, raw)
    listed = {row["path"] for row in rows}
    for file, folder in ((table, raw), (table.resolve(), raw.resolve())):
        if file.is_relative_to(folder):
            listed.add(file.relative_to(folder).as_posix())
    # A table may list files in hidden folders.
    used = listed | {str(folder) for path in listed for folder in PurePosixPath(path).parents}
    ignored = {path: reason for path, reason in ignored.items() if path not in used}
    return rows, ignored | dict.fromkeys(set(files) - listed, _NOT_IN_TABLE), table


class _Walk(NamedTuple):
    """The content of a folder and its subfolders; all paths are POSIX paths relative to the folder."""

    files: list[str]  # sorted; with the outward links
    outward_links: set[str]  # links to folders outside, which are not followed
    ignored: dict[str, IgnoreReason]  # hidden and system files, and the topmost folders without any file


def _walk(raw: Path) -> _Walk:
    """Walks through a folder and follows links to folders inside it; raises InputError."""

    def fail(error: OSError) -> NoReturn:
        raise InputError(f"folder {error.filename!r} cannot be read: {error.strerror}")

    root = raw.resolve()
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
        outward = [name for name in subfolders if not (Path(folder) / name).resolve().is_relative_to(root)]
        subfolders[:] = [name for name in subfolders if name not in outward]
        outward_links |= {(relative / name).as_posix() for name in outward}
        here = [path for name in [*names, *outward] if (path := (relative / name).as_posix()) not in ignored]
        files += here
        if here:
            filled |= {relative, *relative.parents}
    walked = [Path(folder).relative_to(raw) for folder in visited.values()]
    empty = [folder.as_posix() for folder in walked if folder not in filled and folder.parent in filled]
    return _Walk(sorted(files), outward_links, ignored | dict.fromkeys(empty, _EMPTY_FOLDER))


def _list_class_folders(files: list[str], outward_links: set[str], raw: Path) -> list[Row]:
    """Returns one row per file in a class folder, which may lie in a part folder such as Training or fold0.

    A link to a folder elsewhere gets a row and is quarantined later, so that its class is reported without images.
    So does a broken link in the place of a class folder, as on a disk that is not mounted.
    """
    beside = (path for path in files if "/" not in path or (path.count("/") == 1 and _parse_part(path.split("/")[0])))
    links = outward_links | {path for path in beside if _is_broken_link(raw / path)}
    tops = {path.split("/")[0] for path in files if "/" in path or path in links}
    parts = {top: part for top in tops if (part := _parse_part(top))}
    if parts and parts.keys() != tops:
        raise InputError(
            f"data.raw: '{raw}' has part folders ({_quote(set(parts))}) beside others "
            f"({_quote(tops - parts.keys())}): either all its folders are parts, named Training and Testing, or train, "
            "val and test, or fold0, fold1 ..., or none is"
        )
    if all(fold for _, fold in parts.values()):
        # With fold folders alone the test part is still to be drawn, so that no split is given.
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


def _parse_part(folder: str) -> tuple[str, str] | None:
    """Returns the split and the fold that a folder's name gives, or None for any other name.

    >>> _parse_part("Testing"), _parse_part("fold_3"), _parse_part("glioma")
    (('test', ''), ('train', '3'), None)
    """
    if folder.lower() in SPLIT_NAMES:
        return SPLIT_NAMES[folder.lower()], ""
    fold = re.fullmatch(r"fold[ _-]?(\d+)", folder, re.IGNORECASE)
    return ("train", fold[1]) if fold else None


def _check_classes(rows: list[Row], source: Path) -> None:
    """Raises InputError if there are fewer than two classes, or two whose names look alike."""
    labels = {row["label"] for row in rows}
    spellings: dict[str, str] = {}
    for label in sorted(labels):
        first = spellings.setdefault(unicodedata.normalize("NFKC", label).casefold(), label)
        if first != label:
            # Two Unicode spellings of one letter look the same, so that only escapes show the difference.
            show = ascii if unicodedata.normalize("NFKC", first) == unicodedata.normalize("NFKC", label) else repr
            one, other = (
                f"{show(twin)} (as of {show(next(row['path'] for row in rows if row['label'] == twin))})"
                for twin in (first, label)
            )
            raise InputError(
                f"data.raw: the classes {one} and {other} differ only in case or spelling of letters, in '{source}': "
                "give them one name, or clearly different ones"
            )
    if not rows:
        raise InputError(f"data.raw: no images in '{source}'; {LAYOUT}")
    if len(labels) < 2:
        raise InputError(f"data.raw: only one class, {_quote(labels)}, in '{source}', but two are needed; {LAYOUT}")


def _compile_group_pattern(pattern: str | None) -> re.Pattern[str] | None:
    if pattern is None:
        return None
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(f"data.group_pattern: '{pattern}' is not a regular expression: {error}") from None
    if compiled.groups == 0:
        raise InputError(f"data.group_pattern: '{pattern}' has no group: put the patient's part in parentheses")
    return compiled


def _extract_group(path: str, pattern: re.Pattern[str]) -> str:
    """Returns what the first parentheses of the pattern match in a path.

    >>> _extract_group("blast/P07_012.jpg", re.compile(r"(P\\d+)_"))
    'P07'
    """
    match = pattern.search(path)
    if match is None or not match[1]:
        raise InputError(
            f"data.group_pattern: '{pattern.pattern}' matches no group in the path {path!r}; "
            "correct the pattern, or set it to null if every image is its own group"
        )
    return match[1]


def _parse_fold(row: Row) -> int:
    digits = row["fold"].lstrip("0") or "0"
    if len(digits) > MAX_FOLD_DIGITS:
        raise InputError(f"data.raw: the fold of {row['path'][:200]!r} has {len(digits)} digits: number folds from 0")
    return int(digits)


def _is_broken_link(file: Path) -> bool:
    return file.is_symlink() and not os.access(file, os.F_OK)


def _quote(names: set[str]) -> str:
    return ", ".join(repr(name) for name in sorted(names))
