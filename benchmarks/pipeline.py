"""Prints where the time of a run goes, as a tree: the stages, and the functions of this project within each.

The stacks are those of py-spy (on PyPI), which looks at all processes of the run 20 times per second:

    py-spy record --rate 20 --subprocesses --format raw -o stacks.txt -- dvc repro --force
    python -m benchmarks.pipeline stacks.txt

A line is the share of all samples in which a function or something that it called was running. Samples within an
`import` are counted as "imports" of the function that imports. Threads of libraries that run no Python are not seen.
"""

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import argument_parser

STAGE = re.compile(r'-m stages\.(\w+)(?=.*?"$)')
OPTION = re.compile(r"--(model|fold) (\S+)")
FRAME = re.compile(r"(.+) \((.+?):\d+\)$")
OWN = ("tumorboard/", "stages/")
WIDTH = 80  # characters of a line
CHAIN = 0.95  # share of the samples of a function that another has which alone is shown for both


@dataclass
class Node:
    """A function of the tree, with what it called."""

    samples: int = 0
    children: "dict[str, Node]" = field(default_factory=dict)

    def add(self, path: list[str], samples: int) -> None:
        """Counts samples of a path of functions."""
        self.samples += samples
        if path:
            self.children.setdefault(path[0], Node()).add(path[1:], samples)


def path_of(stack: list[str]) -> list[str]:
    """Returns the stage and this project's functions of a stack; the rest is left out.

    >>> path_of(['process 1:"dvc repro"', 'process 2:"python -m stages.train --model cnn --fold 0"',
    ...     '<module> (stages/train.py:3)', 'main (stages/train.py:9)', 'train (tumorboard/training/loop.py:50)',
    ...     'conv2d (torch/nn/functional.py:1)'])
    ['train cnn', 'main', 'train']
    >>> path_of(['process 2:"python -m stages.crop"', '<module> (stages/crop.py:3)',
    ...     '_find_and_load (<frozen importlib._bootstrap>:1)', '<module> (tumorboard/base/params.py:2)'])
    ['crop', 'imports']
    """
    processes = [frame for frame in stack if frame.startswith("process ")]
    label = "dvc and others"
    for process in processes:
        if found := STAGE.search(process):
            options = dict(OPTION.findall(process))
            label = " ".join([found[1], *(options[key] for key in ("model",) if key in options)])
    path = [label]
    for frame in stack:
        if "importlib" in frame:
            return [*path, "imports"]
        match = FRAME.match(frame)
        if match and match[2].startswith(OWN) and match[1] != "<module>" and match[1] != path[-1]:
            path.append(match[1])
    return path


def read_tree(path: Path) -> Node:
    """Reads the stacks of py-spy: frames with semicolons between them, then a number of samples."""
    stacks: Counter[tuple[str, ...]] = Counter()
    for line in path.read_text(encoding="utf-8").splitlines():
        frames, _, samples = line.rpartition(" ")
        stacks[tuple(path_of(frames.split(";")))] += int(samples)
    root = Node()
    for own, samples in stacks.items():
        root.add(list(own), samples)
    return root


def print_tree(node: Node, total: int, least: float, depth: int = 0) -> None:
    """Prints the children of a node that have at least a share of all samples, the largest first."""
    for name, child in sorted(node.children.items(), key=lambda item: -item[1].samples):
        share = child.samples / total
        if share >= least:
            while depth and (
                only := [item for item in child.children.items() if item[1].samples >= CHAIN * child.samples]
            ):
                name, child = only[0]  # a function that does little but call another is left out
            title = "  " * depth + name
            print(f"{100 * share:5.1f} %  {title[: WIDTH - 40]:<{WIDTH - 40}}  {'#' * round(60 * share)}".rstrip())
            print_tree(child, total, least, depth + 1)


def main() -> None:
    """Prints the tree."""
    parser = argument_parser(__doc__)
    parser.add_argument("stacks", type=Path, help="what py-spy wrote")
    parser.add_argument("--least", type=float, default=1.0, help="leave out less than this, in %% (default: 1)")
    parser.add_argument("--rate", type=int, default=20, help="samples per second (default: 20)")
    options = parser.parse_args()
    tree = read_tree(options.stacks)
    print(f"{tree.samples:,} samples, {tree.samples / options.rate:.0f} s of Python threads that run")
    print_tree(tree, tree.samples, options.least / 100)


if __name__ == "__main__":
    main()
