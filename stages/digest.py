"""Writes for each stage the digests of the source files that it runs; the stages depend on these."""

from pathlib import Path

from tumorboard.base.digests import write_digests
from tumorboard.base.params import Params
from tumorboard.base.stage import Output, run_stage

STAGES, LIBRARY = Path("stages"), Path("src/tumorboard")


def main(_: Params, *, out: Output) -> None:
    """Writes `out`/<stage>.sha256, one line per source file."""
    write_digests(STAGES, LIBRARY, out)


if __name__ == "__main__":
    run_stage(main, lambda *_: [STAGES, LIBRARY])
