"""Joins the images of a patient in the table of `predict` into one row."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tumorboard.base.errors import InputError, clip, counted, printable
from tumorboard.base.files import plain_path
from tumorboard.data.group_pattern import about_option, extract_groups
from tumorboard.data.spreadsheet_values import refuse_changed_groups
from tumorboard.data.table_text import describe_title, read_table_text
from tumorboard.panel.deciding import Deciding
from tumorboard.panel.predict import Decisions

STUDY = "study"  # in place of a pattern or table: selects data.group_pattern of params.yaml


def patients_of(source: str, files: Sequence[Path], pattern: str | None) -> list[str]:
    """Returns the patient of each file.

    Args:
        source: 'study'; a CSV with the columns path and group; or a regular expression, whose first parentheses match
            the patient in the path.
        files: the files that are predicted.
        pattern: `data.group_pattern` of the study in the current folder, if it has one.

    Raises:
        InputError: there is no pattern, it does not match a path, or the table lacks a file.
    """
    if source.lower().endswith((".csv", ".tsv")) or Path(source or ".").is_file():
        return _read_groups(Path(source), files)
    if source == STUDY and (pattern is None or not Path("params.yaml").is_file()):
        raise InputError(
            f"--patients study: {_lacking()}: name a regular expression whose first parentheses match the patient in "
            "the path, as in --patients '(p\\d+)_', or a table with the columns path and group, --patients table.csv"
        )
    if not source:
        raise InputError("--patients is empty: name a pattern, a table, or study")
    wanted = pattern if source == STUDY and pattern is not None else source
    try:
        return extract_groups([file.as_posix() for file in files], wanted)
    except InputError as error:
        raise InputError(about_option(str(error), "--patients")) from None


def _lacking() -> str:
    """Returns what the current folder lacks, so that 'study' names no pattern."""
    if Path("params.yaml").is_file():
        return "params.yaml has no data.group_pattern"
    return f"{printable(str(Path.cwd()))} is no study: it has no params.yaml whose data.group_pattern could be used"


def _read_groups(table: Path, files: Sequence[Path]) -> list[str]:
    """Returns the group of each file from a table; its paths are relative to the current folder or to the table's."""
    text = read_table_text(table)
    names = [name.strip() for name in text.header]
    for name in ("path", "group"):
        if name not in names:
            title = describe_title(table, ("path", "group"))
            known = title or f"has no column '{name}': it has {', '.join(map(printable, names))}"
            raise InputError(f"{table}: {known}")
        if names.count(name) > 1:
            raise InputError(f"{table}: has two columns '{name}'")
    groups: dict[Path, str] = {}
    lines: list[tuple[int, str]] = []
    for line, raw in text.rows:
        row = {name.strip(): cell for name, cell in raw.items()}
        path, group = row["path"].strip(), row["group"].strip()
        if not group:
            raise InputError(f"{table}: line {line}: has no group")
        lines.append((line, group))
        for file in {plain_path(Path(path)), plain_path(table.parent / path)}:
            if groups.setdefault(file, group) != group:
                raise InputError(f"{table}: line {line}: a second group for {printable(clip(path))}")
    refuse_changed_groups(table, lines)
    if missing := [file for file in files if plain_path(file) not in groups]:
        others = f" and {counted(len(missing) - 1, 'other file')}" if len(missing) > 1 else ""
        raise InputError(
            f"{table}: has no row for {printable(str(missing[0]))}{others}: add it, with a path relative to the "
            "current folder or to the table's"
        )
    return [groups[plain_path(file)] for file in files]


def join_patients(decisions: Decisions, patients: Sequence[str], deciding: Deciding) -> Decisions:
    """Returns one row per patient, in the order of their first files.

    Args:
        decisions: one row per image file, as `predict_images` returns them.
        patients: patient of each file.
        deciding: how the images were decided; threshold and `abstain` hold for the means too.

    Returns:
        `path` (the patient), `decided`, `probability`, `agreeing` (how many of the patient's images have the decided
        class as their most probable one), `p_<class>` (the mean of the images' calibrated probabilities), `threshold`
        (as in `predict_images`), `images` (how many were classified), `unlike` (how many of these are unlike the
        training images), `problem` (how many files were not classified, else empty).
    """
    names = [str(name) for name in decisions if str(name).startswith("p_")]
    classes = [name.removeprefix("p_") for name in names]
    rows = []
    for patient, images in decisions.groupby(pd.Series(list(patients), decisions.index), sort=False):
        used = images[images["problem"] == ""]
        row: dict[str, object] = {"path": patient, "decided": "", "probability": None, "agreeing": ""}
        if len(used):
            values = used[names].to_numpy(dtype=np.float64)
            mean = values.mean(axis=0)
            choice = _decide(mean, classes, deciding)
            row["probability"] = mean[choice]
            row["decided"] = "" if mean[choice] < deciding.abstain else classes[choice]
            row["agreeing"] = f"{int((values.argmax(axis=1) == choice).sum())} of {len(used)}"
            row |= dict(zip(names, mean, strict=True)) | {"threshold": deciding.threshold}
        lost = len(images) - len(used)
        row |= {
            "images": len(used),
            "unlike": int((pd.to_numeric(used["unlike"]) >= 1).sum()),
            "problem": f"{counted(lost, 'file was', 'files were')} not classified, of {len(images)}" if lost else "",
        }
        rows.append(row)
    columns = ["path", "decided", "probability", "agreeing", *names, "threshold", "images", "unlike", "problem"]
    return pd.DataFrame(rows, columns=columns)


def _decide(mean: NDArray[np.float64], classes: Sequence[str], deciding: Deciding) -> int:
    """Returns the position of the decided class, as for a single image."""
    if deciding.threshold is None or deciding.positive is None:
        return int(mean.argmax())
    positive = list(classes).index(deciding.positive)
    return positive if mean[positive] >= deciding.threshold else 1 - positive
