"""Resolves the recipe of each model into a file of its own, on which its training depends."""

from pathlib import Path

from tumorboard.base.files import write_json
from tumorboard.base.params import Params
from tumorboard.base.stage import Output, run_stage
from tumorboard.models.registry import pin_recipes


def main(params: Params, *, out: Output) -> None:
    """Writes `out`/<model>.json for each model that runs: its whole recipe, and the digest of its weights file."""
    for model, recipe in pin_recipes(params).items():
        write_json(recipe, out / f"{model}.json")


if __name__ == "__main__":
    run_stage(main, lambda *_: [Path("weights")])
