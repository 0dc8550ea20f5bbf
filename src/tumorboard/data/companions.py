"""Finds files that are named as a mask or an altered copy of a picture beside them, such as p1_mask.png of p1.png."""

import posixpath
import re
from collections.abc import Sequence
from typing import NamedTuple

from tumorboard.base.errors import counted, printable

MASKS = (
    "masks?|seg(m|mentations?)?|superpixels?|annot(ated|ations?)?|overlays?|contours?|roi|gt|ground[ _-]?truth|"
    "masken?|m[aá]scaras?|masques?"
)
MASKS_BEHIND = "lesions?|labels?|tumou?rs?|manual"  # only behind a name: lesion_1 may be a picture
ALTERED = (
    "aug(mented)?|[hv]?flip(ped)?|mirror(ed)?|rot(ated?|ation)?|noisy?|blur(red)?|bright(ness)?|zoom(ed)?|shear(ed)?"
)
# What is made of the pictures of a class; the name of a folder with one of these words beside the class's own.
MADE_OF_A_CLASS = (
    "masks?|segmentations?|overlays?|annotations?|aug|augmented|augmentations?|flipped|rotated|mirrored|thumbnails?"
)
_PICTURES = ("img", "image", "im", "imgs", "images", "picture", "photo", "scan", "slice", "frame", "original", "orig")
_PAIRED_SHARE = 0.9  # least share of the names that two pictures have
_PICTURE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".gif", ".webp", ".pgm", ".ppm", ".dcm")


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


def find_companions(paths: Sequence[str], words: str, behind: str = "") -> list[Companion]:
    """Returns the files whose name is that of a file in the same folder with a word and perhaps a number added.

    The word may also stand in the place of another one such as img.

    Args:
        paths: POSIX paths of the files.
        words: a regular expression, MASKS, ALTERED or MADE_OF_A_CLASS.
        behind: a regular expression for words that count only behind the name, and not behind a space.

    >>> find_companions(["a/p1.jpg", "a/p1_mask.png", "a/p1_mask_2.png", "a/mask.png"], MASKS)[1]
    Companion(path='a/p1_mask_2.png', original='a/p1.jpg')
    >>> find_companions(["a/p1.jpg", "a/aug_0_p1.jpg", "a/rot.jpg"], ALTERED)
    [Companion(path='a/aug_0_p1.jpg', original='a/p1.jpg')]
    >>> [companion.path for companion in find_companions(["img_1.png", "mask_1.png", "2.jpg", "2.mask.png"], MASKS)]
    ['mask_1.png', '2.mask.png']
    """
    patterns = [
        re.compile(pattern, re.IGNORECASE)
        for pattern in (
            rf"(?P<name>.+?)(?P<joint>[ _.-]+)({words})([ _-]*\d+)?",
            rf"({words})([ _-]*\d+)?(?P<joint>[ _.-]+)(?P<name>.+)",
            rf"({words})(?P<joint>)(?P<name>\d+)",
            *([rf"(?P<name>.+?)(?P<joint>[_.-]+)({behind})([ _-]*\d+)?"] if behind else []),
        )
    ]
    path_of = {_key(path): path for path in paths}
    companions = []
    for path in paths:
        folder, key = posixpath.split(_key(path))
        matches = [match for pattern in patterns if (match := pattern.fullmatch(key))]
        names = [name for match in matches for name in _names_of_pictures(match["name"], match["joint"])]
        originals = (path_of.get(posixpath.join(folder, name)) for name in names)
        if original := next(filter(None, originals), None):
            companions.append(Companion(path, original))
    return companions


def _key(path: str) -> str:
    """Returns a path without its ending and the case of its letters."""
    return posixpath.splitext(path)[0].casefold()


def _names_of_pictures(name: str, joint: str) -> list[str]:
    """Returns how the picture may be called of whose mask the name is, without the word for the mask."""
    return [name, *(each for word in _PICTURES for each in (f"{word}{joint}{name}", f"{name}{joint}{word}"))]


def find_paired_names(paths: Sequence[str], behind: str = "") -> list[Companion]:
    """Returns the pictures with the name of another one beside them if nearly each picture has one such companion.

    Args:
        paths: POSIX paths of the files.
        behind: what the companion's name has behind the other one's; '': they differ in their endings alone.

    >>> find_paired_names(["a/1.jpg", "a/1.png", "a/2.jpg", "a/2.png"])
    [Companion(path='a/1.png', original='a/1.jpg'), Companion(path='a/2.png', original='a/2.jpg')]
    >>> find_paired_names(["a/1.bmp", "a/1-d.bmp"], "-d"), find_paired_names(["1.bmp", "1-d.bmp", "2.bmp"], "-d")
    ([Companion(path='a/1-d.bmp', original='a/1.bmp')], [])
    """
    pictures = sorted((len(_key(path)), path) for path in paths if path.lower().endswith(_PICTURE_ENDINGS))
    by_name: dict[str, list[str]] = {}
    for _, path in pictures:
        by_name.setdefault(_key(path).removesuffix(behind), []).append(path)
    pairs = [pair for pair in by_name.values() if len(pair) == 2 and len(set(map(_key, pair))) == 1 + bool(behind)]
    if len(pairs) < _PAIRED_SHARE * len(by_name):
        return []
    return [Companion(path, original) for original, path in pairs]


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
