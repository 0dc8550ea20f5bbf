"""Predicts the validation images of a trained model's fold and the test images."""

from tumorboard.base.files import side_cache, write_json, write_table
from tumorboard.base.params import Params
from tumorboard.base.stage import Input, Output, run_stage
from tumorboard.base.tables import read_manifest
from tumorboard.data.store import CropStore
from tumorboard.evaluation.summary import judging_of, summarize
from tumorboard.panel.evaluate import evaluate_model
from tumorboard.panel.ledger import record_look
from tumorboard.panel.unlike import save_unlike


def main(
    params: Params,
    *,
    model: str,
    fold: int,
    store: Input,
    manifest: Input,
    weights: Input,
    held_out: Input,
    out: Output,
    test_out: Output,
    unlike: Output,
    test_unlike: Output,
    metrics: Output,
) -> None:
    """Writes a model's Predictions, uncalibrated, and their scores on the validation images.

    Prints one line with the speed, which is no metric because it differs from run to run.

    Args:
        params: the sections data, evaluate and runtime and the seed are used.
        model: name of the model.
        fold: the fold that validates it.
        store: folder of the crops.
        manifest: file of the split.
        weights: the model file.
        held_out: the training's outputs for the validation images.
        out: file for the validation images.
        test_out: file for the test images; without rows where `evaluate.test` is false.
        unlike: file for the statistics of the training images, by which new images are reported as unlike them.
        test_unlike: CSV file for how unlike the training images each test image is by this model: id, unlike.
        metrics: JSON file for the scores of the validation images.
    """
    split = read_manifest(manifest)
    evaluation = evaluate_model(
        weights,
        held_out,
        model=model,
        fold=fold,
        manifest=split,
        crops=CropStore(store),
        runtime=params.runtime,
        test=params.evaluate.test,
    )
    write_table(evaluation.validation, out)
    write_table(evaluation.test, test_out)
    save_unlike(evaluation.unlike, unlike)
    write_table(evaluation.test[["id"]].assign(unlike=evaluation.test_unlike), test_unlike)
    card = {"parameters": evaluation.card.parameters, "epoch": evaluation.card.epoch}
    write_json({"validation": summarize(evaluation.validation, judging_of(params), held_out=True)} | card, metrics)
    if params.evaluate.test:
        if params.split.control is None:  # a control's scores are no look at the study's question
            record_look(side_cache("test-looks.jsonl"), split, model, fold, weights)
        print(f"fold {fold}  {model}  {evaluation.images_per_second:.0f} test images/s")


if __name__ == "__main__":
    run_stage(main)
