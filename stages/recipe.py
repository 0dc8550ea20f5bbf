"""Resolves the recipe of each model into a file of its own, on which its training depends."""

from pathlib import Path

from tumorboard.base.files import write_json
from tumorboard.base.params import Params
from tumorboard.base.stage import Output, run_stage
from tumorboard.models.recipes import pin_recipes


def main(params: Params, *, out: Output) -> None:
    """Writes `out`/<model>.json for each model that runs: its whole recipe, with its weights and own code identified.

    Prints which published weights a model starts from.
    """
    for model, recipe in pin_recipes(params).items():
        write_json(recipe, out / f"{model}.json")
        if "pretrained_tag" in recipe:
            print(f"{model}: pretrained: imagenet takes {recipe['pretrained_tag']}")


if __name__ == "__main__":
    run_stage(main, lambda *_: [Path("weights"), Path("architectures")])
