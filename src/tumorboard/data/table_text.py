"""Reads the text of a table (CSV) in the forms that spreadsheets write; errors name the line."""

import codecs
import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tumorboard.base.errors import InputError

# Files of spreadsheet programs by their ending, and by their first bytes: a ZIP archive, or Excel's older format.
WORKBOOKS = (".xlsx", ".xlsm", ".xlsb", ".xls", ".ods", ".numbers")
_WORKBOOK_HEADS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
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
                    raise InputError(f"{table}: line {line}: {len(values)} values for {len(header)} columns")
                if not empty:
                    yield line, dict(zip(header, values, strict=True))
                line = before + reader.line_num + 1
        except csv.Error as error:
            # A quote that is left open takes all further lines: the one where its row begins has to be corrected.
            raise InputError(f"{table}: line {line}: not readable as CSV: {error}; is a quote left open?") from None

    return TableText(header, before + 1, rows())


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
    content = len(text) - len(text.lstrip(' \t\r\n,;"'))
    start = max(text.rfind(end, 0, content) for end in "\r\n") + 1
    named = re.compile(r'"?sep=(.)"?(?:\r\n|\r|\n)', re.IGNORECASE).match(text, start)
    return (named.end(), named[1]) if named else (start, "")


def _guess_delimiter(header: str) -> str:
    """Returns the delimiter, comma, semicolon, tab or |, that splits the header line into the most columns."""
    return max(",;\t|", key=lambda delimiter: len(next(csv.reader([header], delimiter=delimiter), [])))
