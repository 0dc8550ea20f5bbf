"""Guesses from the names of images which of them belong to one patient, for a person to confirm."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import yaml

# Patterns that name a patient, smear or case in common data sets, the most specific first, with what a group is.
_PATTERNS = (
    (r"([^/]+)\.rf\.[0-9a-f]+\.", "picture"),  # copies that Roboflow makes of one picture
    (r"((?i:patient|pat)[-_ ]?\(?\d+\)?)", "patient"),
    (r"((?i:subject|subj|sub)[-_ ]?\d+)", "patient"),
    (r"(UID_\w+?)_", "patient"),
    (r"((?:slide|smear|case|BloodImage)[-_ ]?\d+)", ""),
    (r"(?:^|/)([Pp]\d+)[-_]", "patient"),
    # a folder below the classes whose name is a long number, or letters and a number
    (r"/([^/]*\d{3}[^/]*)/[^/]+$", ""),
    (r"/([A-Za-z]{0,4}[-_ ]?\(?\d+\)?)/[^/]+$", ""),
    (r"(?:^|/)([A-Za-z]*\d+)_[^/]*$", ""),
    (r"(?:^|/)([A-Za-z]+[-_]\d+)[-_][^/]*$", ""),
    (r"(?:^|/)([A-Za-z]+\d*[-_]\d+)[-_][^/]*$", ""),  # OAS1_0001_MR1_mpr-1_100.jpg
)
_FOLDER_END = "/[^/]+$"  # ends the patterns of folders, which count only with these numbers of names and images:
_FEWEST_FOLDERS = 6  # fewer may be magnifications or grades
_FEWEST_IMAGES = 2  # in each folder
_UNITS = {"slide": "slide", "smear": "smear", "case": "case", "blood": "smear"}


class Guess(NamedTuple):
    """A way to group images by their paths."""

    pattern: str  # as data.group_pattern
    groups: int
    unit: str  # what a group may be; '' if the names do not show it
    example: str  # a path and its group


def guess_groups(paths: Sequence[str], classes: int = 1) -> Guess | None:
    r"""Returns the first pattern that groups all images into several groups, some with several images.

    Args:
        paths: POSIX paths of the images.
        classes: how many classes there are; as few groups may be the classes.

    >>> guess_groups(["blast/P01_1.png", "blast/P01_2.png", "normal/P02_1.png", "normal/P02_2.png"]).pattern
    '(?:^|/)([Pp]\\d+)[-_]'
    >>> guess_groups(["blast/a.png", "normal/b.png"]) is None
    True
    """
    for pattern, unit in _PATTERNS:
        search = re.compile(pattern).search
        matches = [search(path) for path in paths]
        groups = Counter(match[1] for match in matches if match)
        if pattern.endswith(_FOLDER_END) and (len(groups) < _FEWEST_FOLDERS or min(groups.values()) < _FEWEST_IMAGES):
            continue
        if all(matches) and classes < len(groups) <= 0.9 * len(paths):
            first = matches[0]
            assert first is not None
            unit = unit or next((name for key, name in _UNITS.items() if first[1].lower().startswith(key)), "")
            return Guess(pattern, len(groups), unit, f"{paths[0]} is of {first[1]}")
    return None


def describe_guess(guess: Guess, *, grouped: bool = False) -> str:
    """Returns a warning that the names of images look like groups, with the line that makes these the patients.

    Args:
        guess: the grouping that the names suggest.
        grouped: whether the images have groups, of one image each.
    """
    present = "each image is a group of its own" if grouped else "no patients are known"
    line = yaml.safe_dump({"data": {"group_pattern": guess.pattern}}, allow_unicode=True, width=1000).rstrip()
    return (
        f"the names look like {guess.groups} groups ({guess.example}), but {present}, so that images of one "
        f"patient may be on two sides of the split. If these are patients, write in params.yaml:\n{line}"
    )
