"""How many images may be quarantined before a run stops: files that cannot be used, and pictures under two labels."""

import pandas as pd

from tumorboard.errors import InputError, printable

FEW = 10


def check_count(quarantined: pd.DataFrame, listed: int, max_quarantined: int) -> None:
    """Raise InputError where more than `max_quarantined` of the `listed` images are quarantined (path, reason, detail).

    crop holds the files that cannot be used against it, split those and the label conflicts together.
    """
    if len(quarantined) > max_quarantined:
        raise InputError(
            f"{len(quarantined)} of {listed} files cannot be used, but data.max_quarantined in params.yaml allows "
            f"{max_quarantined}; mend or remove them, or raise that number:\n{name_first(quarantined)}"
        )


def name_first(quarantined: pd.DataFrame) -> str:
    """The first few of the quarantined, a line each."""
    first = quarantined[:FEW]
    lines = [
        f"  {path!r}: {reason} ({printable(detail)})"
        for path, reason, detail in zip(first["path"], first["reason"], first["detail"], strict=True)
    ]
    return "\n".join([*lines, *(["  ..."] if len(quarantined) > FEW else [])])
