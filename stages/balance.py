"""Make altered copies of the training images of one fold: FOLD STORE SPLIT_MANIFEST OUT METRICS."""

from pathlib import Path

from tumorboard.data.balance import balance_manifest, count_images, draw_copies, training_rows
from tumorboard.data.store import CropStore, write_store
from tumorboard.door import run
from tumorboard.params import Params
from tumorboard.tables import read_manifest, write_json, write_table


def main(params: Params, fold: str, store: str, split_manifest: str, out: str, metrics: str) -> None:
    """Write `manifest.csv` of the fold's training rows and their copies, and a store of the copies."""
    rows = training_rows(read_manifest(split_manifest), int(fold))
    manifest = balance_manifest(rows, params.balance, params.seed)
    ids, crops = draw_copies(manifest, CropStore(store), params.balance.augment, params.seed)
    write_store(Path(out) / "store", ids, crops, params.crop.shards)
    write_table(manifest, Path(out) / "manifest.csv")
    write_json({"classes": count_images(manifest), "copies": len(ids)}, metrics)


if __name__ == "__main__":
    run(main)
