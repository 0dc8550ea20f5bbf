"""Split the images into a test part and validation folds: CROP OUT METRICS."""

from pathlib import Path

from tumorboard.data.split import check_split, count_table, split_manifest
from tumorboard.door import run
from tumorboard.params import Params
from tumorboard.tables import read_manifest, read_table, write_json, write_table


def main(params: Params, crop: str, out: str, metrics: str) -> None:
    """Write `out` (manifest and table of counts) and `metrics`."""
    images = read_table(Path(crop) / "images.csv")
    manifest, counts = split_manifest(
        read_manifest(Path(crop) / "manifest.csv"), images, params.split, params.folds, params.seed
    )
    check_split(manifest, images)
    write_table(manifest, Path(out) / "manifest.csv")
    write_table(count_table(manifest), Path(out) / "counts.csv")
    write_json(counts, metrics)


if __name__ == "__main__":
    run(main)
