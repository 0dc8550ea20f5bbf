"""Compares the pictures of a folder without labels."""

from pathlib import Path

import pandas as pd

from tumorboard.base.errors import ImageError
from tumorboard.base.params import SET, Crop, Frames
from tumorboard.data import grey_ranges
from tumorboard.data.image_facts import ImageFacts, facts_of
from tumorboard.data.sources import read_image_bytes
from tumorboard.images.crop import crop_file

MAX_FILES = 200  # files that are decoded


def describe_unlabeled(raw: Path, crop: Crop, frames: Frames) -> list[str]:
    """Returns warnings about ranges of grey and about decoders for the first MAX_FILES images directly in a folder.

    Args:
        raw: the folder.
        crop: how images are read.
        frames: the frame to take of a file with several.
    """
    plain = crop if crop.window != SET else crop.model_copy(update={"window": None})
    rows: dict[str, ImageFacts] = {}
    for file in sorted(path for path in raw.iterdir() if path.is_file() and not path.name.startswith("."))[:MAX_FILES]:
        try:
            content = read_image_bytes(file, crop.max_bytes)
            rows[file.name] = facts_of(content, crop_file(content, plain, frames))
        except (ImageError, OSError):
            continue
    facts = pd.DataFrame(rows.values(), columns=list(ImageFacts._fields))
    facts.insert(0, "id", pd.Series(list(rows), dtype=object))
    return grey_ranges.describe_facts(facts)
