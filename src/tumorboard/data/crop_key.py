"""Identifies the code, parameters and libraries that made crops, so that crops made by others are not reused."""

import json
from functools import cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import cv2
import PIL

from tumorboard.base.errors import InputError
from tumorboard.base.params import Crop, Frames

DICOM_PACKAGES = ("pydicom", "pylibjpeg", "pylibjpeg-libjpeg", "pylibjpeg-openjpeg", "python-gdcm", "pyjpegls")
OWN_MODULES = ("crop", "crop_cache", "crop_key", "image_facts")  # this folder's modules that make crops, beside images/


@cache
def crop_key(crop: Crop, frames: Frames) -> str:
    """Returns 16 hexadecimal digits that name the parameters, the code and the libraries that crops are made by."""
    made_by = [crop.model_dump_json(exclude={"shards"}), str(frames), cv2.__version__, PIL.__version__]
    made_by += [f"{package} {_version_of(package)}" for package in DICOM_PACKAGES]
    here = Path(__file__).parent
    modules = [*sorted((here.parent / "images").glob("*.py")), *(here / f"{name}.py" for name in OWN_MODULES)]
    made_by += [module.read_text(encoding="utf-8") for module in modules]
    return sha256(json.dumps(made_by).encode()).hexdigest()[:16]


def check_crop_key(key: str, crop: Crop, frames: Frames) -> None:
    """Raises InputError, in a worker, if the machine that sent `key` (`crop_key`) would crop otherwise."""
    if key != crop_key(crop, frames):
        raise InputError(
            "has other versions of tumorboard, OpenCV, Pillow or pydicom than this machine: install the same ones"
        )


def _version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
