"""Evaluates a trained model on the validation images of its fold and on the test images."""

from tumorboard.base.files import write_json, write_table
from tumorboard.base.params import Params
from tumorboard.base.stage import Input, Output, run_stage
from tumorboard.base.tables import read_manifest
from tumorboard.data.store import CropStore
from tumorboard.panel.evaluate import evaluate_model


def main(
    params: Params,
    *,
    model: str,
    fold: int,
    store: Input,
    manifest: Input,
    weights: Input,
    out: Output,
    metrics: Output,
) -> None:
    """Writes the Predictions for the fold's validation images and the test images to `out`, their scores to `metrics`.

    Prints one line with the speed, which is no metric because it differs from run to run.
    """
    evaluation = evaluate_model(
        weights,
        model=model,
        fold=fold,
        manifest=read_manifest(manifest),
        crops=CropStore(store),
        runtime=params.runtime,
        evaluate=params.evaluate,
        seed=params.seed,
    )
    write_table(evaluation.predictions, out)
    write_json(evaluation.metrics, metrics)
    print(f"fold {fold}  {model}  {evaluation.images_per_second:.0f} images/s")


if __name__ == "__main__":
    run_stage(main)
