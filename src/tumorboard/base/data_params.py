"""The section `data` of params.yaml: where the images are, and how their class, patient and part are found."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from tumorboard.base.schema import Section

Frames = Literal["first", "middle"] | None
Links = Literal["inside", "anywhere"]
UNIT = "^[a-z][a-z ]{0,30}$"  # pattern of data.unit

# DVC 3's run cache ignores keys of these names, at any depth, when it compares parameters (dvc/stage/cache.py). For a
# parameter of these names it would return the outputs of an earlier value.
DVC_IGNORED_KEYS = {"size", "nfiles"}


def _texts(mapping: Any) -> Any:
    """Refuses keys such as 1 and 01, which YAML reads as one number; a table's values are compared as text."""
    for key in mapping if isinstance(mapping, dict) else ():
        if not isinstance(key, str):
            raise ValueError(f"the key {key!r} is not text: write it in quotes, as the table has it")
        if key in DVC_IGNORED_KEYS:
            raise ValueError(f"DVC ignores changes below a key named {key!r}: rename that value in the table")
    return mapping


class Columns(Section):
    """The names of a table's columns; a key that is left out stands for the column of its own name."""

    path: str | Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    label: str | Annotated[tuple[str, ...], Field(min_length=2)] | None = None
    group: str | None = None
    split: str | None = None
    fold: str | None = None


class Data(Section):
    raw: Annotated[str, Field(min_length=1)]
    table: str | None
    columns: Columns | None
    prefix: str | None
    extension: Annotated[str, Field(pattern=r"^\.[^\s/]+$")] | None
    classes: Annotated[dict[str, str], BeforeValidator(_texts), Field(min_length=2)] | None
    layout: Literal["auto", "folders"]
    links: Links
    group_pattern: str | None
    unit: Annotated[str, Field(pattern=UNIT)] | None  # noun for a group, in the singular
    positive: str | None  # name of the positive one of two classes
    frames: Frames
    boxes: str | None
    max_quarantined: Annotated[int, Field(ge=0)]
