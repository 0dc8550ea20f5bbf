"""Draws the embedded synthetic data set."""

from tqdm import tqdm

from tumorboard.base.errors import InputError
from tumorboard.base.files import replacing
from tumorboard.base.params import Params
from tumorboard.base.stage import Output, run_stage
from tumorboard.data.phantom import draw_phantom
from tumorboard.data.workers import open_workers, worker_count


def main(params: Params, *, out: Output) -> None:
    """Draws the pictures of the data set and writes their label table.

    Args:
        params: the section phantom, the seed and runtime.workers are used.
        out: folder to write to, with one folder per class and labels.csv.

    Raises:
        InputError: `out` holds files already.
    """
    if out.is_dir() and any(out.iterdir()):
        raise InputError(f"{out}: holds files already; delete them first, so that two data sets do not mix")
    with open_workers(worker_count(params.runtime.workers), None) as parallel_map:
        files = draw_phantom(params.phantom, params.seed, parallel_map)
        for path, content in tqdm(files, total=params.phantom.images + 1, desc="phantom", unit="file", disable=None):
            with replacing(out / path) as temporary:
                temporary.write_bytes(content)


if __name__ == "__main__":
    run_stage(main)
