"""Tells folders of classes from folders of parts, archives or splits."""

from pathlib import Path


def explain_layout(raw: Path, files: list[str], rows: list[dict[str, str]]) -> str:
    """Returns why the folders look like something else than classes."""
    return ""
