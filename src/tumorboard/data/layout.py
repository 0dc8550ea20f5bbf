"""Distinguishes folders that look like parts, archives or splits of a download from folders that are classes."""

import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tumorboard.base.errors import printable
from tumorboard.data.class_folders import parse_part
from tumorboard.data.companions import MASKS, count_companions, find_companions, find_copied_names
from tumorboard.data.label_table import Row
from tumorboard.data.published_tables import describe_table, describe_workbooks, has_classes
from tumorboard.data.tables_beside import agrees_with_folders, find_tables

SHOWN = 4  # names in a message


def _word_set(words: str) -> set[str]:
    return set(words.split())


_SPLIT_WORDS = {
    **dict.fromkeys(("train", "training", "trn", "trainset"), "train"),
    **dict.fromkeys(("test", "testing", "tst", "testset", "holdout"), "test"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval", "valset"), "val"),
}
# Words without information about what a picture shows.
_EMPTY_WORDS = _word_set(
    """
    data dataset datasets database image images img imgs picture pictures photo photos scan scans set phase final
    prelim preliminary input inputs groundtruth gt ground truth label labels mask masks annotation annotations
    segmentation segmentations public private release version stage task archive raw original processed preprocessed
    cropped resized png jpg jpeg jpgs pngs dicom dcm tif tiff bmp nifti files folder folders download downloads
    unzipped extracted copy backup of and the zip tar gz rar 7z v originals
    """
)
# Folders beside classes that hold something about the pictures instead of a class.
_NO_CLASSES = _word_set(
    """
    mask masks groundtruth annotation annotations annotated segmentation segmentations overlay overlays augmented
    augmentation augmentations original originals labels
    """
)
_ORIGINALS = _word_set("original originals")  # those among them that may be a class: original and fake
_PART_WORDS = _word_set(
    """
    part parts pt batch chunk shard archive disc disk volume vol fold split section download zip series images image
    imgs img data dataset set subset patient patients pat subject case site center centre hospital clinic scanner
    slide session study visit
    """
)
# Words that are classes with a number behind them: grade 1, stage 2, BI-RADS 3.
_GRADE_WORDS = _word_set(
    """
    grade grad gr stage stadium class classe klasse cls label type typ subtype level lvl score category cat severity
    degree birads rads pirads tirads lirads gleason isup figo cin kl who mayo mes nyha asa bethesda fitzpatrick
    fazekas aspects dr pt pn group cluster covid hpv her trisomy
    """
)
_SIDES = _word_set("left right l r od os ou")
# Names of folders below a class that distinguish views and sides.
_VIEWS = _SIDES | _word_set(
    """
    ap pa lateral lat frontal axial coronal sagittal cc mlo t1 t2 flair dwi adc male female
    pre post venous arterial portal
    """
)
_FINDINGS = _word_set("positive negative pos neg benign malignant normal abnormal healthy")
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
    if masks := find_companions([row["path"] for row in rows], MASKS):
        why += [f"{count_companions(masks)}, as a mask of it"]
        meant += ["Move the masks out of data.raw, or list the pictures alone in a table labels.csv"]
    if len(labels) > 1 or why:
        for table in find_tables(raw, files):
            place = table.file.relative_to(raw).as_posix()
            # A table inside one class folder describes that class alone.
            beside = "/" not in place or not any(path.startswith(f"{place.split('/')[0]}/") for path in table.paths)
            if beside and has_classes(table) and not agrees_with_folders(table, rows):
                why += [f"{printable(table.file.name)} lies beside them and names their files"]
                meant += [f"Probably meant: {describe_table(raw, table)}"]
                break
    if not why:
        return ""
    rest = ["Set data.raw to a folder whose own folders are the classes, or data.table to a table of labels"]
    return "\n".join([": " + "; ".join(why) + ".", *(meant or [*rest, *describe_workbooks(files)])])


def _kind(names: Iterable[str]) -> str:
    return "parts" if all(map(parse_part, names)) else "classes"


def _propose_renaming(labels: Sequence[str]) -> list[str]:
    """Returns the new names of folders that each are named as another part of one set, [] if they are not."""
    kinds = {label: {_SPLIT_WORDS[word] for word in _words(label) if word in _SPLIT_WORDS} for label in labels}
    names = [kind for each in kinds.values() for kind in each]
    if any(len(each) != 1 for each in kinds.values()) or len(set(names)) < len(labels):
        return []
    renamed = ", ".join(f"{label!r} to {next(iter(kinds[label]))}" for label in labels)
    return [f"Probably meant: the parts of one set; rename {renamed}"]


def _explain_names(labels: Sequence[str]) -> list[str]:
    """Returns why the names of folders are those of parts, archives or splits, in at most one sentence."""
    words = {label: _words(label) for label in labels}
    if archives := [label for label in labels if re.search(r"\.(zip|tar|t?gz|rar|7z)\b", label, re.IGNORECASE)]:
        return [f"{_listed(archives)} has the name of an archive"]
    if copies := find_copied_names(labels):
        name, original = next(iter(copies.items()))
        return [f"{name!r} is named as a copy of {original!r}: merge or remove it"]
    if splits := _split_like(words):
        return [f"{_listed(splits)} look like parts for training and test, by their names"]
    if len(labels) > 1 and (alike := _alike_but_for_a_number(words)):
        return [f"{_listed(alike)} are alike but for a number, like parts of a download, or patients"]
    named = [set(each) - {word for word in each if word.isdigit()} for each in words.values()]
    if len(labels) > 1 and all(each and each <= _EMPTY_WORDS for each in named) and not _are_grades(words.values()):
        return [f"{_listed(labels)} are no names of classes"]
    if beside := _list_no_classes(dict(zip(labels, named, strict=True))):
        return [f"{_listed(beside)} hold something about pictures, not a class of pictures, by their names"]
    if len(labels) > 1 and all(each and each <= _SIDES for each in named):
        return [f"{_listed(labels)} are sides of the body, not what a picture shows"]
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
    kinds = {label: {_SPLIT_WORDS[word] for word in each if word in _SPLIT_WORDS} for label, each in words.items()}
    marked = [label for label, kind in kinds.items() if kind]
    if len({kind for label in marked for kind in kinds[label]}) > 1:
        return marked
    common = set.intersection(*map(set, words.values())) if len(words) > 1 else set()
    ignored = _EMPTY_WORDS | _SPLIT_WORDS.keys() | common
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
            word.isdigit() or (len(word) == 1 and index > 0 and each[index - 1] in _PART_WORDS)
            for index, word in enumerate(each)
        ]
        stem = tuple(word for word, number in zip(each, counted, strict=True) if not number)
        by_stem.setdefault(stem, []).append(label)
    for stem, alike in by_stem.items():
        if len(alike) < 2 or not stem or stem[-1] in _GRADE_WORDS or _are_codes(stem, alike):
            continue
        if len(alike) == len(words) or _PART_WORDS & set(stem):
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
    named = [label for label, each in words.items() if each and each <= _NO_CLASSES]
    counts = Counter(word for each in words.values() for word in each)
    two_classes = len(words) == 2 and named and words[named[0]] <= _ORIGINALS
    return [] if two_classes else [label for label in named if all(counts[word] == 1 for word in words[label])]


def _are_grades(words: Iterable[Sequence[str]]) -> bool:
    return all(any(word in _GRADE_WORDS for word in each) and any(word.isdigit() for word in each) for each in words)


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
    if len(labels) == 1 and closed and (deeper := _first_fork([row["path"] for row in rows])):
        top, names_there = deeper
        levels = top.count("/") + 1 - below[labels[0]].top.count("/")
        return [f"the classes seem to lie {'one level' if levels == 1 else f'{levels} levels'} down"], {
            str(raw / top): names_there
        }
    names = Counter(name for each in closed.values() for name in each.subfolders)
    shared = {name for name, count in names.items() if count > 1 and _may_be_class(name)}
    holders = [label for label, each in closed.items() if len(each.subfolders.keys() & shared) > 1]
    aside = _list_aside(below)
    if len(holders) < 2:
        return [sentence for sentence in (aside, _find_findings(labels, rows)) if sentence], {}
    if not shared <= _EMPTY_WORDS:
        roots = {str(raw / below[label].top): sorted(below[label].subfolders) for label in holders[:SHOWN]}
    above = {posixpath.dirname(below[label].top) for label in holders}
    if all(map(parse_part, labels)) and len(above) == 1 and "" not in above:  # parts inside one folder of a part
        roots = {str(raw / above.pop()): sorted(labels)}
    return [f"{_listed(holders)} contain the same folders {_listed(shared)}", *([aside] if aside else [])], roots


def _find_findings(labels: Sequence[str], rows: Sequence[Row]) -> str:
    """Returns a sentence about folders below that are named as findings, while no class is; '' if there are none."""
    if any(_FINDINGS.intersection(_words(label)) for label in labels):
        return ""
    folders = {step for row in rows for step in row["path"].split("/")[1:-1]}
    named = {word: folder for folder in sorted(folders) for word in _FINDINGS.intersection(_words(folder))}
    return f"folders below them, {_listed(named.values())}, are named as findings" if len(named) > 1 else ""


def _list_aside(below: Mapping[str, _Below]) -> str:
    """Returns a sentence about the folders of masks and the like beside the pictures of a class, or ''."""
    aside = {
        f"{label}/{name}"
        for label, (_, subfolders, has_files) in below.items()
        for name in subfolders
        if name.lower() in _NO_CLASSES - _ORIGINALS and (has_files or len(subfolders) > 1)
    }
    return f"{_listed(aside)} would count as pictures of their class: move them out of data.raw" if aside else ""


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
    return not re.search(r"\d", name) and name.lower() not in _VIEWS and not parse_part(name)


def _words(name: str) -> list[str]:
    """Returns the words and numbers of a name in lower case.

    >>> _words("C-NMC_trainingData2")
    ['c', 'nmc', 'training', 'data', '2']
    """
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return [word.lower() for word in re.findall(r"[^\W\d_]+|\d+", spaced)]


def _listed(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - SHOWN} more" if len(ordered) > SHOWN else ""
    return ", ".join(repr(name) for name in ordered[:SHOWN]) + more
