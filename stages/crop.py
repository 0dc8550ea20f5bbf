"""Crops the raw images into the crop store."""

import sys
from pathlib import Path

from tumorboard.base.errors import InputError
from tumorboard.base.files import side_cache, write_json
from tumorboard.base.params import Params
from tumorboard.base.stage import Output, run_stage
from tumorboard.base.versioning import explain_missing, explain_unversioned
from tumorboard.data.crop import CropJob, crop_images
from tumorboard.data.label_warnings import describe_leftovers, describe_listing
from tumorboard.data.sources import list_images
from tumorboard.data.workers import worker_count


def main(params: Params, *, out: Output, metrics: Output) -> None:
    """Crops the images of `data.raw`.

    Args:
        params: the sections data, crop and runtime are used.
        out: folder to write the manifest, the tables of the files and the crop store to.
        metrics: JSON file to write the counts to.
    """
    # The folder is no command-line option, because a name with spaces or quotes would have to be quoted for the shell.
    raw = Path(params.data.raw)
    if missing := explain_missing(params.data.raw):
        raise InputError(f"data.raw: there is no '{raw}': {missing}")
    images, ignored = list_images(raw, params.data)
    job = CropJob(
        raw=raw,
        out=out,
        cache=side_cache("crops"),
        crop=params.crop,
        frames=params.data.frames,
        max_quarantined=params.data.max_quarantined,
        workers=worker_count(params.runtime.workers),
        scheduler=params.runtime.scheduler,
        links=params.data.links,
    )
    summary = crop_images(images, ignored, job)
    print(
        f"crop: {summary.listed} files, {summary.decoded} decoded, {summary.cached} from the crop cache",
        file=sys.stderr,
    )
    for warning in [
        *describe_listing(images, raw, params.data),
        *summary.warnings,
        describe_leftovers(params.study, params.data.raw, params.preset),
        explain_unversioned(params.data.raw),
    ]:
        if warning:
            print(f"Warning: {warning}", file=sys.stderr)
    write_json(summary.counts, metrics)


if __name__ == "__main__":
    run_stage(main, lambda params, _: [Path(params.data.raw)])
