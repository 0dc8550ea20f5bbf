"""The command `tumorboard practice`: a small folder of synthetic images to learn the other commands with."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from tumorboard.base.errors import InputError, printable
from tumorboard.base.files import replacing
from tumorboard.base.params import Phantom, package_params
from tumorboard.commands.errors import reports_user_errors
from tumorboard.commands.new_folder import check_can_be_made, check_empty
from tumorboard.data.phantom import TABLE, draw_phantom

UNLABELED = 6  # patients whose images are in the folder `new`, without labels

app = typer.Typer(add_completion=False)


@app.command("practice", epilog="Example: tumorboard practice cells")
@reports_user_errors
def practice(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to make; it may exist if it is empty.")],
    images: Annotated[int, typer.Option(min=60, max=20_000, help="Images to draw.")] = 400,
    patients: Annotated[int, typer.Option(min=15, max=2_000, help="Patients whom they are of.")] = 72,
) -> None:
    """Draws a small folder of synthetic blood cells, to learn the other commands with.

    DIR/labeled has a folder per class, normal and blast; a name such as P07_003.jpg
    begins with the patient. DIR/new has images of six further patients, without
    labels. No picture is of a person.
    """
    if patients > images:
        raise InputError(f"--patients {patients} exceeds --images {images}, and each patient has an image at least")
    check_empty(folder)
    check_can_be_made(folder)
    side = package_params("cells").phantom.side
    for path, content in draw_practice(Phantom(images=images, patients=patients, side=side), seed=0):
        with replacing(folder / path) as temporary:
            temporary.write_bytes(content)
    name = printable(str(folder))
    Console().print(Text(f"{name}/labeled has images by class, {name}/new has images without labels"), soft_wrap=True)


def draw_practice(phantom: Phantom, seed: int) -> Iterator[tuple[str, bytes]]:
    """Yields the files of a practice folder.

    Args:
        phantom: number of images and patients, side of the images.
        seed: seed of the data set.

    Yields:
        Pairs of a path and the file's bytes: 'labeled/<class>/<patient>_<number>.jpg', and 'new/<patient>_<number>.jpg'
        for the last UNLABELED patients.

    >>> path, content = next(draw_practice(Phantom(images=60, patients=15, side=96), seed=0))
    >>> path, content[6:10]
    ('labeled/blast/P01_001.jpg', b'JFIF')
    """
    for path, content in draw_phantom(phantom, seed):
        name = PurePosixPath(path).name
        if name == TABLE:
            continue
        patient = int(name[1:].split("_")[0])
        yield (f"new/{name}" if patient > phantom.patients - UNLABELED else f"labeled/{path}"), content
