"""Download one of the sets that the list `medmnist` names: OUT."""

from pathlib import Path

from tumorboard.data.medmnist import PREFIX, fetch
from tumorboard.door import run
from tumorboard.params import Params


def main(_: Params, out: str) -> None:
    """Write `out`, whose name is the value of `data.raw` that reads it, such as medmnist:bloodmnist_224."""
    fetch(out.removeprefix(PREFIX), Path(out))


if __name__ == "__main__":
    run(main)
