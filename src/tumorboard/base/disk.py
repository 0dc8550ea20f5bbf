"""Checks the disks that a run writes to, for `tumorboard doctor` and for a stage that cannot write."""

import os
import shutil
import tempfile
from pathlib import Path

from tumorboard.base.dvc_cache import dvc_cache_folders
from tumorboard.base.findings import Finding

GIB = 2**30
LEAST_DISK = 1.0  # GiB of free space; less is a problem: a run of the embedded set writes 0.2
FEW_DISK = 5.0  # GiB of free space; less is a note


def check_disk(project: Path, failed: Path | None = None) -> list[Finding]:
    """Checks free disk and write permission where a run writes: project, cache of DVC, temporary files.

    Args:
        project: folder of the project.
        failed: a file that could not be written; its folder is checked first.
    """
    folders = _folders(project)
    if failed is not None:
        own = existing_folder(failed.absolute().parent)
        folders = {"where it was written": own} | {
            name: folder for name, folder in folders.items() if folder.resolve() != own.resolve()
        }
    findings = []
    for name, folder in folders.items():
        free = shutil.disk_usage(folder).free / GIB
        if not os.access(folder, os.W_OK):
            findings.append(Finding("disk", "problem", f"{folder} ({name}) cannot be written", f"ls -ld {folder}"))
        elif free < FEW_DISK:
            cure = "export TMPDIR=/another/folder" if name == "temporary files" else "dvc gc --all-commits"
            message = f"{free:.1f} GiB are free on the disk of {folder} ({name})"
            findings.append(Finding("disk", "problem" if free < LEAST_DISK else "note", message, cure))
    return findings or [Finding("disk", "ok", f"{shutil.disk_usage(project).free / GIB:.0f} GiB are free")]


def _folders(project: Path) -> dict[str, Path]:
    folders = {"the project": project, "temporary files": Path(tempfile.gettempdir())}
    if (project / ".dvc").is_dir():
        folders["the cache of DVC"] = existing_folder(dvc_cache_folders(project.resolve())[0])
    return folders


def existing_folder(folder: Path) -> Path:
    """Returns a folder, or the nearest one above it that exists."""
    return next(each for each in (folder, *folder.parents) if each.is_dir())
