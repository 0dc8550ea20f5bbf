"""Stops a run with too many quarantined images: files that cannot be used, and pictures under two labels."""

from typing import TypeAlias

import pandas as pd

from tumorboard.base.errors import InputError, printable

QuarantinedFiles: TypeAlias = pd.DataFrame  # one row per file: path, reason (one of errors.Reason), detail

_SHOWN = 10  # quarantined files that a message lists


def check_quarantine_limit(quarantined: QuarantinedFiles, listed: int, max_quarantined: int) -> None:
    """Checks the number of quarantined images against `data.max_quarantined`.

    Args:
        quarantined: in the stage crop the unusable files; in the stage split these and the label conflicts.
        listed: number of all images.
        max_quarantined: allowed number of quarantined images.

    Raises:
        InputError: more are quarantined than allowed; the message lists the first ones.
    """
    if len(quarantined) > max_quarantined:
        raise InputError(
            f"{len(quarantined)} of {listed} files cannot be used, but data.max_quarantined in params.yaml allows "
            f"{max_quarantined}; repair or remove them, or raise that number:\n{_list_first(quarantined)}"
        )


def check_usable_images(quarantined: QuarantinedFiles, images: pd.DataFrame, max_quarantined: int) -> None:
    """Checks the number of quarantined images, and that every class has a usable one.

    Args:
        quarantined: the unusable files.
        images: all listed images, with the columns path and label.
        max_quarantined: allowed number of quarantined images.

    Raises:
        InputError: more are quarantined than allowed, or all images of a class are.
    """
    check_quarantine_limit(quarantined, len(images), max_quarantined)
    unusable = set(quarantined["path"])
    classes_left = {label for path, label in zip(images["path"], images["label"], strict=True) if path not in unusable}
    if lost := sorted(set(images["label"]) - classes_left):
        own = quarantined[quarantined["path"].isin(images["path"][images["label"] == lost[0]])]
        raise InputError(
            f"class {lost[0]!r} has no usable image; quarantined are:\n{_list_first(own)}\n"
            "Repair these files, or leave them out: remove them, or list the other classes in data.classes"
        )


def _list_first(quarantined: QuarantinedFiles) -> str:
    """Returns one line per file for the first files, then '...' if there are more."""
    first = quarantined[:_SHOWN]
    lines = [
        f"  {path!r}: {reason} ({printable(detail)})"
        for path, reason, detail in zip(first["path"], first["reason"], first["detail"], strict=True)
    ]
    return "\n".join([*lines, *(["  ..."] if len(quarantined) > _SHOWN else [])])
