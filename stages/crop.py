"""Crop the raw images into the store: OUT METRICS."""

from pathlib import Path

from tumorboard.data.crop import crop_images, worker_count
from tumorboard.data.sources import list_images
from tumorboard.door import run, side_cache
from tumorboard.params import Params
from tumorboard.tables import write_json


def main(params: Params, out: str, metrics: str) -> None:
    """Write `out` (manifest, facts of the images, what was quarantined and ignored, the store) and `metrics`."""
    # Not from the command line: a name with spaces or quotes would need the shell's care.
    raw = Path(params.data.raw)
    rows, ignored = list_images(raw, params.data)
    counts = crop_images(
        rows,
        ignored,
        raw,
        params.crop,
        params.data.frames,
        Path(out),
        side_cache("crops"),
        worker_count(params.runtime.workers),
        params.data.max_quarantined,
        params.runtime.scheduler,
    )
    write_json(counts, metrics)


if __name__ == "__main__":
    run(main)
