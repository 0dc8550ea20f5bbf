"""Reads the group of an image (patient, smear, slide) out of its path by a regular expression, within a time limit."""

import json
import re
import subprocess
import sys
from collections.abc import Sequence

from tumorboard.base.errors import InputError

MATCH_SECONDS = 10.0  # seconds for a pattern to match all paths
MATCH_SECONDS_PER_PATH = 0.001  # seconds added per path

# A pattern such as (a+)+b takes time that doubles with each letter of a path, and Python's `re` has no time limit.
# Another process therefore matches and can be ended. It writes a line per path; the last one shows how far it came.
_MATCHER = """
import json, re, sys
pattern, paths = json.load(sys.stdin)
search = re.compile(pattern).search
for path in paths:
    match = search(path)
    print(json.dumps(match and match[1]), flush=True)
"""


def extract_groups(paths: Sequence[str], pattern: str) -> list[str]:
    r"""Returns what the first parentheses of the pattern match in each path.

    Args:
        paths: POSIX paths relative to the raw folder.
        pattern: `data.group_pattern`, a regular expression of Python.

    Raises:
        InputError: the pattern is invalid, has no parentheses, does not match a path, or takes longer than
            MATCH_SECONDS and MATCH_SECONDS_PER_PATH allow.

    >>> extract_groups(["blast/P07_012.jpg", "normal/P11_003.jpg"], r"(P\d+)_")
    ['P07', 'P11']
    """
    _check_pattern(pattern)
    groups = _match_in_process(paths, pattern) if paths else []
    for path, group in zip(paths, groups, strict=True):
        if not group:
            raise InputError(
                f"data.group_pattern: '{pattern}' matches no group in the path {path!r}; "
                "correct the pattern, or set it to null if every image is its own group"
            )
    return groups


def about_option(message: str, option: str) -> str:
    """Returns a message of `extract_groups` for a pattern that an option of a command gave; others stay.

    >>> about_option("data.group_pattern: 'x' has no group: put the patient's part in parentheses", "--patients")
    "--patients: 'x' has no group: put the patient's part in parentheses"
    """
    if not message.startswith("data.group_pattern: "):
        return message
    text = message.replace("data.group_pattern", option, 1)
    return text.replace("or set it to null if every", "or leave the option out if every")


def _check_pattern(pattern: str) -> None:
    try:
        compiled = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise InputError(f"data.group_pattern: '{pattern}' is not a regular expression: {error}") from None
    if compiled.groups == 0:
        raise InputError(f"data.group_pattern: '{pattern}' has no group: put the patient's part in parentheses")


def _match_in_process(paths: Sequence[str], pattern: str) -> list[str]:
    """Returns the first group of the pattern in each path, '' where it does not match."""
    seconds = MATCH_SECONDS + MATCH_SECONDS_PER_PATH * len(paths)
    command = [sys.executable, "-I", "-S", "-c", _MATCHER]
    try:
        done = subprocess.run(
            command, input=json.dumps([pattern, paths]).encode(), capture_output=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired as error:
        path = paths[min((error.output or b"").count(b"\n"), len(paths) - 1)]
        raise InputError(
            f"data.group_pattern: '{pattern}' was not done after {seconds:g} seconds, at the path {path!r}: a "
            "repetition inside a repetition, as in (a+)+, takes time without end; write it with one, such as a+"
        ) from None
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise InputError(f"data.group_pattern: '{pattern}' could not be matched: {last or 'the process ended'}")
    return [json.loads(line) or "" for line in done.stdout.splitlines()]
