"""Compares the ranges over which the files of a set are scaled, and finds one range for all of them."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from tumorboard.base.errors import counted, printable
from tumorboard.base.params import SET, Crop
from tumorboard.base.tables import Images
from tumorboard.images.grey import Window

SET_SHARES = (0.005, 0.995)  # the range's ends, as shares of the set's grey values; each file counts the same
BY_VALUES = ("depth", "own range")  # kinds of a GreyRange that the file's own values decide
NARROW = 1 / 16  # share of a range; files whose values fill less of it have few grey levels
_GAIN = 2.0  # least factor by which one range for the set widens what narrow values fill, so that it is proposed
BLANK = 2.0  # levels of 255; a picture whose mean is that close to black or white shows nothing
_MEASURING: Window = (0.0, 1.0)  # any range serves to decode the files whose values are measured


def measuring(crop: Crop) -> Crop:
    """Returns parameters by which every file's values can be measured, floating-point ones included."""
    return crop.model_copy(update={"window": _MEASURING})


def common_range(levels: Iterable[Sequence[float]]) -> Window | None:
    """Returns the range from SET_SHARES of all files' grey values, None if there are none.

    Args:
        levels: each file's `GreyRange.levels`.

    >>> common_range([range(100), range(100)])
    (0.0, 99.0)
    """
    pooled = [np.asarray(each, np.float64) for each in levels if len(each)]
    if not pooled:
        return None
    low, high = (float(end) for end in np.quantile(np.concatenate(pooled), SET_SHARES))
    if high - low >= 10:  # whole numbers are easier to read and to write
        low, high = float(math.floor(low)), float(math.ceil(high))
    return (low, high) if low < high else (low, low + 1.0)


def describe_facts(facts: pd.DataFrame) -> list[str]:
    """Returns all warnings about decoded files: their ranges, blank pictures, and what decoders reported."""
    return [*describe_ranges(facts), *describe_narrow(facts), *describe_blank(facts), *describe_decoder_warnings(facts)]


def describe_ranges(facts: pd.DataFrame) -> list[str]:
    """Returns a warning if files are scaled by different ranges, so that equal values get different grey levels.

    Args:
        facts: one row per usable file, with the columns id, scaling, low, high and levels, as ImageFacts explains.
    """
    differing = _name_ranges(facts)
    if not differing:
        return []
    proposal = common_range(facts.loc[facts["scaling"] != "", "levels"])
    assert proposal is not None
    return [f"{differing}: {_propose(proposal)}"]


def _propose(window: Window) -> str:
    low, high = (f"{end:.6g}" for end in window)
    return (
        f"set crop.window, for example to [{low}, {high}], or to {SET}, one range for all from "
        f"{SET_SHARES[0]:.1%} to {SET_SHARES[1]:.1%} of the set's values"
    )


def describe_narrow(facts: pd.DataFrame) -> list[str]:
    """Returns a warning that counts the files whose values fill little of the range over which they are scaled.

    Files that `crop.window` scales do not count, nor those of one value, nor those that are much narrower than the
    whole set, which one range for the set would not help.

    Args:
        facts: one row per usable file, with the columns id, scaling, levels and filled, as ImageFacts explains.
    """
    deep = facts[(facts["scaling"] != "") & (facts["scaling"] != "params")]
    narrow = deep[(deep["filled"] > 0) & (deep["filled"] < NARROW)]
    proposal = common_range(deep["levels"]) if len(narrow) else None
    if proposal is None:
        return []
    under_proposal = pd.Series([float(np.ptp(np.clip(each, *proposal))) for each in narrow["levels"]], narrow.index)
    helped = narrow[under_proposal / (proposal[1] - proposal[0]) >= _GAIN * narrow["filled"]]
    if helped.empty:
        return []
    levels = round(255 * float(helped["filled"].iloc[0])) + 1
    return [
        f"the values of {counted(len(helped), 'file')} fill less than 1/{1 / NARROW:g} of the range over which they "
        f"are scaled, those of the first, {printable(helped['id'].iloc[0])}, {levels} of 256 levels (99 % of its "
        f"pixels): {_propose(proposal)}"
    ]


def summarize_ranges(images: Images) -> list[str]:
    """Returns the report's sentences about ranges of grey and about decoders' warnings; empty where all is well.

    Args:
        images: the table images.csv of the stage crop, one row per usable image.
    """
    differing = _name_ranges(images)
    sentences = [f"{differing}: crop.window gives all files one range"] if differing else []
    return [*sentences, *describe_decoder_warnings(images)]


def _name_ranges(facts: pd.DataFrame) -> str:
    """Returns how many files have ranges of which kinds, if the ranges differ, else ''."""
    deep = facts[facts["scaling"] != ""]
    ranges = set(zip(deep["low"], deep["high"], strict=True))
    if len(ranges) < 2:
        return ""
    by_values = int(deep["scaling"].isin(BY_VALUES).sum())
    by_header = int((deep["scaling"] == "header").sum())
    kinds = [f"{counted(by_values, 'file is', 'files are')} scaled each by its own range"] if by_values else []
    kinds += [f"{counted(by_header, 'file')} by the window in the header"] if by_header else []
    if not kinds:  # only stored bits
        kinds = [f"{len(deep)} files are scaled by the bits that their headers state"]
    return (
        f"{', '.join(kinds)}: {len(ranges)} different ranges in this set, so that the same value becomes different "
        "grey levels"
    )


def describe_blank(facts: pd.DataFrame) -> list[str]:
    """Returns a warning that counts the files that are nearly all black or white after scaling, and names the first.

    Args:
        facts: one row per usable file, with the columns id, red, green, blue and scaling, as ImageFacts explains.
    """
    means = facts[["red", "green", "blue"]].astype(float)
    warnings = []
    for name, blank in (("black", (means < BLANK).all(axis=1)), ("white", (means > 255 - BLANK).all(axis=1))):
        files = facts[blank]
        if files.empty:
            continue
        scaled = int((files["scaling"] != "").sum())
        cure = (
            f"{scaled} of them by the range over which their values are scaled: set crop.window, or leave them out"
            if scaled
            else "leave them out if they show nothing or are masks"
        )
        warnings.append(
            f"{counted(len(files), 'file is', 'files are')} nearly all {name} (mean levels within {BLANK:g} of 255), "
            f"the first {printable(files['id'].iloc[0])}: {cure}"
        )
    return warnings


def describe_decoder_warnings(facts: pd.DataFrame) -> list[str]:
    """Returns a warning that counts the files whose decoder reported passed-over data, and names the first ones."""
    warned = facts[facts["warning"] != ""]
    if warned.empty:
        return []
    first = "; ".join(
        f"{printable(name)} ({text})" for name, text in zip(warned["id"][:5], warned["warning"][:5], strict=True)
    )
    files = counted(len(warned), "file was", "files were")
    return [f"{files} read, but may be damaged, as the decoder reports (column warning): {first}"]
