"""What speaks to the user: an input that cannot be used, and a file that cannot be used as an image."""

from typing import Literal

# The whole list of reasons for a quarantine; docs/quarantine.md says what each means.
Reason = Literal[
    "empty",
    "truncated",
    "corrupt",
    "not an image",
    "too small",
    "too many pixels",
    "aspect ratio",
    "multi-frame without a rule",
    "broken or outward link",
    "label conflict",
    "unsupported",
    "unreadable",
]


def printable(text: str) -> str:
    """A text as it is, or quoted with escapes where it would break the line or the terminal."""
    return text if text.isprintable() and text == text.strip() else ascii(text)


class InputError(ValueError):
    """The user's input cannot be used; the text names the file, row or key and says what would be right."""


class ImageError(InputError):
    """A file that is quarantined: `reason` names why, `detail` says more."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
