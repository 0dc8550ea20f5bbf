"""Trains one model on one fold."""

from tumorboard.base.files import side_cache
from tumorboard.base.params import Params
from tumorboard.base.stage import Input, Output, run_stage
from tumorboard.training.job import read_job, read_recipe
from tumorboard.training.journal import Journal
from tumorboard.training.loop import train_model


def main(
    params: Params,
    *,
    model: str,
    fold: int,
    store: Input,
    manifest: Input,
    balance: Input,
    recipe: Input,
    weights: Output,
    held_out: Output,
    out: Output,
    metrics: Output,
) -> None:
    """Trains a model on all folds but one, which validates it.

    Reads the crop store `store`, the split's `manifest`, the fold's folder `balance` and the model's `recipe`. Writes
    the model file `weights`, the outputs for the validation images `held_out`, the JSON file `metrics`, and in the
    folder `out` history.csv, timings.json, dvclive/ and tensorboard/.
    """
    job = read_job(
        model,
        fold=fold,
        recipe=read_recipe(recipe),
        crop=params.crop,
        store=store,
        manifest=manifest,
        balance=balance,
        weights=weights,
        held_out=held_out,
        out=out,
    )
    journal = Journal(out, metrics, job.recipe)
    train_model(job, params.runtime, journal.add, side_cache("checkpoints"))


if __name__ == "__main__":
    run_stage(main)
