"""The exceptions for input that cannot be used, and the reasons for which an image file is quarantined."""

import io
import sys
from typing import Literal

# All reasons for a quarantine; docs/quarantine.md explains each one.
Reason = Literal[
    "empty",
    "truncated",
    "corrupt",
    "not an image",
    "too small",
    "too many bytes",
    "too many pixels",
    "aspect ratio",
    "multi-frame without a rule",
    "broken or outward link",
    "label conflict",
    "unsupported",
    "unreadable",
    "not enough memory",
]


def printable(text: str) -> str:
    """Returns a text unchanged, or quoted with escapes if it would break the line or the terminal.

    >>> printable("scan 1.png")
    'scan 1.png'
    >>> print(printable("two\\nlines.png"))
    'two\\nlines.png'
    """
    return text if text.isprintable() and text == text.strip() else ascii(text)


def clip(text: str, width: int = 100) -> str:
    """Returns a text cut to at most `width` characters; a text that was cut ends with '…'.

    >>> clip("pigmented keratosis", 10)
    'pigmented…'
    """
    return text if len(text) <= width else f"{text[: width - 1]}…"


def counted(count: int, one: str, many: str | None = None) -> str:
    """Returns a number with its noun in the singular or plural; without `many` the plural is `one` with an 's'.

    >>> counted(1, "fold"), counted(2000, "image"), counted(1, "file is", "files are")
    ('1 fold', '2,000 images', '1 file is')
    """
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def escape_unprintable() -> None:
    r"""Lets standard output write what its encoding lacks as an escape, such as \u80f6, instead of failing."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


class InputError(ValueError):
    """The user's input cannot be used. The message names the file, row or key, and what is expected."""


class ImageError(InputError):
    """An image file cannot be used and is quarantined.

    Args:
        reason: one of `Reason`.
        detail: what exactly is wrong with the file.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
