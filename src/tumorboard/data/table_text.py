"""Reads the text of a table (CSV) in the forms that spreadsheets write; errors name the line."""

import codecs
import csv
import io
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from tumorboard.base.errors import InputError, clip, counted

# Files of spreadsheet programs by their ending, and by their first bytes: a ZIP archive, or Excel's older format.
WORKBOOKS = (".xlsx", ".xlsm", ".xlsb", ".xls", ".ods", ".numbers")
_WORKBOOK_HEADS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
_TITLE_LINES = 20  # lines in which the header is looked for
_BLANK = ' \t\r\n,;"'  # what a line without content consists of
_DELIMITERS = ",;\t|"
_NO_TABLES = {
    b"version https://git-lfs": "a pointer of Git LFS and not the table itself: `git lfs pull` fetches it",
    b"<!doctype html": "a web page and not CSV: download the file itself, perhaps signed in",
    b"<html": "a web page and not CSV: download the file itself, perhaps signed in",
    b"[{": "JSON and not CSV: convert it to a table with one row per image",
    b'{"': "JSON and not CSV: convert it to a table with one row per image",
}
SAVE_AS_CSV = "save its sheet as 'CSV UTF-8' in the spreadsheet program, and name that file as data.table"


class TableText(NamedTuple):
    """The cells of a table, as they are written."""

    header: list[str]
    header_line: int  # counted from 1
    rows: Iterator[tuple[int, dict[str, str]]]  # line number and cells by column, of each row that is not empty


def read_table_text(table: Path) -> TableText:
    """Reads a table in UTF-8 or UTF-16, with columns separated by commas, semicolons, tabs or |.

    Raises:
        InputError: the table cannot be read, is a workbook or not CSV; while `rows` are taken: a row is wrong.
    """
    text = _decode(table)
    start, named = _find_header(text)
    before = len(re.findall(r"\r\n|\r|\n", text[:start]))
    try:
        delimiter = named or _guess_delimiter(re.split(r"[\r\n]", text[start:], maxsplit=1)[0])
        spaced = _has_spaced_header(text[start:], delimiter)
        lines = io.StringIO(text[start:], newline="")
        reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=spaced, strict=True)
        header = next(reader, [])
    except csv.Error as error:
        raise InputError(f"{table}: line {before + 1}: not readable as CSV: {error}") from None
    first = before + reader.line_num + 1

    def rows() -> Iterator[tuple[int, dict[str, str]]]:
        line = first
        try:
            for values in reader:
                empty = not any(value.strip() for value in values)
                if not empty and len(values) != len(header):
                    why = _explain_count(values, len(header), delimiter)
                    raise InputError(f"{table}: line {line}: {len(values)} values for {len(header)} columns{why}")
                if not empty:
                    yield line, dict(zip(header, values, strict=True))
                line = before + reader.line_num + 1
        except csv.Error as error:
            # A quote that is left open takes all further lines: the one where its row begins has to be corrected.
            raise InputError(f"{table}: line {line}: not readable as CSV: {error}; is a quote left open?") from None

    return TableText(header, before + 1, rows())


def _explain_count(values: list[str], columns: int, delimiter: str) -> str:
    """Returns a clause about the probable cause of a row with another number of values than columns, or ''."""
    others = [sign for sign in _DELIMITERS if len(values) == 1 and len(_split_at(values[0], sign)) == columns > 1]
    if others:
        return (
            f"; the row has {others[0]!r} between its values, the header {delimiter!r}: write one of them in all lines"
        )
    return f"; a cell that contains {delimiter!r} needs quotes around it" if len(values) > columns else ""


def _has_spaced_header(text: str, delimiter: str) -> bool:
    """Returns whether each delimiter of the header is followed by a space, which then belongs to no cell."""
    header = next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), [])
    return len(header) > 1 and all(name.startswith(" ") for name in header[1:])


def _decode(table: Path) -> str:
    """Returns the text of a table in UTF-8, or in UTF-16 with a byte-order mark.

    Bytes that are not UTF-8 become surrogates, because a file's name may contain them; `check_text` refuses them in
    labels and groups.
    """
    try:
        content = table.read_bytes()
    except OSError as error:
        raise InputError(f"{table}: cannot be read: {error.strerror}") from None
    if content.startswith(_WORKBOOK_HEADS):
        raise InputError(f"{table}: is a spreadsheet's workbook and not CSV: {SAVE_AS_CSV}")
    for begin, what in _NO_TABLES.items():
        if content.lstrip().lower().startswith(begin):
            raise InputError(f"{table}: is {what}")
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
        raise InputError(
            f"{table}: line {line}: a zero byte, as in UTF-16 or UTF-32 without a byte-order mark: save it as UTF-8"
        )
    return text


def _find_header(text: str) -> tuple[int, str]:
    """Returns the offset of the header line, and the delimiter if Excel's line `sep=` names one before it, else ''."""
    content = len(text) - len(text.lstrip(_BLANK))
    start = max(text.rfind(end, 0, content) for end in "\r\n") + 1
    named = re.compile(r'"?sep=(.)"?(?:\r\n|\r|\n)', re.IGNORECASE).match(text, start)
    return (named.end(), named[1]) if named else (start, "")


def _guess_delimiter(header: str) -> str:
    """Returns the delimiter, comma, semicolon, tab or |, that splits the header line into the most columns."""
    return max(_DELIMITERS, key=lambda delimiter: len(next(csv.reader([header], delimiter=delimiter), [])))


def describe_title(table: Path, needed: Collection[str]) -> str:
    """Returns a sentence about a title or a comment that stands where the header is expected; '' if there is none.

    Args:
        table: a table whose first line lacks a needed column.
        needed: the names of the columns.

    Raises:
        InputError: the table cannot be read.
    """
    text = _decode(table)
    start = _find_header(text)[0]
    begin = len(re.findall(r"\r\n|\r|\n", text[:start])) + 1
    lines = re.split(r"\r\n|\r|\n", text[start:], maxsplit=_TITLE_LINES)[:_TITLE_LINES]
    cells = _split(lines[0])
    if len(cells) == 1 and set(needed) <= set(_split(cells[0])):
        return f"line {begin} is in quotes as a whole, {clip(lines[0], 60)}: remove the quotes around whole lines"
    first = f"line {begin} is not a header ({clip(lines[0], 60)!r})"
    for number, line in enumerate(lines[1:], begin + 1):
        cells = [name.strip().casefold() for name in _split(line)]
        if all(name.casefold() in cells for name in needed):
            above = f"line {begin}" if number == begin + 1 else f"lines {begin} to {number - 1}"
            return f"{first}; line {number} has the columns {', '.join(needed)}: delete {above}"
    following = next(((number, line) for number, line in enumerate(lines[1:], begin + 1) if line.strip(_BLANK)), None)
    if following is None or sum(map(bool, _split(lines[0]))) != 1 or sum(map(bool, _split(following[1]))) < 2:
        return ""
    number, line = following
    count = counted(len(_split(line)), "cell")
    return (
        f"line {begin} has one cell ({clip(lines[0], 60)!r}), and line {number} has {count} "
        f"({clip(line, 60)!r}): if line {number} is the header, delete what stands above it"
    )


def _split(line: str) -> list[str]:
    """Returns the cells of a single line; [] if it is not CSV."""
    return max((_split_at(line, delimiter) for delimiter in _DELIMITERS), key=len)


def _split_at(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return []
