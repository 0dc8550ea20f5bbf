"""Finds the tables that lie beside images and name their files, whatever their columns are called."""

import posixpath
import re
import string
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tumorboard.base.errors import InputError
from tumorboard.data.spreadsheet_values import without_zeros
from tumorboard.data.table_text import read_table_text

TABLE_ENDINGS = (".csv", ".tsv", ".tab", ".txt", "")
MAX_TABLES = 20  # tables beside the images that are read
MAX_DEPTH = 2  # nested folders in which a table may lie
MAX_TABLE_BYTES = 1 << 28  # bytes of the largest table that is read
NAMED_SHARE = 0.5  # least share of a table's names, or of the files, that are found for the table to name the files
_NUMBER = re.compile(r"[-+]?\d*\.?\d+([eE][-+]?\d+)?")
_ENDING = re.compile(r"\.[A-Za-z]\w{0,4}")  # the ending of a file's name, and no decimals of a number


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table that names the files of a folder."""

    file: Path
    columns: Mapping[str, Sequence[str]]  # the cells of each column
    path: str  # the column that names the files
    paths: Sequence[str]  # path of each row's file; '' where there is none
    prefix: str | None  # as `data.prefix`; None if no prefix leads to the files, or the names differ in form
    extension: str  # as `data.extension`
    hindrance: str  # why no lines for params.yaml make it readable as it is, and the cure; '' if they may
    ambiguous: Sequence[str]  # two files in different folders that one name of several rows may mean; () if none


def find_tables(raw: Path, files: Sequence[str], table: Path | None = None) -> Iterator[Table]:
    """Yields the tables in a folder that name its files, those at its top first.

    Args:
        raw: the folder.
        files: the POSIX paths of its files.
        table: the only table to read; None: all.
    """
    names = sorted(
        (
            file
            for file in files
            if file.count("/") <= MAX_DEPTH and posixpath.splitext(file)[1].lower() in TABLE_ENDINGS
        ),
        key=lambda file: (file.count("/"), file),
    )
    for file in [raw / name for name in names[:MAX_TABLES]] if table is None else [table]:
        try:
            columns, hindrance = _read_columns(file)
        except InputError:
            continue
        own = file.relative_to(raw).as_posix() if file.is_relative_to(raw) else ""
        others = [name for name in files if name != own]  # other tables among them match no cell
        beside = f"{posixpath.dirname(own)}/"
        others.sort(key=lambda name: not name.startswith(beside))  # of files of one name, those beside the table first
        for form in (str, loose_name, without_zeros):
            files_by_name = _files_by_name(others, form)
            if (named := _find_paths(columns, files_by_name, form, len(others))) is None:
                continue
            path, paths = named
            prefix, extension = _infer_places(columns[path], paths) if form is str else (None, "")
            header_file = files_by_name.get(form(posixpath.basename(path)), [""])[0]
            yield Table(
                file=file,
                columns=columns,
                path=path,
                paths=paths,
                prefix=prefix,
                extension=extension,
                hindrance="; ".join(filter(None, [hindrance, _describe_header(path, header_file)])),
                ambiguous=_find_ambiguous(columns[path], files_by_name, form),
            )
            break


def _describe_header(column: str, file: str) -> str:
    """Returns a clause about a header that names a file, so that it is none; '' if there is no such file."""
    if not file:
        return ""
    return f"its first line names the file {column!r}: write a line with the names of the columns above it"


def _read_columns(file: Path) -> tuple[dict[str, list[str]], str]:
    """Returns the cells of each column that has a name of its own, and why the table cannot be read, '' if it can.

    Raises:
        InputError: the file is no table of two columns and more.
    """
    try:
        if not file.is_file() or file.stat().st_size > MAX_TABLE_BYTES:
            raise InputError(f"{file}: not a table")
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}") from None
    text = read_table_text(file)
    header, rows = text.header, [[cells[name] for name in text.header] for _, cells in text.rows]
    hindrance = ""
    if len(header) == 1:
        header, rows = header[0].split(), [row[0].split() for row in rows]
        hindrance = "its columns are separated by spaces: separate them by commas in a copy of it"
        if all(_NUMBER.fullmatch(cell) for row in [header, *rows] for cell in row):
            raise InputError(f"{file}: numbers alone, such as boxes, name no files")
    if len(header) < 2 or any(len(row) != len(header) for row in rows):
        raise InputError(f"{file}: not a table of several columns")
    if not rows:
        raise InputError(f"{file}: no rows")
    named = zip(header, zip(*rows, strict=True), strict=True)
    return {name: list(cells) for name, cells in named if header.count(name) == 1}, hindrance


def _files_by_name(files: Sequence[str], form: Callable[[str], str]) -> dict[str, list[str]]:
    """Returns the files by their names, with and without ending, in a form; without zeros only names of one file."""
    files_by_name: dict[str, list[str]] = {}
    for file in files:
        name = posixpath.basename(file)
        for key in {form(name), form(posixpath.splitext(name)[0])} - {""}:
            files_by_name.setdefault(key, []).append(file)
    if form is without_zeros:
        return {key: same for key, same in files_by_name.items() if len(same) == 1}
    return files_by_name


def _find_paths(
    columns: Mapping[str, Sequence[str]],
    files_by_name: Mapping[str, Sequence[str]],
    form: Callable[[str], str],
    count: int,
) -> tuple[str, list[str]] | None:
    """Returns the column that names most files, and the file of each of its cells ('' where there is none).

    None if no column names half of the `count` files, or has files in half of its different cells. Names are compared
    in the given form.
    """
    best: tuple[int, str, list[str]] | None = None
    for column, cells in columns.items():
        distinct = set(cells)
        least = max(2, NAMED_SHARE * min(count, len(distinct)), 0.3 * len(cells) - 1)
        if len(distinct) < least:
            continue
        path_of = {
            cell: _closest_file(cell, files_by_name.get(form(posixpath.basename(cell)), ())) for cell in distinct
        }
        different = len(set(path_of.values()) - {""})
        if different >= least and (best is None or different > best[0]):
            best = different, column, [path_of[cell] for cell in cells]
    return None if best is None else best[1:]


def _find_ambiguous(
    cells: Sequence[str], files_by_name: Mapping[str, Sequence[str]], form: Callable[[str], str]
) -> Sequence[str]:
    """Returns two files in different folders that a cell of several rows may mean; () if there are none."""
    for cell, count in Counter(cells).items():
        files = files_by_name.get(form(posixpath.basename(cell)), ()) if count > 1 else ()
        if len(folders := {posixpath.dirname(file): file for file in _closest_files(cell, files)}) > 1:
            return list(folders.values())[:2]
    return ()


def loose_name(name: str) -> str:
    r"""Returns a file's name without its folders, also those of Windows, its ending, case and spaces around it.

    >>> loose_name(" ISIC_07.JPG "), loose_name("1.5"), loose_name(r"images\\p1.png")
    ('isic_07', '1.5', 'p1')
    """
    root, ending = posixpath.splitext(name.strip().rpartition("\\")[2])
    return (root if _ENDING.fullmatch(ending) else root + ending).casefold()


def _closest_file(cell: str, files: Sequence[str]) -> str:
    """Returns the first of the files that are closest to a cell, '' if there are no files."""
    return next(iter(_closest_files(cell, files)), "")


def _closest_files(cell: str, files: Sequence[str]) -> Sequence[str]:
    """Returns the files whose paths have most in common with the end of a cell."""
    if len(files) < 2:
        return files
    end = _stem(cell)[::-1]
    common = [len(_common_start([_stem(file)[::-1], end])) for file in files]
    most = max(common)
    return [file for file, length in zip(files, common, strict=True) if length == most]


def _stem(path: str) -> str:
    return path.removesuffix(posixpath.splitext(path)[1]) if posixpath.splitext(path)[1] != path else path


def _infer_places(cells: Sequence[str], paths: Sequence[str]) -> tuple[str | None, str]:
    """Returns prefix and extension by which the cells become the paths; the prefix is None if none does.

    >>> _infer_places(["a1", "a2"], ["part_1/a1.jpg", "part_2/a2.jpg"])
    ('part_*/', '.jpg')
    >>> _infer_places(["set/train/1.png"], ["train/1.png"])
    ('set/', '')
    """
    named = [(cell, path) for cell, path in zip(cells, paths, strict=True) if path]
    cell, path = named[0]
    extension = posixpath.splitext(path)[1] if posixpath.basename(path) != posixpath.basename(cell) else ""
    fronts: set[str] = set()
    backs: set[str] = set()
    for cell, path in named:
        name = cell + extension
        if path == name or path.endswith("/" + name):
            fronts.add(path.removesuffix(name))
        elif name.endswith("/" + path):
            backs.add(name.removesuffix(path))
        elif posixpath.basename(path) == posixpath.basename(name):
            return None, extension
    if backs:
        return (backs.pop() if len(backs) == 1 and not fronts else None), extension
    if len(fronts) == 1:
        return fronts.pop(), extension
    start = _common_start(fronts)
    rest = [front.removeprefix(start)[::-1] for front in fronts]
    end = _common_start(rest)[::-1].lstrip(string.ascii_letters)  # whole words only
    return f"{start}*{end}", extension


def _common_start(texts: Collection[str]) -> str:
    """Returns the longest text with which all texts begin."""
    first, last = min(texts), max(texts)
    return first[: next((n for n, pair in enumerate(zip(first, last, strict=False)) if len(set(pair)) > 1), len(first))]
