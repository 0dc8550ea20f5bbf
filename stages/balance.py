"""Makes altered copies and generated images of the training images of one fold."""

import sys
from itertools import chain
from typing import TYPE_CHECKING

from tumorboard.augment.balance import balance_manifest, count_by_class, draw_copies, training_rows
from tumorboard.augment.generated import generate_images, nearest_training_images, warn_of_copies
from tumorboard.base.files import write_json, write_table
from tumorboard.base.params import Params
from tumorboard.base.stage import Input, Output, run_stage
from tumorboard.base.tables import read_manifest
from tumorboard.data.store import CropStore, write_store

if TYPE_CHECKING:
    from tumorboard.augment.generator import Step


def main(params: Params, *, fold: int, store: Input, manifest: Input, out: Output, metrics: Output) -> None:
    """Writes `out`/manifest.csv, the fold's training and added rows, `out`/store, the added crops, and `metrics`.

    With generated images, `out`/generated.csv has the training image that each one resembles most. The metrics are the
    numbers of images per class, of all copies and of all generated images.
    """
    balance, crops = params.balance, CropStore(store)
    balanced = balance_manifest(training_rows(read_manifest(manifest), fold), balance, params.seed)
    copies = draw_copies(balanced, crops, balance.augment, params.seed)
    drawn = generate_images(balanced, crops, balance, fold=fold, seed=params.seed, report=_print_step)
    write_store(out / "store", [*drawn[0], *copies[0]], chain(drawn[1], copies[1]), params.crop.shards)
    write_table(balanced, out / "manifest.csv")
    counts = {"copies": len(copies[0]), "generated": len(drawn[0])}
    write_json({"classes": count_by_class(balanced), **counts}, metrics)
    (out / "generated.csv").unlink(missing_ok=True)
    if drawn[0]:
        nearest = nearest_training_images(balanced, CropStore(store, out / "store").__getitem__)
        write_table(nearest, out / "generated.csv")
        for warning in warn_of_copies(nearest, params.audit.near):
            print(warning, file=sys.stderr)


def _print_step(step: "Step") -> None:
    """Prints a line about the fit of the generator."""
    print(
        f"generator  step {step.done:,}  critic {step.critic:.3f}  difference {step.difference:.3f}  "
        f"{step.seconds_left / 60:.1f} minutes left",
        flush=True,
    )


if __name__ == "__main__":
    run_stage(main)
