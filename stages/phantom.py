"""Draw the embedded synthetic data set: OUT."""

from pathlib import Path

from tqdm import tqdm

from tumorboard.door import run
from tumorboard.errors import InputError
from tumorboard.params import Params
from tumorboard.phantom import draw_phantom
from tumorboard.tables import replacing


def main(params: Params, out: str) -> None:
    """Write the pictures into `out`, a folder per class; raises InputError where `out` already holds something."""
    folder = Path(out)
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"{folder}: holds files already; delete it first, so that no two data sets mix")
    pictures = draw_phantom(params.phantom, params.seed)
    for path, content in tqdm(pictures, total=params.phantom.images, desc="phantom", unit="image", disable=None):
        with replacing(folder / path) as temporary:
            temporary.write_bytes(content)


if __name__ == "__main__":
    run(main)
