"""Makes altered copies of the training images of one fold."""

from tumorboard.augment.balance import balance_manifest, count_by_class, draw_copies, training_rows
from tumorboard.base.files import write_json, write_table
from tumorboard.base.params import Params
from tumorboard.base.stage import Input, Output, run_stage
from tumorboard.base.tables import read_manifest
from tumorboard.data.store import CropStore, write_store


def main(params: Params, *, fold: int, store: Input, manifest: Input, out: Output, metrics: Output) -> None:
    """Writes `out`/manifest.csv, the fold's training rows and their copies, `out`/store of the copies, and `metrics`.

    The metrics are the numbers of images per class, and of all copies.
    """
    rows = training_rows(read_manifest(manifest), fold)
    balanced = balance_manifest(rows, params.balance, params.seed)
    ids, crops = draw_copies(balanced, CropStore(store), params.balance.augment, params.seed)
    write_store(out / "store", ids, crops, params.crop.shards)
    write_table(balanced, out / "manifest.csv")
    write_json({"classes": count_by_class(balanced), "copies": len(ids)}, metrics)


if __name__ == "__main__":
    run_stage(main)
