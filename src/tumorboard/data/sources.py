"""Which images there are: a folder a class, a table of paths and labels, or MedMNIST's file; and their bytes."""

import os
import re
import stat
import unicodedata
from io import FileIO
from pathlib import Path, PurePosixPath
from typing import Literal, NoReturn

import pandas as pd

from tumorboard.data import medmnist
from tumorboard.data.labels import COLUMNS, PARTS, Row, check_path, check_text, read_labels
from tumorboard.errors import ImageError, InputError
from tumorboard.params import Data

SYSTEM_FILES = ("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "dicomdir", "__macosx", "icon\r")
LAYOUT = (
    "data.raw must hold a folder per class with its images, if need be below Training and Testing (or train, val and "
    "test, or fold0, fold1 ...), or a table labels.csv with the columns path and label; or be MedMNIST's .npz file"
)
# Why a file is left out without being wrong; docs/quarantine.md says what each means.
Ignored = Literal["hidden", "system file", "not in the table", "outside the class folders", "empty folder"]

EMPTY: Ignored = "empty folder"
OUTSIDE: Ignored = "outside the class folders"
UNLISTED: Ignored = "not in the table"
DIGITS = 9  # of a fold; many more than any number of folds has


def list_images(raw: Path, data: Data, labels: Path | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """List the files that are to be images, sorted by path, and those that are left out.

    `raw` is a folder or an .npz file as MedMNIST's; `labels` is a table that goes before `data.table` and may lie
    elsewhere. The first table has the columns path (relative to `raw`, POSIX), label, group ('' where neither a table
    nor `data.group_pattern` gives one), split ('' where none is given, 'train', 'val' or 'test') and fold (Int64,
    missing where none is given); the second has path and reason. Nothing is opened but the table, or the .npz file:
    whether a file is an image, and a link leads to one, shows when it is decoded. Raises InputError.
    """
    ignored: dict[str, Ignored] = {}
    if raw.is_file():
        if table := labels or data.table:
            raise InputError(
                f"data.raw: '{raw}' has its own labels, and the table '{table}' would not count: leave out --labels, "
                "and set data.table to null"
            )
        where = raw
        rows = [
            {"path": path, "label": label, "group": "", "split": part, "fold": ""}
            for path, label, part in medmnist.list_rows(raw)
        ]
    elif raw.name.startswith(medmnist.PREFIX) and not raw.exists():
        name = raw.name.removeprefix(medmnist.PREFIX)
        raise InputError(
            f"data.raw: '{raw}' is not downloaded yet: set medmnist: [{name}] in params.yaml and run dvc repro"
        )
    elif not raw.is_dir():
        raise InputError(f"data.raw: there is no '{raw}'; {LAYOUT}")
    else:
        rows, ignored, where = _from_folder(raw, labels or _find_table(raw, data))
    _check_classes(rows, where)
    pattern = _compile(data.group_pattern)
    for row in rows:
        if pattern and not row["group"]:
            row["group"] = _find_group(row["path"], pattern)
    rows.sort(key=lambda row: row["path"])
    frame = pd.DataFrame(rows, columns=list(COLUMNS), dtype=object)
    frame["fold"] = pd.array([_read_fold(row) if row["fold"] else None for row in rows], dtype="Int64")
    return frame, pd.DataFrame(sorted(ignored.items()), columns=["path", "reason"], dtype=object)


def list_files(folder: Path) -> list[str]:
    """All files below a folder but hidden and system files, as POSIX paths, sorted; raises InputError."""
    files, _, _ = _walk(folder)
    return files


def read_content(raw: Path, path: str) -> bytes:
    """The bytes of a listed image; a link must end within `raw`. Raises ImageError."""
    if raw.is_file():
        return medmnist.read_row(raw, path)
    name = f"{raw}/{path}"  # of Paths each question costs more than its answer
    try:
        mode = os.lstat(name).st_mode
        if stat.S_ISLNK(mode):
            mode = _follow(Path(name), raw).stat().st_mode
        if not stat.S_ISREG(mode):
            raise ImageError("unreadable", "not a regular file")
        with FileIO(name) as file:
            return file.readall()
    except OSError as error:
        raise ImageError("unreadable", error.strerror or str(error)) from error


def _follow(link: Path, raw: Path) -> Path:
    """The end of a link, which must be there and lie within `raw`; raises ImageError."""
    try:
        end = link.resolve(strict=True)
    except (OSError, RuntimeError):  # RuntimeError: a circle, before Python 3.13
        raise ImageError("broken or outward link", f"leads to '{link.readlink()}', where nothing is") from None
    if not end.is_relative_to(raw.resolve()):
        raise ImageError("broken or outward link", f"leads out of data.raw, to '{end}'")
    return end


def _find_table(raw: Path, data: Data) -> Path | None:
    if data.table is not None:
        return raw / check_path(data.table, raw.resolve(), "data.table")
    return raw / "labels.csv" if (raw / "labels.csv").is_file() else None


def _from_folder(raw: Path, table: Path | None) -> tuple[list[Row], dict[str, Ignored], Path]:
    """The rows of a table, or else of the class folders, what is ignored, and which of the two it was."""
    files, links, ignored = _walk(raw)
    if table is None:
        rows = _from_folders(files, links, raw)
        return rows, ignored | dict.fromkeys(set(files) - {row["path"] for row in rows}, OUTSIDE), raw
    rows = read_labels(table, raw)
    listed = {row["path"] for row in rows}
    for file, folder in ((table, raw), (table.resolve(), raw.resolve())):
        if file.is_relative_to(folder):
            listed.add(file.relative_to(folder).as_posix())
    filled = listed | {str(folder) for path in listed for folder in PurePosixPath(path).parents}
    ignored = {path: reason for path, reason in ignored.items() if path not in filled}
    return rows, ignored | dict.fromkeys(set(files) - listed, UNLISTED), table


def _walk(raw: Path) -> tuple[list[str], set[str], dict[str, Ignored]]:
    """All files below a folder as POSIX paths, of them the links to folders elsewhere, and beside them the ignored.

    Links to folders within `raw` are followed. Of folders without a file in them the uppermost are among the ignored.
    """

    def fail(error: OSError) -> NoReturn:
        raise InputError(f"folder {error.filename!r} cannot be read: {error.strerror}")

    root = raw.resolve()
    files: list[str] = []
    links: set[str] = set()
    ignored: dict[str, Ignored] = {}
    seen: dict[Path, str] = {}
    filled = {Path()}
    for folder, folders, names in os.walk(raw, onerror=fail, followlinks=True):
        first = seen.setdefault(Path(folder).resolve(), folder)
        if first != folder:
            raise InputError(f"{first!r} and {folder!r} are the same folder, by a link: remove one of them")
        below = Path(folder).relative_to(raw)
        for name in [*folders, *names]:
            path = (below / name).as_posix()
            if name.startswith("."):
                ignored[path] = "hidden"
            elif name.lower() in SYSTEM_FILES:
                ignored[path] = "system file"
        folders[:] = [name for name in folders if (below / name).as_posix() not in ignored]
        outward = [name for name in folders if not (Path(folder) / name).resolve().is_relative_to(root)]
        folders[:] = [name for name in folders if name not in outward]
        links |= {(below / name).as_posix() for name in outward}
        found = [path for name in [*names, *outward] if (path := (below / name).as_posix()) not in ignored]
        files += found
        if found:
            filled |= {below, *below.parents}
    walked = [Path(folder).relative_to(raw) for folder in seen.values()]
    empty = [folder for folder in walked if folder not in filled and folder.parent in filled]
    return sorted(files), links, ignored | dict.fromkeys((folder.as_posix() for folder in empty), EMPTY)


def _from_folders(files: list[str], links: set[str], raw: Path) -> list[Row]:
    """Rows of the files that lie in a class folder; part folders are recognised by their names.

    A link to a folder elsewhere is a row of its own: it is quarantined, and its class misses it. So is a link to
    nothing where a class folder would be, as on a disk that is not mounted.
    """
    beside = (path for path in files if "/" not in path or (path.count("/") == 1 and _part_of(path.split("/")[0])))
    links = links | {path for path in beside if _is_dead(raw / path)}
    tops = {path.split("/")[0] for path in files if "/" in path or path in links}
    parts = {top: named for top in tops if (named := _part_of(top))}
    if parts and parts.keys() != tops:
        raise InputError(
            f"data.raw: '{raw}' holds part folders ({_quote(set(parts))}) beside others "
            f"({_quote(tops - parts.keys())}): either all its folders are parts, named Training and Testing, or train, "
            "val and test, or fold0, fold1 ..., or none is"
        )
    if all(fold for _, fold in parts.values()):
        parts = {top: ("", fold) for top, (_, fold) in parts.items()}  # a test part is to be drawn from them
    rows = []
    for path in files:
        steps = path.split("/")
        part, fold = parts.get(steps[0], ("", ""))
        steps = steps[1:] if parts else steps
        if len(steps) > 1 or path in links:
            steps = steps or [path]
            check_text("label", steps[0], f"data.raw: folder of {path!r}")
            rows.append({"path": path, "label": steps[0], "group": "", "split": part, "fold": fold})
    return rows


def _part_of(folder: str) -> tuple[str, str] | None:
    """The split and fold that the name of a folder gives, None for a name that gives none."""
    if folder.lower() in PARTS:
        return PARTS[folder.lower()], ""
    found = re.fullmatch(r"fold[ _-]?(\d+)", folder, re.IGNORECASE)
    return ("train", found[1]) if found else None


def _check_classes(rows: list[Row], where: Path) -> None:
    labels = {row["label"] for row in rows}
    twins: dict[str, str] = {}
    for label in sorted(labels):
        first = twins.setdefault(unicodedata.normalize("NFKC", label).casefold(), label)
        if first != label:
            # Two spellings of one letter look the same.
            show = ascii if unicodedata.normalize("NFKC", first) == unicodedata.normalize("NFKC", label) else repr
            one, other = (
                f"{show(twin)} (as of {show(next(row['path'] for row in rows if row['label'] == twin))})"
                for twin in (first, label)
            )
            raise InputError(
                f"data.raw: the classes {one} and {other} differ in case or spelling of letters only, in '{where}': "
                "give them one name, or clearly different ones"
            )
    if not rows:
        raise InputError(f"data.raw: no images found in '{where}'; {LAYOUT}")
    if len(labels) < 2:
        raise InputError(f"data.raw: only one class, {_quote(labels)}, found in '{where}', two are needed; {LAYOUT}")


def _compile(pattern: str | None) -> re.Pattern[str] | None:
    if pattern is None:
        return None
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(f"data.group_pattern: '{pattern}' is no regular expression: {error}") from None
    if compiled.groups == 0:
        raise InputError(f"data.group_pattern: '{pattern}' has no group: put the patient's part in parentheses")
    return compiled


def _find_group(path: str, pattern: re.Pattern[str]) -> str:
    found = pattern.search(path)
    if found is None or not found[1]:
        raise InputError(
            f"data.group_pattern: '{pattern.pattern}' finds no group in the path {path!r}; "
            "mend the pattern, or set it to null where every image is its own group"
        )
    return found[1]


def _read_fold(row: Row) -> int:
    digits = row["fold"].lstrip("0") or "0"
    if len(digits) > DIGITS:
        raise InputError(f"data.raw: the fold of {row['path'][:200]!r} has {len(digits)} digits: number folds from 0")
    return int(digits)


def _is_dead(file: Path) -> bool:
    """Whether a file is a link to nothing."""
    return file.is_symlink() and not os.access(file, os.F_OK)


def _quote(names: set[str]) -> str:
    return ", ".join(repr(name) for name in sorted(names))
