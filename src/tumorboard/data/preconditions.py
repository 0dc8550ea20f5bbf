"""Checks the given parts and the positive class before anything is split."""

from tumorboard.base.errors import InputError, clip, printable
from tumorboard.base.tables import Manifest
from tumorboard.data.look_alikes import describe_twin


def check_given_parts(manifest: Manifest) -> None:
    """Raises InputError where the part is given for some rows and empty for others."""
    if len(given := set(manifest["split"])) > 1 and "" in given:
        raise InputError("split is given for some images and empty for others: give it for all or for none")


def check_positive(manifest: Manifest, positive: str | None) -> None:
    """Raises InputError unless `data.positive` is None or one of two classes."""
    classes = sorted(set(manifest["label"]))
    if positive is not None and (len(classes) != 2 or positive not in classes):
        raise InputError(
            f"data.positive is '{positive}', expected one of two classes; the classes are "
            f"{clip(', '.join(map(printable, classes)), 300)}: name the one to detect, or leave it empty "
            "(-S data.positive=null)"
            f"{describe_twin(positive, classes)}"
        )
