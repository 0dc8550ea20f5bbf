"""Finds the caches of DVC: under `cache.type symlink` a tracked file is a link into one of them."""

import os
from functools import lru_cache
from pathlib import Path


@lru_cache(maxsize=16)
def dvc_cache_folders(start: Path) -> tuple[Path, ...]:
    """Returns the resolved cache folders of the DVC projects that a path, this process or DVC_ROOT is in.

    DVC sets DVC_ROOT to the main checkout where it runs a stage, also in the temporary copy of an experiment. The cache
    may be set in DVC's system, global, project or local configuration.

    Args:
        start: a file or folder, which may lie in a project of its own.
    """
    starts = [Path.cwd(), start.absolute(), start.resolve()]
    starts += [Path(os.environ["DVC_ROOT"])] if "DVC_ROOT" in os.environ else []
    projects = (_find_project(each) for each in starts)
    return tuple(dict.fromkeys(_cache_of(project).resolve() for project in projects if project is not None))


def _find_project(start: Path) -> Path | None:
    return next((folder for folder in (start, *start.parents) if (folder / ".dvc").is_dir()), None)


def _cache_of(project: Path) -> Path:
    """Returns what `dvc cache dir` prints in a project."""
    from dvc.config import Config, ConfigError  # imported here: it takes 0.2 s, and only a folder of links needs it

    default = project / ".dvc" / "cache"
    try:
        config = Config(str(project / ".dvc"), validate=False)
    except (ConfigError, OSError):  # DVC itself stops at such a configuration
        return default
    return Path(config.get("cache", {}).get("dir") or default)
