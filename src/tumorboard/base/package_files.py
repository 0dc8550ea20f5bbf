"""The files of the project that a study elsewhere is made from: params.yaml, dvc.yaml, the stages, the plots."""

from pathlib import Path

PACKAGE = Path(__file__).parents[1]
_ROOTS = (PACKAGE / "project", PACKAGE.parents[1])  # root of these files in a wheel, and in a checkout


def package_file(name: str) -> Path:
    """Returns a file or folder of the installed project.

    Args:
        name: relative to the project's root, such as "dvc.yaml".

    Raises:
        RuntimeError: the installed package lacks it.
    """
    for root in _ROOTS:
        if (root / name).exists():
            return root / name
    raise RuntimeError(f"the installed tumorboard lacks {name}")
