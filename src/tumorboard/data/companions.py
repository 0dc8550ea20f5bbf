"""Finds files that are named as a mask or an altered copy of a picture beside them, such as p1_mask.png of p1.png."""

import posixpath
import re
from collections.abc import Sequence
from typing import NamedTuple

from tumorboard.base.errors import counted, printable

MASKS = "masks?|seg(m|mentations?)?|superpixels?|annot(ated|ations?)?|overlays?|contours?|roi|gt|ground[ _-]?truth"
ALTERED = (
    "aug(mented)?|[hv]?flip(ped)?|mirror(ed)?|rot(ated?|ation)?|noisy?|blur(red)?|bright(ness)?|zoom(ed)?|shear(ed)?"
)


# Names that file managers give to a copy of a folder, by the name of the original.
_COPIED = re.compile(
    r"(?:copy of|kopie von|copie de) (?P<of>.+)|"
    r"(?P<name>.+?)(?:[ _-]+\(?(?:copy|kopie|copie)\)?(?:[ _]?\(?\d+\)?)?| \(\d+\))",
    re.IGNORECASE,
)


class Companion(NamedTuple):
    """A file that is named after another one."""

    path: str
    original: str  # path of the picture it is named after


def find_companions(paths: Sequence[str], words: str) -> list[Companion]:
    """Returns the files whose name is that of a file in the same folder with a word and perhaps a number added.

    Args:
        paths: POSIX paths of the files.
        words: a regular expression, MASKS or ALTERED.

    >>> find_companions(["a/p1.jpg", "a/p1_mask.png", "a/p1_mask_2.png", "a/mask.png"], MASKS)[1]
    Companion(path='a/p1_mask_2.png', original='a/p1.jpg')
    >>> find_companions(["a/p1.jpg", "a/aug_0_p1.jpg", "a/rot.jpg"], ALTERED)
    [Companion(path='a/aug_0_p1.jpg', original='a/p1.jpg')]
    """
    behind = re.compile(rf"(?P<name>.+?)[ _-]+({words})([ _-]*\d+)?", re.IGNORECASE)
    before = re.compile(rf"({words})([ _-]*\d+)?[ _-]+(?P<name>.+)", re.IGNORECASE)
    path_of = {posixpath.splitext(path)[0]: path for path in paths}
    companions = []
    for stem, path in path_of.items():
        folder, name = posixpath.split(stem)
        matches = (pattern.fullmatch(name) for pattern in (behind, before))
        originals = (path_of.get(posixpath.join(folder, match["name"])) for match in matches if match)
        if original := next(filter(None, originals), None):
            companions.append(Companion(path, original))
    return companions


def count_companions(companions: Sequence[Companion]) -> str:
    """Returns how many companions there are and the first one, as the beginning of a sentence."""
    path, original = companions[0]
    named = counted(len(companions), "file is", "files are")
    return f"{named} named after another one, such as {printable(path)} after {printable(original)}"


def find_copied_names(names: Sequence[str]) -> dict[str, str]:
    """Returns the folders that are named as a file manager's copy of another one, each with the original's name.

    >>> find_copied_names(["glioma", "glioma - Copy", "Copy of glioma", "glioma (2)", "grade (1)"])
    {'glioma - Copy': 'glioma', 'Copy of glioma': 'glioma', 'glioma (2)': 'glioma'}
    """
    matches = {name: match for name in names if (match := _COPIED.fullmatch(name))}
    originals = {name: match["of"] or match["name"] for name, match in matches.items()}
    return {name: original for name, original in originals.items() if original in names}
