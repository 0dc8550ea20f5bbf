"""Counts the sets of weights whose test scores were computed: each look at the test part wears it out."""

import json
import os
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from tumorboard.base.tables import Manifest


class Look(NamedTuple):
    """One set of weights whose test scores were computed."""

    test: str  # digest of the test part: ids, labels and files
    model: str  # name of the model
    fold: int
    weights: str  # SHA-256 of the model file


def digest_of_test_part(manifest: Manifest) -> str:
    """Returns 16 hexadecimal digits that identify the test rows, whatever their order."""
    rows = manifest[manifest["split"] == "test"].sort_values("id")[["id", "label", "sha256"]]
    return sha256(rows.to_csv(index=False, lineterminator="\n").encode("utf-8", "surrogateescape")).hexdigest()[:16]


def record_look(ledger: Path, manifest: Manifest, model: str, fold: int, weights: Path) -> None:
    """Appends a look to the ledger, unless these weights and this test part are in it already.

    Args:
        ledger: a file with one JSON object per line; created if missing. Several processes may append at once.
        manifest: the manifest after the split.
        model: the name of the model.
        fold: the model's fold.
        weights: the model file.
    """
    look = Look(digest_of_test_part(manifest), model, fold, sha256(weights.read_bytes()).hexdigest())
    if any((past.test, past.weights) == (look.test, look.weights) for past in read_looks(ledger)):
        return
    ledger.parent.mkdir(parents=True, exist_ok=True)
    # One write of one line at the end of the file: other processes' lines stay whole.
    begin = "" if _ends_with_a_line(ledger) else "\n"
    file = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(file, (begin + json.dumps(look._asdict()) + "\n").encode())
    finally:
        os.close(file)


def _ends_with_a_line(ledger: Path) -> bool:
    """Returns whether the last line is whole, so that the next one does not continue it."""
    return not ledger.is_file() or ledger.read_bytes()[-1:] in (b"", b"\n")


def read_looks(ledger: Path) -> list[Look]:
    """Returns the looks in the order of their lines; a line that is cut, as after a power failure, is left out."""
    looks = []
    for line in ledger.read_text("utf-8", errors="replace").splitlines() if ledger.is_file() else ():
        try:
            looks.append(Look(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    return looks


def count_models(ledger: Path, manifest: Manifest) -> int:
    """Returns how many distinct sets of weights had scores on this test part; each fold of a model is one."""
    digest = digest_of_test_part(manifest)
    return len({look.weights for look in read_looks(ledger) if look.test == digest})
