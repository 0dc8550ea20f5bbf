"""Maps the evidence that the panel sees in images of each part, and compares the maps with boxes around lesions."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tumorboard.base.files import write_json
from tumorboard.base.params import Params
from tumorboard.base.stage import Input, Output, run_stage
from tumorboard.base.tables import read_manifest, read_predictions
from tumorboard.data.boxes import read_placed_boxes
from tumorboard.data.store import CropStore
from tumorboard.evaluation.summary import judging_of
from tumorboard.models.device import choose_device
from tumorboard.panel.comparison import HEADING
from tumorboard.panel.explain import explain_examples
from tumorboard.panel.filters import write_filters
from tumorboard.panel.first_layer import first_layers
from tumorboard.panel.heat_maps import write_explained
from tumorboard.panel.lesions import score_lesions
from tumorboard.panel.panel_file import read_panel
from tumorboard.panel.trained_model import load_panel


def main(
    params: Params,
    *,
    models: Path,
    panel: Input,
    crop: Path,
    store: Input,
    manifest: Input,
    unlike: Input,
    votes: Input,
    test_votes: Input,
    out: Output,
    test_out: Output,
    filters: Output,
    places: Output,
    test_places: Output,
) -> None:
    """Writes the maps of the images that the report shows, chosen by the predictions of the vote that heads it.

    Args:
        params: the run's parameters; `data.boxes` names a table inside `data.raw`.
        models: folder with the model files, <model>/<fold>.safetensors.
        panel: file of the values that were fitted to the validation images.
        crop: output folder of the stage crop; its tables of images and of quarantined files are read.
        store: folder of the crops.
        manifest: file of the split.
        unlike: folder with the statistics of the training images, which change with the weights: they show DVC that
            a model file is another one.
        votes: folder of the votes' Predictions for validation images.
        test_votes: folder of the votes' Predictions for test images, without rows where `evaluate.test` is false.
        out: folder for examples and maps of validation images.
        test_out: folder for examples and maps of test images.
        filters: file for the filters of each model's first layer, before and after training.
        places: JSON file for the agreement of the validation images' maps with the boxes; empty without boxes.
        test_places: JSON file for the agreement of the test images' maps with the boxes.
    """
    trained = load_panel(_files(params, models), choose_device(params.runtime), unlike=unlike)
    content = read_panel(panel, params.models, classes=trained.card.classes, manifest=trained.card.manifest)
    boxes = read_placed_boxes(params.data, crop, trained.card.crop)
    split, crops = read_manifest(manifest), CropStore(store)
    parts = ((votes, out, places), (test_votes, test_out, test_places))
    for table, folder, scores in parts:
        heading = read_predictions(table / f"{HEADING}.csv")
        explained = explain_examples(trained, heading, content, crops=crops, manifest=split)
        write_explained(explained, folder)
        judged = score_lesions(
            trained, heading, boxes, content, crops=crops, manifest=split, judging=judging_of(params)
        )
        write_json(judged, scores)
    write_filters(first_layers(trained), filters)


def _files(params: Params, models: Path) -> list[Path]:
    return [models / name / f"{fold}.safetensors" for name in params.models for fold in params.folds]


def _inputs(params: Params, options: Mapping[str, Any]) -> list[Path]:
    tables = [options["crop"] / f"{name}.csv" for name in ("images", "quarantined")]
    return [*_files(params, options["models"]), *tables, Path(params.data.raw)]


if __name__ == "__main__":
    run_stage(main, _inputs)
