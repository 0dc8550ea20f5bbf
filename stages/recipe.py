"""Merge `train` and each model's own entries into one file a model, on which its training depends: OUT."""

from pathlib import Path

from tumorboard.door import run
from tumorboard.errors import InputError
from tumorboard.models.pretrained import check_pretrained
from tumorboard.models.registry import check_architecture
from tumorboard.params import Params, resolve_recipe
from tumorboard.tables import write_json


def main(params: Params, out: str) -> None:
    """Write `out`/<model>.json for all models that run, with a look at what they begin with: none should fail late.

    Where that is a file of weights its SHA-256 stands there too, under `pretrained_sha256`.
    """
    recipes = {model: resolve_recipe(params, model) for model in params.models}
    for model, recipe in recipes.items():
        try:
            check_architecture(recipe.architecture)
            digest = check_pretrained(recipe)
        except InputError as error:
            raise InputError(f"recipes.{model}: {error}") from None
        pinned = {"pretrained_sha256": digest} if digest else {}
        write_json(recipe.model_dump(mode="json") | pinned, Path(out) / f"{model}.json")


if __name__ == "__main__":
    run(main)
