"""How many images may be quarantined before a run stops: files that cannot be used, and pictures under two labels."""

import pandas as pd

from tumorboard.errors import InputError, printable

_FEW = 10


def check_count(quarantined: pd.DataFrame, listed: int, max_quarantined: int) -> None:
    """Raise InputError where more than `max_quarantined` of the `listed` images are quarantined (path, reason, detail).

    crop holds the files that cannot be used against it, split those and the label conflicts together.
    """
    if len(quarantined) > max_quarantined:
        raise InputError(
            f"{len(quarantined)} of {listed} files cannot be used, but data.max_quarantined in params.yaml allows "
            f"{max_quarantined}; mend or remove them, or raise that number:\n{_first(quarantined)}"
        )


def check_usable(quarantined: pd.DataFrame, rows: pd.DataFrame, max_quarantined: int) -> None:
    """Raise InputError where `check_count` does for the listed files (`rows`), or where all those of a class are
    quarantined."""
    check_count(quarantined, len(rows), max_quarantined)
    bad = set(quarantined["path"])
    left = {label for path, label in zip(rows["path"], rows["label"], strict=True) if path not in bad}
    if lost := sorted(set(rows["label"]) - left):
        raise InputError(f"class {lost[0]!r} has no image that can be used; quarantined were:\n{_first(quarantined)}")


def _first(quarantined: pd.DataFrame) -> str:
    """The first few of the quarantined, a line each."""
    first = quarantined[:_FEW]
    lines = [
        f"  {path!r}: {reason} ({printable(detail)})"
        for path, reason, detail in zip(first["path"], first["reason"], first["detail"], strict=True)
    ]
    return "\n".join([*lines, *(["  ..."] if len(quarantined) > _FEW else [])])
