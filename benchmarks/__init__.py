"""Benchmarks, one script per claim; README.md has the commands, the machine and the figures."""

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]


def argument_parser(description: str | None) -> argparse.ArgumentParser:
    """Returns a parser whose --help prints a module's docstring with its line breaks."""
    formatter = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(description=description, formatter_class=formatter, allow_abbrev=False)


def machine() -> str:
    """Describes the machine: CPU, number of cores, load average of the last minute, and the date."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    cpu = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return f"{cpu}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {time.strftime('%Y-%m-%d')}"


def summary(values: Sequence[float], digits: int = 2) -> str:
    """Returns median, range and number of the values.

    >>> summary([0.98, 1.5, 1.07])
    '1.07 (0.98 to 1.50, n = 3)'
    """
    middle, least, most = (f"{value:.{digits}f}" for value in (median(values), min(values), max(values)))
    return f"{middle} ({least} to {most}, n = {len(values)})"


def stage_environment() -> dict[str, str]:
    """Returns the environment in which `python -m stages.<name>` runs this project's code from any folder."""
    before = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT), *filter(None, before)])}
