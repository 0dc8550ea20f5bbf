"""Refuses to commit image files, which are patients' data: the hook of .pre-commit-config.yaml.

`python -m tumorboard.commands.image_guard FILE...` names the images among the files and exits with status 1. It imports
nothing beyond the standard library.
"""

import re
import sys
from collections.abc import Iterable
from pathlib import Path

LIMIT = 1024  # bytes; an image file that is larger is refused
ALLOWED = ("docs/", "plots/", "tests/")  # folders for drawn pictures
PICTURES = (
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".png",
    ".tif",
    ".tiff",
    ".webp",
    ".bmp",
    ".gif",
    ".jp2",
    ".heic",
    ".avif",
)
SCANS = (".jp2", ".dcm", ".dicom", ".ima", ".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".svs", ".ndpi", ".mrxs")
ARCHIVES = (".npz", ".npy", ".h5", ".hdf5", ".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".rar")
# The first bytes of image files, whatever their name: JPEG, PNG, TIFF, GIF, BMP, WebP, JPEG 2000, HEIC and AVIF, DICOM
# with its preamble, and DICOM without (group 2 or 8, its length of two letters of the value representation).
_STARTS = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n|II[*+]\0|MM\0[*+]|GIF8|BM.{4}\0{4}|RIFF.{4}WEBP|\0\0\0\x0cjP  |.{4}ftyp(hei|mif|avi)"
    rb"|.{128}DICM|[\x02\x08]\0[\0-\x7f]\0[A-Z]{2}",
    re.DOTALL,
)


def large_images(project: Path, names: Iterable[str]) -> list[str]:
    """Returns those files that are images, or archives of images, larger than LIMIT and outside of ALLOWED.

    Args:
        project: folder of the repository.
        names: POSIX paths relative to it.
    """
    return [name for name in names if not name.startswith(ALLOWED) and _is_large_image(project / name)]


def _is_large_image(file: Path) -> bool:
    try:
        if file.is_symlink() or file.stat().st_size <= LIMIT:  # git takes a link as the name of its target
            return False
        if file.name.lower().endswith(PICTURES + SCANS + ARCHIVES):
            return True
        with file.open("rb") as stream:
            return _STARTS.match(stream.read(132)) is not None
    except OSError:  # deleted in the commit, or a folder of a submodule
        return False


def main(names: list[str]) -> int:
    """Prints the images among the files to standard error; returns the exit status."""
    images = large_images(Path(), [Path(name).as_posix() for name in names])
    for name in images:
        print(f"{ascii(name)[1:-1]}: an image of {Path(name).stat().st_size} bytes", file=sys.stderr)
    if images:
        print(
            f"Images of more than {LIMIT} bytes do not go into git outside of {', '.join(ALLOWED)}: patients' images "
            "stay with DVC. Unstage them (git rm -r --cached FOLDER) and run `dvc add FOLDER`.",
            file=sys.stderr,
        )
    return int(bool(images))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
