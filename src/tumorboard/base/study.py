"""Compares the version of the package that made a study with the version that runs it."""

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version


def package_version() -> str:
    """Returns the version of the installed package; '' where it is not installed and has no metadata."""
    try:
        return version("tumorboard")
    except PackageNotFoundError:
        return ""


def describe_other_version(recorded: object, changed: Sequence[str]) -> str:
    """Returns a sentence for a study that another version of the package made or ran last; '' if nothing changed.

    Args:
        recorded: the version in the study's params.yaml.
        changed: names of the stages whose code is not that of the last run.

    >>> describe_other_version(package_version(), [])
    ''
    >>> describe_other_version(package_version(), ["crop", "train"])
    'the code of these stages is not that of the last run, so they run again: crop, train'
    """
    running = package_version()
    parts = []
    if recorded != running:
        now = running or "an unknown version"
        parts.append(f"tumorboard {recorded} made this study, whose defaults may differ; {now} runs it now")
    if changed:
        parts.append(f"the code of these stages is not that of the last run, so they run again: {', '.join(changed)}")
    return "; ".join(parts)
