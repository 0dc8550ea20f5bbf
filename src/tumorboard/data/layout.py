"""Distinguishes folders that look like parts, archives or splits of a download from folders that are classes."""

import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tumorboard.base.errors import printable
from tumorboard.data.class_folders import parse_part
from tumorboard.data.companions import (
    MADE_OF_A_CLASS,
    MASKS,
    MASKS_BEHIND,
    count_companions,
    find_companions,
    find_copied_names,
    find_paired_names,
)
from tumorboard.data.folder_words import (
    EMPTY_WORDS,
    FINDINGS,
    GRADE_WORDS,
    NO_CLASSES,
    ORIGINALS,
    PART_WORDS,
    SIDES,
    SPLIT_WORDS,
    VIEWS,
    are_renderings,
    words_of,
)
from tumorboard.data.label_columns import agrees_with_folders, has_classes, lists_classes
from tumorboard.data.label_table import Row
from tumorboard.data.published_tables import describe_table, describe_workbooks
from tumorboard.data.tables_beside import find_tables
from tumorboard.data.unlabeled import begins_as_image

SHOWN = 4  # names in a message
HERLEV_MASK = "-d"  # behind the names of the Herlev set's masks
_DATE = re.compile(r"(19|20)\d\d[-_. ]?[01]\d[-_. ]?[0-3]\d|[0-3]?\d[-_. ][01]?\d[-_. ](19|20)\d\d")
_SETS = {"set", "sets", "dataset", "datasets"}  # words of folders that hold the folders of classes
_PATIENT_DIGITS = 3  # fewest digits of a number in a folder's name that is a patient's and no grade
_MANY = 10  # fewest folders with such numbers beside other words in their names that count as patients


def explain_layout(raw: Path, files: Sequence[str], rows: Sequence[Row]) -> str:
    """Returns why the folders of classes look like something else, and what was probably meant; '' if they do not.

    Args:
        raw: the folder.
        files: the POSIX paths of all its files.
        rows: the images of its class folders.
    """
    labels = sorted({row["label"] for row in rows})
    below, roots = _explain_folders_below(raw, labels, rows)
    why = [*_explain_names(labels), *below]
    meant = _propose_renaming(labels) if len(roots) > 1 else []
    meant = meant or [
        f"Probably meant: data.raw: {root}, with the {_kind(names)} {_listed(names)}" for root, names in roots.items()
    ]
    paths = [row["path"] for row in rows]
    if masks := find_companions(paths, MASKS, MASKS_BEHIND) or find_paired_names(paths, HERLEV_MASK):
        why += [f"{count_companions(masks)}, as a mask of it"]
        meant += ["Move the masks out of data.raw, or list the pictures alone in a table labels.csv"]
    if len(labels) > 1 or why:
        for table in find_tables(raw, files):
            place = table.file.relative_to(raw).as_posix()
            # A table inside one class folder describes that class alone.
            beside = "/" not in place or not any(path.startswith(f"{place.split('/')[0]}/") for path in table.paths)
            if lists_classes(table, labels) or agrees_with_folders(table, rows):
                continue
            if beside and has_classes(table):
                why += [f"{printable(table.file.name)} lies beside them and names their files"]
                meant += [f"Probably meant: {describe_table(raw, table)}"]
                break
    if not why:
        return ""
    rest = ["Set data.raw to a folder whose own folders are the classes, or data.table to a table of labels"]
    rest += [*_describe_texts(raw, rows), *describe_workbooks(files)]
    return "\n".join([": " + "; ".join(why) + ".", *(meant or rest)])


def _describe_texts(raw: Path, rows: Sequence[Row]) -> list[str]:
    """Returns a sentence about folders without images beside others with images, by the first file of each."""
    first = {row["label"]: row["path"] for row in reversed(rows)}
    texts = {label: path for label, path in first.items() if not begins_as_image(raw / path)}
    if not 0 < len(texts) < len(first):
        return []
    return [
        f"{_listed(texts)} hold no images, but files such as {printable(min(texts.values()))}: if these have the "
        "labels, make a table labels.csv of them, with the columns path and label"
    ]


def _kind(names: Iterable[str]) -> str:
    return "parts" if all(map(parse_part, names)) else "classes"


def _propose_renaming(labels: Sequence[str]) -> list[str]:
    """Returns the new names of folders that each are named as another part of one set, [] if they are not."""
    kinds = {label: {SPLIT_WORDS[word] for word in words_of(label) if word in SPLIT_WORDS} for label in labels}
    names = [kind for each in kinds.values() for kind in each]
    if any(len(each) != 1 for each in kinds.values()) or len(set(names)) < len(labels):
        return []
    renamed = ", ".join(f"{label!r} to {next(iter(kinds[label]))}" for label in labels)
    return [f"Probably meant: the parts of one set; rename {renamed}"]


def _explain_names(labels: Sequence[str]) -> list[str]:
    """Returns why the names of folders are those of parts, archives or splits, in at most one sentence."""
    words = {label: words_of(label) for label in labels}
    if archives := [label for label in labels if re.search(r"\.(zip|tar|t?gz|rar|7z)\b", label, re.IGNORECASE)]:
        return [f"{_listed(archives)} has the name of an archive"]
    if copies := find_copied_names(labels):
        name, original = next(iter(copies.items()))
        return [f"{name!r} is named as a copy of {original!r}: merge or remove it"]
    if made := find_companions(labels, MADE_OF_A_CLASS):
        name, original = made[0]
        return [f"{name!r} is named as what was made of the pictures of {original!r}: move it out of data.raw"]
    if splits := _split_like(words):
        return [f"{_listed(splits)} look like parts for training and test, by their names"]
    if len(labels) > 1 and (alike := _alike_but_for_a_number(words)):
        return [f"{_listed(alike)} are alike but for a number, like parts of a download, or patients"]
    named = [set(each) - {word for word in each if word.isdigit()} for each in words.values()]
    if len(labels) > 1 and all(each and each <= EMPTY_WORDS for each in named) and not _are_grades(words.values()):
        return [f"{_listed(labels)} are no names of classes"]
    if beside := _list_no_classes(dict(zip(labels, named, strict=True))):
        return [f"{_listed(beside)} hold something about pictures, not a class of pictures, by their names"]
    if len(labels) > 1 and all(each and each <= SIDES for each in named):
        return [f"{_listed(labels)} are sides of the body, not what a picture shows"]
    if len(labels) > 1 and are_renderings(labels):
        return [f"{_listed(labels)} are ways to store or draw a picture, not what it shows"]
    if len(labels) > 1 and all(map(_DATE.fullmatch, labels)):
        return [f"{_listed(labels)} are dates"]
    if len(labels) > 1 and all(map(str.isdigit, labels)) and max(map(len, labels)) >= _PATIENT_DIGITS:
        return [f"{_listed(labels)} are long numbers, like those of patients"]
    numbers = [[word for word in each if word.isdigit() and len(word) >= _PATIENT_DIGITS] for each in words.values()]
    if len(labels) >= _MANY and all(numbers):
        return [f"{_listed(labels)} have long numbers in their names, like those of patients"]
    return []


def _split_like(words: Mapping[str, Sequence[str]]) -> list[str]:
    """Returns the folders that are named as parts for training and test.

    If words for both parts occur, all folders with one of them count, else those with only empty words beside it.

    >>> _split_like({"set_training_data": ["set", "training", "data"], "glioma": ["glioma"]})
    ['set_training_data']
    >>> _split_like({"test_positive": ["test", "positive"], "test_negative": ["test", "negative"]})
    []
    """
    kinds = {label: {SPLIT_WORDS[word] for word in each if word in SPLIT_WORDS} for label, each in words.items()}
    marked = [label for label, kind in kinds.items() if kind]
    if len({kind for label in marked for kind in kinds[label]}) > 1:
        return marked
    common = set.intersection(*map(set, words.values())) if len(words) > 1 else set()
    ignored = EMPTY_WORDS | SPLIT_WORDS.keys() | common
    return [label for label in marked if all(word in ignored or word.isdigit() for word in words[label])]


def _alike_but_for_a_number(words: Mapping[str, Sequence[str]]) -> list[str]:
    """Returns the folders whose names differ by a number only; grades, stages and short codes such as G1 do not count.

    All folders have to be alike, or two with a word such as 'part'.

    >>> _alike_but_for_a_number({"part 1": ["part", "1"], "part 2": ["part", "2"], "x": ["x"]})
    ['part 1', 'part 2']
    >>> _alike_but_for_a_number({"grade 1": ["grade", "1"], "grade 2": ["grade", "2"]})
    []
    """
    by_stem: dict[tuple[str, ...], list[str]] = {}
    for label, each in words.items():
        # A letter behind a word of parts counts like a number: part A, part B.
        counted = [
            word.isdigit() or (len(word) == 1 and index > 0 and each[index - 1] in PART_WORDS)
            for index, word in enumerate(each)
        ]
        stem = tuple(word for word, number in zip(each, counted, strict=True) if not number)
        by_stem.setdefault(stem, []).append(label)
    for stem, alike in by_stem.items():
        if len(alike) < 2 or not stem or stem[-1] in GRADE_WORDS or _are_codes(stem, alike):
            continue
        if len(alike) == len(words) or PART_WORDS & set(stem):
            return alike
    return []


def _are_codes(stem: Sequence[str], labels: Sequence[str]) -> bool:
    """Returns whether names are short codes with one digit, such as G1 to G4."""
    return len("".join(stem)) <= 2 and all(sum(letter.isdigit() for letter in label) <= 1 for label in labels)


def _list_no_classes(words: Mapping[str, set[str]]) -> list[str]:
    """Returns the folders that are named as masks, annotations or copies, by the words of each folder's name.

    >>> _list_no_classes({"benign": {"benign"}, "malignant": {"malignant"}, "masks": {"masks"}})
    ['masks']
    >>> _list_no_classes({"mask": {"mask"}, "no_mask": {"no", "mask"}})
    []
    >>> _list_no_classes({"original": {"original"}, "fake": {"fake"}})
    []
    """
    named = [label for label, each in words.items() if each and each <= NO_CLASSES]
    counts = Counter(word for each in words.values() for word in each)
    two_classes = len(words) == 2 and named and words[named[0]] <= ORIGINALS
    return [] if two_classes else [label for label in named if all(counts[word] == 1 for word in words[label])]


def _are_grades(words: Iterable[Sequence[str]]) -> bool:
    return all(any(word in GRADE_WORDS for word in each) and any(word.isdigit() for word in each) for each in words)


class _Below(NamedTuple):
    """What lies below one class folder."""

    top: str  # path of the class folder, relative to the raw folder
    subfolders: dict[str, set[str]]  # names of the folders in each subfolder, by its name
    has_files: bool  # whether files lie in the class folder itself


def _explain_folders_below(
    raw: Path, labels: Sequence[str], rows: Sequence[Row]
) -> tuple[list[str], dict[str, list[str]]]:
    """Returns why folders below look like classes or parts, and the folders to use instead, with their classes."""
    below = {label: _look_below([row for row in rows if row["label"] == label]) for label in labels}
    why: list[str] = []
    roots: dict[str, list[str]] = {}
    for label, (top, subfolders, _) in below.items():
        inner = {name for name in subfolders if name in below and name != label}
        classes = set().union(*subfolders.values())
        if all(parse_part(name) for name in subfolders) and (len(subfolders) > 1 or len(classes) > 1):
            why.append(f"{label!r} contains the parts {_listed(subfolders)}")
            if len(classes) > 1:
                roots[str(raw / top)] = sorted(classes)
        elif inner:
            why.append(f"{label!r} contains folders with the names of classes beside it, {_listed(inner)}")
    if why:
        return why, roots
    closed = {label: each for label, each in below.items() if not each.has_files}
    deeper = _first_fork([row["path"] for row in rows]) if len(labels) == 1 and closed else None
    if deeper and _may_be_classes(deeper[1]):
        top, names_there = deeper
        levels = top.count("/") + 1 - below[labels[0]].top.count("/")
        return [f"the classes seem to lie {'one level' if levels == 1 else f'{levels} levels'} down"], {
            str(raw / top): names_there
        }
    names = Counter(name for each in closed.values() for name in each.subfolders)
    shared = {name for name, count in names.items() if count > 1 and _may_be_class(name)}
    holders = [label for label, each in closed.items() if len(each.subfolders.keys() & shared) > 1]
    aside = _list_aside(rows)
    if len(holders) < 2:
        sets = [label for label, each in closed.items() if len(list(filter(_may_be_class, each.subfolders))) > 1]
        if len(sets) == len(labels) > 1 and all(_SETS.intersection(words_of(label)) for label in sets):
            roots = {str(raw / below[label].top): sorted(below[label].subfolders) for label in sets[:SHOWN]}
            return [f"{_listed(sets)} are named as sets, and hold folders of their own"], roots
        return [sentence for sentence in (aside, _find_findings(labels, rows)) if sentence], {}
    if not shared <= EMPTY_WORDS:
        roots = {str(raw / below[label].top): sorted(below[label].subfolders) for label in holders[:SHOWN]}
    above = {posixpath.dirname(below[label].top) for label in holders}
    if all(map(parse_part, labels)) and len(above) == 1 and "" not in above:  # parts inside one folder of a part
        roots = {str(raw / above.pop()): sorted(labels)}
    roots = {root: inside for root, inside in roots.items() if _may_be_classes(inside)}
    return [f"{_listed(holders)} contain the same folders {_listed(shared)}", *([aside] if aside else [])], roots


def _may_be_classes(names: Sequence[str]) -> bool:
    """Returns whether folders, as the classes or parts of data.raw, would not be refused by their names."""
    return all(map(parse_part, names)) or not _explain_names(names)


def _find_findings(labels: Sequence[str], rows: Sequence[Row]) -> str:
    """Returns a sentence about folders below that are named as findings, while no class is; '' if there are none."""
    if any(FINDINGS.intersection(words_of(label)) for label in labels):
        return ""
    folders = {step for row in rows for step in row["path"].split("/")[1:-1]}
    named = {word: folder for folder in sorted(folders) for word in FINDINGS.intersection(words_of(folder))}
    return f"folders below them, {_listed(named.values())}, are named as findings" if len(named) > 1 else ""


def _list_aside(rows: Sequence[Row]) -> str:
    """Returns a sentence about the folders of masks, crops and the like beside the pictures of a class, or ''."""
    beside: dict[str, set[str]] = {}  # names of the folders in each folder of a class; '' stands for its files
    for row in rows:
        steps = row["path"].split("/")
        for depth in range(2 if row["split"] or row["fold"] else 1, len(steps)):
            beside.setdefault("/".join(steps[:depth]), set()).add(steps[depth] if depth < len(steps) - 1 else "")
    aside = {
        f"{folder}/{name}" for folder, names in beside.items() for name in names if len(names) > 1 and _is_aside(name)
    }
    return f"{_listed(aside)} would count as pictures of their class: move them out of data.raw" if aside else ""


def _is_aside(name: str) -> bool:
    """Returns whether a folder's name ends with a word for masks and the like, as 'infection masks' does."""
    words = words_of(name)
    return words[-1:] != [] and words[-1] in NO_CLASSES - ORIGINALS and not {"no", "with", "without"} & set(words)


def _first_fork(paths: Sequence[str]) -> tuple[str, list[str]] | None:
    """Returns the topmost folder that has several folders, and their names; None without one.

    It may have files of its own, such as a text about the set, if they are fewer than the folders.

    >>> _first_fork(["set/v2/a/1.png", "set/v2/b/2.png", "set/v2/README"])
    ('set/v2', ['a', 'b'])
    """
    top = posixpath.commonpath([posixpath.dirname(path) for path in paths])
    inside = [path.removeprefix(f"{top}/").split("/") for path in paths]
    names = sorted({steps[0] for steps in inside if len(steps) > 1})
    loose = sum(len(steps) == 1 for steps in inside)
    return (top, names) if len(names) > 1 and loose < len(names) else None


def _look_below(rows: Sequence[Row]) -> _Below:
    """Returns what lies below the class folder of some rows."""
    subfolders: dict[str, set[str]] = {}
    top, has_files = "", False
    for row in rows:
        start = 1 if row["split"] or row["fold"] else 0
        steps = row["path"].split("/")
        top = "/".join(steps[: start + 1])
        if len(steps) == start + 2:
            has_files = True
        elif len(steps) > start + 2:
            subfolders.setdefault(steps[start + 1], set()).update(steps[start + 2 : -1][:1])
    return _Below(top, subfolders, has_files)


def _may_be_class(name: str) -> bool:
    """Returns whether a folder's name may be a class: it has no number, as patients have, and is no view or part."""
    return not re.search(r"\d", name) and name.lower() not in VIEWS and not parse_part(name)


def _listed(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - SHOWN} more" if len(ordered) > SHOWN else ""
    return ", ".join(repr(name) for name in ordered[:SHOWN]) + more
