"""Finds labels that are several findings in one cell, which this project does not train on, and refuses their table."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from tumorboard.base.errors import InputError

MAX_CLASSES = 30  # largest number of classes in lines for params.yaml
# Signs between findings, also of Chinese, Japanese and Arabic, and the space between quoted texts, as numpy prints it.
_SIGNS = r"[|;,+&/^\\，；、｜／＆＋،؛]|(?<=['\"])\s+(?=['\"])"
_VECTOR = re.compile(r"\[\s*[01]\.?0*(?:[\s,]+[01]\.?0*)+\s*\]")  # one-hot cells in brackets, [1 0 1]
_DECIMAL = re.compile(r"[+-]?\d+,[05]0*")  # a number of a program that writes a comma for the point
_BRACKETS = " '\"[](){}"
_JOINTS = (" ", "-", "_", " - ", " and ", "_and_", " with ", " plus ", " und ", " et ", " y ")


def combined_labels(counts: Mapping[str, int]) -> list[str]:
    """Returns the labels that look like several findings: names joined by a sign or a word.

    Names joined by | are several findings; names joined by ; , + & / ^ or a backslash are so if each name recurs,
    perhaps in brackets and quotes; names joined by one space, dash, underscore or "and" if each is a label itself.
    Where all labels are zeros and ones in brackets, those with several ones are several findings.

    Args:
        counts: number of images by label.

    >>> combined_labels({"Mass|Nodule": 1, "Mass": 3, "ER+": 2})
    ['Mass|Nodule']
    >>> combined_labels({"a, b": 1, "a": 3, "b": 2, "benign, other": 4})
    ['a, b']
    >>> combined_labels({"['a']": 1, "['b']": 3, "['a', 'b']": 2}), combined_labels({"a": 3, "b": 2, "a and b": 4})
    (["['a', 'b']"], ['a and b'])
    >>> combined_labels({"[1 0]": 1, "[0 1]": 3, "[1 1]": 2}), combined_labels({"气": 3, "炎": 2, "气、炎": 4})
    (['[1 1]'], ['气、炎'])
    """
    if all(map(_VECTOR.fullmatch, counts)):
        return [label for label in counts if len(re.findall(r"1\.?0*", label)) > 1]
    parts = {label: [part.strip(_BRACKETS) for part in re.split(_SIGNS, label)] for label in counts}
    names = Counter(part for each in parts.values() for part in set(each))
    return [
        label
        for label, each in parts.items()
        if (
            len(each) > 1
            and all(each)
            and (set("|｜") & set(label) or all(part in counts or names[part] > 1 for part in each))
        )
        or _joins_labels(label, counts)
    ]


def _joins_labels(label: str, counts: Mapping[str, int]) -> bool:
    """Returns whether a label is several other labels, with one kind of joint between them."""
    splits = (re.split(joint, label) for joint in _JOINTS)
    return any(len(set(names)) > 1 and all(name in counts for name in names) for names in splits)


def refuse_several_findings(table: Path, labels: Sequence[tuple[int, str]]) -> None:
    """Raises InputError if cells of a label table are several findings; the message names the first one's line.

    Args:
        table: the file, for the message.
        labels: line number and label of each row.
    """
    counts = Counter(label for _, label in labels)
    if all(map(_DECIMAL.fullmatch, counts)) and len(counts) > 1:
        classes = {label: re.sub(",0+$", "", label).replace(",", ".") for label in sorted(counts)}
        raise InputError(
            f"{table}: line {labels[0][0]}: the label {labels[0][1]!r} has a decimal comma, as those of all rows; to "
            f"give each number a name, write in params.yaml:\n{_class_lines(classes)}"
        )
    combined = combined_labels(counts)
    if not combined:
        return
    line, cell = next((line, label) for line, label in labels if label in combined)
    raise InputError(
        f"{table}: line {line}: the label {cell!r} looks like several findings, as do those of "
        f"{sum(counts[label] for label in combined)} of {len(labels)} rows; images with several labels (multi-label) "
        f"are not supported. {leave_out_lines(counts, combined)}"
    )


def leave_out_lines(counts: Mapping[str, int], combined: Sequence[str]) -> str:
    """Returns the cure: the lines for params.yaml that leave combined labels out, and what to do otherwise."""
    single = Counter({label: count for label, count in counts.items() if label not in combined})
    otherwise = f"If {combined[0]!r} is one class nevertheless, list it in data.classes too"
    if len(single) < 2:
        return f"Keep one finding per row in a copy of the table. {otherwise}"
    classes = {label: label for label in sorted(label for label, _ in single.most_common(MAX_CLASSES))}
    return (
        f"{otherwise}. To leave these images out and keep those of one finding, write in params.yaml:\n"
        f"{_class_lines(classes)}"
    )


def _class_lines(classes: Mapping[str, str]) -> str:
    section = {"data": {"classes": dict(classes)}}
    return yaml.safe_dump(section, sort_keys=False, allow_unicode=True, width=1000).rstrip()
