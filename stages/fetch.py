"""Downloads one MedMNIST set."""

from tumorboard.base.params import Params
from tumorboard.base.stage import Output, run_stage
from tumorboard.data.medmnist import PREFIX, download


def main(_: Params, *, out: Output) -> None:
    """Downloads one of the sets that the list `medmnist` in params.yaml names.

    Args:
        _: the parameters; not used.
        out: file to write; its name is the value of `data.raw` that selects it, such as medmnist:bloodmnist_224.
    """
    download(out.name.removeprefix(PREFIX), out)


if __name__ == "__main__":
    run_stage(main)
