"""Lists the images of a raw folder, a label table or a MedMNIST file, and reads the bytes of each image."""

import os
import stat
import unicodedata
from io import FileIO
from pathlib import Path, PurePosixPath
from typing import TypeAlias

import pandas as pd

from tumorboard.base.data_params import Data, Links
from tumorboard.base.errors import ImageError, InputError, clip
from tumorboard.base.faults import is_shortage
from tumorboard.base.versioning import nearest_path
from tumorboard.data import medmnist
from tumorboard.data.class_folders import list_class_folders
from tumorboard.data.group_pattern import extract_groups
from tumorboard.data.label_table import (
    LABEL_COLUMNS,
    ColumnsError,
    Row,
    check_text,
    read_label_table,
    table_form,
)
from tumorboard.data.layout import explain_layout
from tumorboard.data.links import link_rule, resolve_link
from tumorboard.data.look_alikes import describe_difference, describe_twin, look_of, refuse_alike_groups
from tumorboard.data.published_tables import describe_missing, propose_table, propose_table_above
from tumorboard.data.table_paths import MissingFileError, check_path
from tumorboard.data.unlabeled import ABOUT_CONTAINERS, ARCHIVES, CONTAINERS, describe_containers, explain_unlabeled
from tumorboard.data.walk import IgnoreReason, walk_folder
from tumorboard.images.formats import HEAD_BYTES, check_large_tiff, explain_foreign, is_readable

LAYOUT = (
    "data.raw must be a folder with one folder per class (if wanted inside Training and Testing, or train, val and "
    "test, or fold0, fold1 ...), a folder with a table labels.csv that has the columns path and label, or a MedMNIST "
    ".npz file"
)

_LOOK_FIRST_BYTES = 1 << 20  # bytes of a file from which its first ones decide whether the rest is read

_ABOUT_FILES = {
    **dict.fromkeys(ARCHIVES, "an archive: unpack it, and give the folder"),
    **dict.fromkeys(CONTAINERS, f"a container of data, {ABOUT_CONTAINERS}"),
    **dict.fromkeys((".csv", ".tsv", ".txt"), "a table: give the folder of its images, and name it as data.table"),
}
_LISTED = 10  # labels in a message
MAX_FOLD_DIGITS = 9  # digits of a fold number, so that it fits any integer type

_OUTSIDE_CLASSES: IgnoreReason = "outside the class folders"
_NOT_IN_TABLE: IgnoreReason = "not in the table"
_NOT_IN_CLASSES: IgnoreReason = "not in data.classes"

# One row per image: path (POSIX, relative to data.raw), label, group ('' if not given), split ('train', 'val' or
# 'test', '' if not given), fold (Int64, missing if not given), then the attributes of a label table.
ListedImages: TypeAlias = pd.DataFrame
IgnoredFiles: TypeAlias = pd.DataFrame  # one row per file: path, reason (an IgnoreReason)


def list_images(raw: Path, data: Data, labels: Path | None = None) -> tuple[ListedImages, IgnoredFiles]:
    """Lists the images to crop and the files that are left out, both sorted by path.

    Only the label table or the .npz file is opened. Whether a file is an image, and whether a link leads to one, is
    found out when it is decoded.

    Args:
        raw: a folder, or a MedMNIST .npz file.
        data: the section `data` of params.yaml.
        labels: a label table that replaces `data.table` and may lie outside `raw`.

    Returns:
        The listed images and the ignored files.

    Raises:
        InputError: `raw`, the table or the pattern cannot be used, there are fewer than two classes, or the folders
            look like parts of a set instead of classes. Where a table fits, the message has the lines for params.yaml.
    """
    ignored: dict[str, IgnoreReason] = {}
    try:
        raw.stat()
    except FileNotFoundError:
        pass  # explained below
    except OSError as error:  # a name that is too long, links in a circle, no permission
        raise InputError(f"data.raw: '{clip(str(raw))}' cannot be opened: {error.strerror}") from None
    if raw.is_file():
        if raw.suffix.lower() not in ("", ".npz"):
            raise InputError(
                f"data.raw: '{raw}' is a file, {_ABOUT_FILES.get(raw.suffix.lower(), 'no folder')}; {LAYOUT}"
            )
        rows, source = _list_npz(raw, labels or data.table), raw
    elif raw.is_dir():
        rows, ignored, source = _list_folder(raw, data, labels or find_table(raw, data))
    elif raw.name.startswith(medmnist.PREFIX) and not raw.exists():
        name = raw.name.removeprefix(medmnist.PREFIX)
        raise InputError(
            f"data.raw: '{raw}' is not downloaded yet: set medmnist: [{name}] in params.yaml and run dvc repro"
        )
    else:
        raise InputError(f"data.raw: there is no '{raw}' ({nearest_path(raw)}); {LAYOUT}")
    if not raw.is_dir():
        rows = _select_classes(rows, ignored, data, source)
        _check_class_names(rows, source)
    if data.group_pattern is not None:
        ungrouped = [row for row in rows if not row["group"]]
        groups = extract_groups([row["path"] for row in ungrouped], data.group_pattern)
        for row, group in zip(ungrouped, groups, strict=True):
            row["group"] = group
    rows.sort(key=lambda row: row["path"])
    refuse_alike_groups([(row["path"], row["group"]) for row in rows])
    attributes = [name for name in (rows[0] if rows else ()) if name not in LABEL_COLUMNS]
    images = pd.DataFrame(rows, columns=[*LABEL_COLUMNS, *attributes], dtype=object)
    images["fold"] = pd.array([_parse_fold(row) if row["fold"] else None for row in rows], dtype="Int64")
    return images, pd.DataFrame(sorted(ignored.items()), columns=["path", "reason"], dtype=object)


def list_files(folder: Path) -> list[str]:
    """Returns the sorted POSIX paths of all files in a folder and its subfolders, without hidden and system files.

    Raises:
        InputError: a subfolder cannot be read, or links form a circle.
    """
    return walk_folder(folder, link_rule(folder)).files


def read_content(raw: Path, path: str, max_bytes: int | None = None, links: Links = "inside") -> bytes:
    """Returns the bytes of a listed image.

    Args:
        raw: the folder or MedMNIST .npz file that was listed.
        path: path of the image, as listed.
        max_bytes: as `crop.max_bytes`; None: any number.
        links: as `data.links`.

    Raises:
        ImageError: the file cannot be read, is a broken link or one that `links` does not allow, has more than
            `max_bytes`, or is large and does not begin as an image.
    """
    if raw.is_file():
        return medmnist.read_npz_image(raw, path)
    name = f"{raw}/{path}"  # the methods of Path take longer than the system calls
    try:
        mode = os.lstat(name).st_mode
        if stat.S_ISLNK(mode):
            mode = resolve_link(Path(name), link_rule(raw, links)).stat().st_mode
        if not stat.S_ISREG(mode):
            raise ImageError("unreadable", "not a regular file")
        return read_image_bytes(name, max_bytes)
    except OSError as error:
        if is_shortage(error):
            raise
        raise ImageError("unreadable", error.strerror or str(error)) from error


def read_image_bytes(name: str | Path, max_bytes: int | None) -> bytes:
    """Returns the bytes of an image file; the first bytes of a large file are checked before the rest is read.

    Args:
        name: path of the file.
        max_bytes: as `crop.max_bytes`; None: any number.

    Raises:
        OSError: the file cannot be read.
        ImageError: the file has more than `max_bytes`, is large and does not begin as an image, or memory ran out.
    """
    with FileIO(name) as file:
        size = os.fstat(file.fileno()).st_size
        if size > _LOOK_FIRST_BYTES or (max_bytes is not None and size > max_bytes):
            head = file.read(HEAD_BYTES) or b""
            if not is_readable(head):
                raise explain_foreign(head)
            if max_bytes is not None and size > max_bytes:
                file.seek(0)
                check_large_tiff(file)
                raise ImageError("too many bytes", f"{size} bytes, expected at most {max_bytes} (crop.max_bytes)")
            file.seek(0)
        try:
            return file.readall()
        except MemoryError:
            raise ImageError("not enough memory", f"{size} bytes do not fit: lower crop.max_bytes") from None


def find_table(raw: Path, data: Data) -> Path | None:
    """Returns the label table of a folder: `data.table`, else labels.csv, else None; raises InputError."""
    if data.table is not None:
        return raw / check_path(data.table, raw.resolve(), "data.table", link_rule(raw, data.links))
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


def _list_folder(raw: Path, data: Data, table: Path | None) -> tuple[list[Row], dict[str, IgnoreReason], Path]:
    """Lists the images of a label table, or of the class folders if there is none.

    Returns:
        One row per image, the ignored files, and the path that gave the labels: the table or the folder.
    """
    rule = link_rule(raw, data.links)
    files, outward_links, ignored = walk_folder(raw, rule)
    try:
        if table is None:
            rows = list_class_folders(files, outward_links, raw)
            ignored |= dict.fromkeys(set(files) - {row["path"] for row in rows}, _OUTSIDE_CLASSES)
        else:
            rows = read_label_table(table, raw, form=table_form(data), rule=rule, files=files)
            ignored = _ignored_beside_table(
                table, raw, listed={row["path"] for row in rows}, files=files, ignored=ignored
            )
        used = _select_classes(rows, ignored, data, table or raw)
        _check_class_names(used, table or raw)
    except _ShortOfClassesError as error:
        hint = "" if table else _explain_few_classes(raw, files, rows)
        raise InputError(f"{error}{hint}") from None
    except ColumnsError as error:
        raise InputError(f"{error}{propose_table(raw, files, table)}") from None
    except MissingFileError as error:
        assert table is not None  # class folders name no paths
        raise InputError(f"{error}{describe_missing(raw, files, table, data)}") from None
    if table is None and data.layout == "auto" and data.classes is None and (why := explain_layout(raw, files, rows)):
        raise InputError(
            f"data.raw: '{raw}': its folders do not look like classes{why}\n"
            "If each folder is a class nevertheless, write data.layout: folders"
        )
    return used, ignored, table or raw


def _explain_few_classes(raw: Path, files: list[str], rows: list[Row]) -> str:
    """Returns what was probably meant by a folder with fewer than two classes; '' if nothing shows it."""
    hint = explain_layout(raw, files, rows) or propose_table(raw, files) or propose_table_above(raw, files)
    return hint + "".join(f"\n{sentence}" for sentence in describe_containers(raw, files))


def _ignored_beside_table(
    table: Path, raw: Path, *, listed: set[str], files: list[str], ignored: dict[str, IgnoreReason]
) -> dict[str, IgnoreReason]:
    """Returns the entries of `ignored` that no table lists, and the files that the table does not list."""
    for file, folder in ((table, raw), (table.resolve(), raw.resolve())):
        if file.is_relative_to(folder):
            listed = listed | {file.relative_to(folder).as_posix()}
    # A table may list files in hidden folders.
    used = listed | {str(folder) for path in listed for folder in PurePosixPath(path).parents}
    kept = {path: reason for path, reason in ignored.items() if path not in used}
    return kept | dict.fromkeys(set(files) - listed, _NOT_IN_TABLE)


def _select_classes(rows: list[Row], ignored: dict[str, IgnoreReason], data: Data, source: Path) -> list[Row]:
    """Returns the rows that `data.classes` lists, with its names, and adds the others to `ignored`."""
    if data.classes is None:
        return rows
    for name in data.classes.values():
        check_text("class", name, "data.classes")
    labels = {row["label"] for row in rows}
    for value in data.classes:
        if value not in labels:
            known = ", ".join(repr(label) for label in sorted(labels)[:_LISTED])
            twin = describe_twin(value, sorted(labels))
            raise InputError(f"data.classes: no label in '{source}' is {value!r}; there are {known}{twin}")
    ignored |= {row["path"]: _NOT_IN_CLASSES for row in rows if row["label"] not in data.classes}
    return [row | {"label": data.classes[row["label"]]} for row in rows if row["label"] in data.classes]


class _ShortOfClassesError(InputError):
    """There are fewer than two classes."""


def _check_class_names(rows: list[Row], source: Path) -> None:
    """Raises InputError if there are fewer than two classes, or two whose names look alike."""
    labels = {row["label"] for row in rows}
    spellings: dict[str, str] = {}
    for label in sorted(labels):
        first = spellings.setdefault(_spelling(label), label)
        if first != label:
            difference = describe_difference(first, label)
            same = f"; they look the same, but the first has {difference}" if difference else ""
            # Two Unicode spellings of one letter look the same, so that only escapes show the difference.
            show = ascii if unicodedata.normalize("NFKC", first) == unicodedata.normalize("NFKC", label) else repr
            one, other = (
                f"{show(twin)} (as of {show(next(row['path'] for row in rows if row['label'] == twin))})"
                for twin in (first, label)
            )
            raise InputError(
                f"data.raw: the classes {one} and {other} differ only in case, spaces or spelling of letters, in "
                f"'{source}'{same}: give them one name (data.classes), or clearly different ones"
            )
    if not rows:
        unlabeled = explain_unlabeled(source) or f"no images in '{source}'"
        raise _ShortOfClassesError(f"data.raw: {unlabeled}; {LAYOUT}")
    if len(labels) < 2:
        raise _ShortOfClassesError(
            f"data.raw: only one class, {_quote(labels)}, in '{source}', but two are needed; {LAYOUT}"
        )


def _spelling(label: str) -> str:
    return "".join(look_of(label).casefold().split())


def _parse_fold(row: Row) -> int:
    digits = row["fold"].lstrip("0") or "0"
    if len(digits) > MAX_FOLD_DIGITS:
        raise InputError(f"data.raw: the fold of {row['path'][:200]!r} has {len(digits)} digits: number folds from 0")
    return int(digits)


def _quote(names: set[str]) -> str:
    return ", ".join(repr(name) for name in sorted(names))
