"""Which images there are: a folder a class, a table of paths and labels, or MedMNIST's file; and their bytes."""

import codecs
import csv
import difflib
import io
import os
import posixpath
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NoReturn

import pandas as pd

from tumorboard.data import medmnist
from tumorboard.errors import ImageError, InputError
from tumorboard.params import Data

COLUMNS = ("path", "label", "group", "split", "fold")
PARTS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
SYSTEM_FILES = ("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "dicomdir", "__macosx")
LAYOUT = (
    "data.raw must hold a folder per class with its images, if need be below Training and Testing (or train, val and "
    "test, or fold0, fold1 ...), or a table labels.csv with the columns path and label; or be MedMNIST's .npz file"
)
# Why a file is left out without being wrong; docs/quarantine.md says what each means.
Ignored = Literal["hidden", "system file", "not in the table", "outside the class folders"]

OUTSIDE: Ignored = "outside the class folders"
UNLISTED: Ignored = "not in the table"

Row = dict[str, str]


def list_images(raw: Path, data: Data, labels: Path | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """List the files that are to be images, sorted by path, and those that are left out.

    `raw` is a folder or an .npz file as MedMNIST's; `labels` is a table that goes before `data.table` and may lie
    elsewhere. The first table has the columns path (relative to `raw`, POSIX), label, group, split ('' where none is
    given, 'train', 'val' or 'test') and fold (Int64, missing where none is given); the second has path and reason.
    Nothing is opened but the table: whether a file is an image, and a link leads to one, shows when it is decoded.
    Raises InputError.
    """
    ignored: dict[str, Ignored] = {}
    if raw.is_file():
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
        row["group"] = row["group"] or _find_group(row["path"], pattern)
    rows.sort(key=lambda row: row["path"])
    frame = pd.DataFrame(rows, columns=list(COLUMNS), dtype=object)
    frame["fold"] = pd.array([int(text) if text else None for text in frame["fold"]], dtype="Int64")
    return frame, pd.DataFrame(sorted(ignored.items()), columns=["path", "reason"], dtype=object)


def list_files(folder: Path) -> list[str]:
    """All files below a folder but hidden and system files, as POSIX paths, sorted; raises InputError."""
    files, _, _ = _walk(folder)
    return files


def read_content(raw: Path, path: str) -> bytes:
    """The bytes of a listed image; a link must end within `raw`. Raises ImageError."""
    if raw.is_file():
        return medmnist.read_row(raw, path)
    file = raw / path
    try:
        if file.is_symlink() and not file.resolve(strict=True).is_relative_to(raw.resolve()):
            raise ImageError("broken or outward link", f"leads out of data.raw, to '{file.resolve()}'")
    except (OSError, RuntimeError):  # RuntimeError: a circle, before Python 3.13
        raise ImageError("broken or outward link", f"leads to '{file.readlink()}', where nothing is") from None
    try:
        if file.exists() and not file.is_file():
            raise ImageError("unreadable", "not a regular file")
        return file.read_bytes()
    except OSError as error:
        raise ImageError("unreadable", error.strerror or str(error)) from error


def _find_table(raw: Path, data: Data) -> Path | None:
    if data.table is not None:
        return raw / _check_path(data.table, raw.resolve(), "data.table")
    return raw / "labels.csv" if (raw / "labels.csv").is_file() else None


def _from_folder(raw: Path, table: Path | None) -> tuple[list[Row], dict[str, Ignored], Path]:
    """The rows of a table, or else of the class folders, what is ignored, and which of the two it was."""
    files, links, ignored = _walk(raw)
    if table is None:
        rows = _from_folders(files, links, raw)
        return rows, ignored | dict.fromkeys(set(files) - {row["path"] for row in rows}, OUTSIDE), raw
    rows = _from_table(table, raw)
    listed = {row["path"] for row in rows}
    if table.is_relative_to(raw):
        listed.add(table.relative_to(raw).as_posix())
    ignored = {path: reason for path, reason in ignored.items() if path not in listed}
    return rows, ignored | dict.fromkeys(set(files) - listed, UNLISTED), table


def _walk(raw: Path) -> tuple[list[str], set[str], dict[str, Ignored]]:
    """All files below a folder as POSIX paths, of them the links to folders elsewhere, and beside them the ignored.

    Links to folders within `raw` are followed.
    """

    def fail(error: OSError) -> NoReturn:
        raise InputError(f"data.raw: folder {error.filename!r} cannot be read: {error.strerror}")

    root = raw.resolve()
    files: list[str] = []
    links: set[str] = set()
    ignored: dict[str, Ignored] = {}
    seen: dict[Path, str] = {}
    for folder, folders, names in os.walk(raw, onerror=fail, followlinks=True):
        first = seen.setdefault(Path(folder).resolve(), folder)
        if first != folder:
            raise InputError(f"data.raw: {first!r} and {folder!r} are the same folder, by a link: remove one of them")
        below = Path(folder).relative_to(raw)
        for name in [*folders, *names]:
            path = (below / name).as_posix()
            if "\r" in name:
                raise InputError(
                    f"data.raw: {path!r} has a carriage return in its name; tables can't keep it: rename it"
                )
            if name.startswith("."):
                ignored[path] = "hidden"
            elif name.lower() in SYSTEM_FILES:
                ignored[path] = "system file"
        folders[:] = [name for name in folders if (below / name).as_posix() not in ignored]
        outward = [name for name in folders if not (Path(folder) / name).resolve().is_relative_to(root)]
        folders[:] = [name for name in folders if name not in outward]
        links |= {(below / name).as_posix() for name in outward}
        files += [path for name in [*names, *outward] if (path := (below / name).as_posix()) not in ignored]
    return sorted(files), links, ignored


def _from_folders(files: list[str], links: set[str], raw: Path) -> list[Row]:
    """Rows of the files that lie in a class folder; part folders are recognised by their names.

    A link to a folder elsewhere is a row of its own: it is quarantined, and its class misses it.
    """
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
            _check_text("label", steps[0], f"data.raw: folder of {path!r}")
            rows.append({"path": path, "label": steps[0], "group": "", "split": part, "fold": fold})
    return rows


def _part_of(folder: str) -> tuple[str, str] | None:
    """The split and fold that the name of a folder gives, None for a name that gives none."""
    if folder.lower() in PARTS:
        return PARTS[folder.lower()], ""
    found = re.fullmatch(r"fold[ _-]?(\d+)", folder, re.IGNORECASE)
    return ("train", found[1]) if found else None


def _from_table(table: Path, raw: Path) -> list[Row]:
    """Rows as the table gives them, every value as it is written; raises InputError with the line."""
    root = raw.resolve()
    rows: list[Row] = []
    seen: dict[str, tuple[int, str]] = {}
    for line, values in _read_table(table):
        row = {column: values.get(column, "") for column in COLUMNS}
        where = f"{table}: line {line}"
        row["path"] = _check_path(row["path"], root, where)
        _check_text("label", row["label"], where)
        if "group" in values:
            _check_text("group", row["group"], where)
        if row["path"] in seen:
            first, label = seen[row["path"]]
            raise InputError(
                f"{table}: lines {first} and {line}: the same path {row['path']!r} twice, "
                f"labelled '{label}' and '{row['label']}': keep one of them"
            )
        seen[row["path"]] = line, row["label"]
        if row["split"] and row["split"].lower() not in PARTS:
            raise InputError(
                f"{where}: split is {row['split']!r}, expected {', '.join(PARTS)}, or nothing in all lines"
            )
        row["split"] = PARTS[row["split"].lower()] if row["split"] else ""
        if rows and bool(row["split"]) != bool(rows[0]["split"]):
            raise InputError(f"{where}: split is given in some lines and empty in others: fill all or none")
        if row["fold"] and (not re.fullmatch("[0-9]+", row["fold"]) or row["split"] in ("val", "test")):
            raise InputError(
                f"{where}: fold is '{row['fold']}' of split '{row['split']}', expected a whole number from 0, "
                "only in training rows, or nothing"
            )
        rows.append(row)
    return rows


def _read_table(table: Path) -> Iterator[tuple[int, Row]]:
    """The rows of a CSV file, each with its line number; commas, semicolons or tabs part the columns."""
    text = _decode(table)
    delimiter = _find_delimiter(re.split(r"[\r\n]", text, maxsplit=1)[0])
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = next(reader, [])
        _check_header(header, table)
        line = reader.line_num + 1
        for values in reader:
            empty = not any(value.strip() for value in values)
            if not empty and len(values) != len(header):
                raise InputError(f"{table}: line {line}: {len(values)} values for {len(header)} columns")
            if not empty:
                yield line, dict(zip(header, values, strict=True))
            line = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{table}: line {reader.line_num}: not readable as CSV: {error}") from None


def _decode(table: Path) -> str:
    """The text of a table in UTF-8, or in UTF-16 with its byte-order mark; raises InputError.

    Bytes that are no UTF-8 stay as surrogates: a file's name may hold such; labels and groups are refused later.
    """
    try:
        content = table.read_bytes()
    except OSError as error:
        raise InputError(f"{table}: cannot be read: {error.strerror}") from None
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        try:
            text = content.decode("utf-16")
        except UnicodeDecodeError as error:
            line = content[: error.start].decode("utf-16", "ignore").count("\n") + 1
            raise InputError(
                f"{table}: line {line}: not readable as UTF-16: {error.reason}; save it as UTF-8"
            ) from None
    else:
        text = content.decode("utf-8-sig", "surrogateescape")
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise InputError(f"{table}: line {line}: a zero byte, as in UTF-16 or UTF-32 without a mark: save it as UTF-8")
    return text


def _find_delimiter(head: str) -> str:
    """The one of comma, semicolon and tab that cuts the header into the most columns."""
    return max(",;\t", key=lambda delimiter: len(next(csv.reader([head], delimiter=delimiter), [])))


def _check_header(header: list[str], table: Path) -> None:
    for column in COLUMNS:
        near = difflib.get_close_matches(column, [name.strip().lower() for name in header], n=1, cutoff=0.85)
        meant = [name for name in header if name.strip().lower() in near]
        same = [name for name in header if name.strip().casefold() == column]
        if len(same) > 1:
            raise InputError(f"{table}: line 1: the column '{column}' is there twice: {', '.join(map(repr, same))}")
        if column not in header and (meant or column in ("path", "label")):
            loose = meant or difflib.get_close_matches(column, header, n=1, cutoff=0)
            raise InputError(
                f"{table}: line 1: no column '{column}'; path and label are needed, group, split and fold may follow; "
                + (f"nearest: {loose[0]!r}" if loose else "the file is empty")
            )


def _check_path(path: str, root: Path, where: str) -> str:
    """The path in its shortest form, if it names a file below `root`."""
    if not path:
        raise InputError(f"{where}: path is empty")
    if posixpath.isabs(path):
        raise InputError(f"{where}: path {path!r} is absolute; give it relative to data.raw")
    try:
        target = (root / path).resolve(strict=True)
    except (OSError, ValueError, RuntimeError):
        hint = "; separate folders by '/'" if "\\" in path else "; its bytes are no UTF-8" if _is_odd(path) else ""
        raise InputError(f"{where}: there is no file {path!r} below data.raw{hint}") from None
    if not target.is_relative_to(root):
        raise InputError(f"{where}: path {path!r} leads out of data.raw (by '..' or a link)")
    if target.is_dir():
        raise InputError(f"{where}: path {path!r} is a folder, not a file")
    return posixpath.normpath(path)


def _check_text(column: str, text: str, where: str) -> None:
    if not text:
        raise InputError(f"{where}: {column} is empty")
    if text != text.strip():
        raise InputError(f"{where}: {column} {text!r} has white space at an end: remove it")
    if _is_odd(text):
        raise InputError(f"{where}: {column} {text!r} has bytes that are no UTF-8: save the table (or name) as UTF-8")
    if not text.isprintable():
        raise InputError(f"{where}: {column} {text!r} has a line break or another control character: remove it")


def _is_odd(text: str) -> bool:
    """Whether a text has bytes that are no UTF-8, which Python keeps as surrogates."""
    return any("\udc80" <= letter <= "\udcff" for letter in text)


def _check_classes(rows: list[Row], where: Path) -> None:
    labels = {row["label"] for row in rows}
    twins: dict[str, str] = {}
    for label in sorted(labels):
        first = twins.setdefault(unicodedata.normalize("NFKC", label).casefold(), label)
        if first != label:
            paths = [next(row["path"] for row in rows if row["label"] == twin) for twin in (first, label)]
            raise InputError(
                f"data.raw: the classes {first!r} (as of {paths[0]!r}) and {label!r} (as of {paths[1]!r}) differ in "
                f"case or spelling of letters only, in '{where}': give them one name, or clearly different ones"
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


def _find_group(path: str, pattern: re.Pattern[str] | None) -> str:
    if pattern is None:
        return path
    found = pattern.search(path)
    if found is None or not found[1]:
        raise InputError(
            f"data.group_pattern: '{pattern.pattern}' finds no group in the path {path!r}; "
            "mend the pattern, or set it to null where every image is its own group"
        )
    return found[1]


def _quote(names: set[str]) -> str:
    return ", ".join(repr(name) for name in sorted(names))
