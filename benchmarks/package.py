"""Measures the CPU time of loading the panel of a package, relative to loading the same models from files.

The two take turns, in one process whose libraries are loaded. Files are unpacked into a temporary folder first, and
each is read once before the first turn, so that the disk counts in neither.

Example:
    tumorboard export panel.zip --onnx && python -m benchmarks.package panel.zip
"""

import os
import tempfile
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks import argument_parser, machine, summary
from tumorboard.panel.package import load_package
from tumorboard.panel.package_file import open_package
from tumorboard.panel.trained_model import load_packed, load_panel


def cpu_seconds(task: Callable[[], object]) -> float:
    """Returns the CPU time of a task: user and system, of all threads of this process."""
    before = os.times()
    task()
    after = os.times()
    return after.user + after.system - before.user - before.system


def main() -> None:
    """Prints the seconds of both ways, and their ratio."""
    parser = argument_parser(__doc__)
    parser.add_argument("package", type=Path, metavar="FILE", help="of tumorboard export")
    parser.add_argument("--repetitions", type=int, default=9)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, open_package(arguments.package) as package:
        folder = Path(name)
        with zipfile.ZipFile(arguments.package) as file:
            file.extractall(folder)
        files = [folder / one.weights for one in package.manifest.models]
        ways: dict[str, Callable[[], object]] = {
            "files": partial(load_panel, files, "cpu", unlike=folder / "unlike"),
            "package": partial(load_package, arguments.package, partial(load_packed, device="cpu")),
        }
        for load in ways.values():
            load()
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(arguments.repetitions):
            for way, load in ways.items():
                seconds[way].append(cpu_seconds(load))
    print(machine())
    for way, values in seconds.items():
        print(f"{way:8} CPU seconds {summary(values)}")
    print("package : files", summary([one / other for one, other in zip(*reversed(seconds.values()), strict=True)]))


if __name__ == "__main__":
    main()
