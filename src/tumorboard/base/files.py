"""Reads and writes the project's files: tables, JSON, atomic replacement, folders that outlive a run."""

import csv
import io
import json
import math
import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from tumorboard.base.errors import InputError

if TYPE_CHECKING:
    import pandas as pd


def read_table(path: Path | str, number_prefix: str | None = None) -> "pd.DataFrame":
    """Reads a CSV that this project wrote.

    Args:
        path: the file.
        number_prefix: prefix of the columns that are read as float64, each number exactly as Python reads it; None: all
            columns are text.

    Returns:
        A DataFrame of text: every cell as it stands in the file, an empty one as ''.

    Raises:
        InputError: the file does not exist, is not a table, or has a cell that should be a number and is not.
    """
    import pandas as pd  # imported here, because stages without tables need no pandas

    def read(**options: Any) -> pd.DataFrame:
        table: pd.DataFrame = pd.read_csv(
            path, na_filter=False, encoding="utf-8", encoding_errors="surrogateescape", **options
        )
        return table

    try:
        if number_prefix is None:
            return read(dtype=object)
        columns = read(dtype=object, nrows=0).columns
        numbers = [name for name in columns if name.startswith(number_prefix)]
        types = dict.fromkeys(columns, object) | dict.fromkeys(numbers, float)
        older = tuple(map(int, pd.__version__.split(".")[:2])) < (3, 1)  # needs the option below to be exact
        return read(dtype=types, **({"float_precision": "round_trip"} if older else {}))
    except FileNotFoundError:
        raise InputError(f"{path}: no such table") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        cause = str(error).strip().removeprefix("Error tokenizing data. C error: ")
        raise InputError(f"{path}: not a table: {cause}") from None
    except ValueError:
        return _read_numbers(read(dtype=object), numbers, path)


def _read_numbers(table: "pd.DataFrame", numbers: Sequence[str], path: Path | str) -> "pd.DataFrame":
    """Turns columns of text into float64; raises InputError that names the first one with a cell that is no number."""
    for name in numbers:
        try:
            table[name] = table[name].astype(float)
        except ValueError as error:
            raise InputError(f"{path}: column {name}: {error}") from None
    return table


def write_table(table: "pd.DataFrame", path: Path | str) -> None:
    """Writes a table as CSV, atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(table_bytes(table))


def table_bytes(table: "pd.DataFrame") -> bytes:
    """Returns a table as the bytes of a CSV file in UTF-8; a file's name that is not UTF-8 keeps its bytes."""
    buffer = _Lines()
    # As objects, float64 are written by Python's repr: the same digits as NumPy's, in two thirds of the time.
    text = table.astype(dict.fromkeys(table.select_dtypes("float64").columns, object))
    text.to_csv(buffer, index=False, lineterminator="\r\n", quoting=csv.QUOTE_MINIMAL)
    return buffer.getvalue().encode("utf-8", "surrogateescape")


def safe_cell(text: str, prefix: str = "'") -> str:
    """Returns a text that a spreadsheet shows as it is, with a prefix where it would compute it as a formula.

    Args:
        text: a cell's text, from a name that somebody else chose.
        prefix: put before a text that begins with = + - @, one of their full-width forms, or a control character.

    Source: OWASP, CSV Injection.

    >>> safe_cell("glioma"), safe_cell("=1+1"), safe_cell("-1.png", "./")
    ('glioma', "'=1+1", './-1.png')
    """
    return prefix + text if text[:1] in _FORMULA_BEGINS and text else text


_FORMULA_BEGINS = frozenset("=+-@\t\r\n\0\uff1d\uff0b\uff0d\uff20")


class _Lines(io.StringIO):
    """Takes rows that end with \\r\\n and ends them with \\n.

    The csv module quotes a cell that contains a character of the line terminator; cells with \\r or \\n must be quoted.
    """

    def write(self, row: str) -> int:
        return super().write(row.removesuffix("\r\n") + "\n")


def read_json(path: Path | str) -> Any:
    """Reads a JSON file that this project wrote.

    Raises:
        InputError: the file does not exist or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except ValueError as error:
        raise InputError(f"{path}: not JSON: {error}") from None


def write_json(tree: Mapping[str, Any], path: Path | str) -> None:
    """Writes strict JSON, atomically. NaN and infinity, which JSON does not have, become null."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(_strict(tree), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _strict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _strict(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(entry) for entry in value]
    if type(value).__module__ == "numpy":  # a NumPy scalar, recognized without importing NumPy
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Yields a temporary path beside `path` and renames it to `path` on success, so that no half-written file is seen.

    Creates missing folders. On an exception the temporary file is deleted and `path` stays as it was.
    """
    path = Path(path)
    if not path.parent.is_dir():  # this check takes a tenth of the time of mkdir
        path.parent.mkdir(parents=True, exist_ok=True)
    # The process's number is not enough: threads share it, and so may machines that share the folder.
    # A part of the name leaves room for the rest: a file system has 255 bytes, and a character up to 4.
    temporary = path.with_name(f".{path.name[:50]}.{os.getpid()}.{uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def plain_path(path: Path) -> Path:
    """Returns an absolute path without `..`, so that two ways to write it are equal.

    >>> plain_path(Path("new/../new/1.png")) == plain_path(Path("new/1.png").absolute())
    True
    """
    return Path(os.path.abspath(path))  # noqa: PTH100 - links stay, since `resolve` would make two of them one file


def remove_leftovers(folder: Path, pattern: str, kept: Collection[Path]) -> None:
    """Deletes what an earlier run wrote for a model or fold that is no longer listed.

    A stage that depends on the whole folder would otherwise be recorded with files that a fresh clone does not have.

    Args:
        folder: a folder that several stages write into.
        pattern: glob pattern below `folder`; other files stay.
        kept: paths that match the pattern and stay. A folder that becomes empty is deleted too.
    """
    for path in sorted(folder.glob(pattern)):
        if path in kept:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
        if not any(path.parent.iterdir()):
            path.parent.rmdir()


def side_cache(name: str) -> Path:
    """Returns a folder that survives runs and experiments; deleting it costs time and changes no result.

    It belongs to the main checkout, also where DVC runs an experiment in a temporary copy (DVC_ROOT).
    """
    return Path(os.environ.get("DVC_ROOT", ".")).resolve() / ".cache" / name
