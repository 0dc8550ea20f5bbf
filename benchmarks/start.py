"""Measures how long a stage's process runs before the first line of its `main`: imports, params.yaml and dvc.yaml.

CPU seconds, user and system, of a fresh process each time, the smallest of all repetitions. Checkouts take turns, each
with its own code. The last column is the time that `import torch` takes by itself.

Example:
    python -m benchmarks.start --repetitions 5 --checkouts ../before .
"""

import os
import subprocess
import sys
from pathlib import Path

from benchmarks import argument_parser, machine

STAGES = ("digest", "recipe", "phantom", "fetch", "crop", "split")
STAGES += ("balance", "train", "evaluate", "ensemble", "explain", "report")
# Runs a stage as `python -m` does, up to the call of its `main`.
PROGRAM = """
import os, runpy, sys, time
name = sys.argv[1]
sys.argv, sys.orig_argv = ["-m"], [sys.executable, "-m", f"stages.{name}"]
import stages
from tumorboard.base import inputs, params, stage
def begin(*_):
    params.load_params(inputs.params_file(name))
    inputs.take_snapshot(name, inputs.source_lists(name))
    os.write(1, str(time.process_time()).encode())
    os._exit(0)
stage.run_stage = begin
runpy.run_module(f"stages.{name}", run_name="__main__")
"""
TORCH = "import os, time, torch; os.write(1, str(time.process_time()).encode()); os._exit(0)"


def seconds(checkout: Path, *words: str) -> float:
    """Returns the CPU seconds that a program prints which runs in a checkout, with its code.

    Args:
        checkout: folder of a checkout.
        words: arguments of the interpreter, from `-c` on.
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(checkout / "src"), str(checkout)])}
    done = subprocess.run(
        [sys.executable, *words], cwd=checkout, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return float(done.stdout)


def main() -> None:
    """Prints one row per stage and one column per checkout."""
    parser = argument_parser(__doc__)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--checkouts", nargs="+", type=Path, default=[Path()])
    options = parser.parse_args()
    print(machine())
    checkouts = [checkout.resolve() for checkout in options.checkouts]
    print("stage", *checkouts, "import torch", sep="\t")
    for stage in options.stages:
        rounds = [
            [*(seconds(checkout, "-c", PROGRAM, stage) for checkout in checkouts), seconds(checkouts[0], "-c", TORCH)]
            for _ in range(options.repetitions)
        ]
        print(stage, *(f"{min(column):.2f}" for column in zip(*rounds, strict=True)), sep="\t", flush=True)


if __name__ == "__main__":
    main()
