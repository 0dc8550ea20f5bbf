"""Merge `train` and a model's own entries into the one file that its training depends on: MODEL OUT."""

from tumorboard.door import run
from tumorboard.models.registry import check_architecture
from tumorboard.params import Params, resolve_recipe
from tumorboard.tables import write_json


def main(params: Params, model: str, out: str) -> None:
    """Write the resolved recipe as JSON, after a look at the architectures of all models: none should fail late."""
    for name in params.models:
        check_architecture(resolve_recipe(params, name).architecture)
    write_json(resolve_recipe(params, model).model_dump(mode="json"), out)


if __name__ == "__main__":
    run(main)
