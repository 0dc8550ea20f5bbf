"""Audits the cropped images and splits them into a test set and validation folds."""

import sys

from tumorboard.base.files import read_table, write_json, write_table
from tumorboard.base.params import Params
from tumorboard.base.stage import Input, Output, run_stage
from tumorboard.base.tables import read_manifest
from tumorboard.data.attributes import check_names
from tumorboard.data.audit import find_copies
from tumorboard.data.parts import count_table
from tumorboard.data.prepare import prepare_data
from tumorboard.data.shortcuts import count_test_shortcuts
from tumorboard.data.store import CropStore


def main(
    params: Params, *, crop: Input, out: Output, metrics: Output, audit_metrics: Output, test_metrics: Output
) -> None:
    """Writes the split Manifest and the tables of the audit to `out`, and the metrics of both; prints warnings.

    Args:
        params: the run's parameters.
        crop: folder of the crop stage.
        out: folder for manifest.csv, counts.csv, duplicates.csv, quarantined.csv, shortcuts.csv, test_shortcuts.csv.
        metrics: JSON file for the counts and shares of the split.
        audit_metrics: JSON file for the counts of the audit and the skills of the shortcut probe.
        test_metrics: JSON file for the skills of the shortcut probe on the test set.
    """
    attributes = read_table(crop / "attributes.csv")
    # The ensemble is the first to use these columns: a misspelled name is refused before all trainings.
    check_names(attributes, params.ensemble.stacking_columns, "params.yaml: ensemble.stacking_columns")
    manifest, images = read_manifest(crop / "manifest.csv"), read_table(crop / "images.csv")
    copies = find_copies(manifest, images, CropStore(crop / "store").read_once, params.audit)
    unusable = read_table(crop / "quarantined.csv")
    prepared = prepare_data(manifest, images, copies, unusable=unusable, params=params, attributes=attributes)
    for warning in prepared.warnings:
        print(warning, file=sys.stderr)
    prepared.raise_error()
    write_table(prepared.manifest, out / "manifest.csv")
    write_table(count_table(prepared.manifest), out / "counts.csv")
    write_table(prepared.pairs, out / "duplicates.csv")
    write_table(prepared.label_conflicts, out / "quarantined.csv")
    write_table(prepared.shortcuts, out / "shortcuts.csv")
    write_table(prepared.test_shortcuts, out / "test_shortcuts.csv")
    write_json(prepared.split_metrics, metrics)
    write_json(prepared.audit_metrics, audit_metrics)
    write_json(count_test_shortcuts(prepared.test_shortcuts), test_metrics)


if __name__ == "__main__":
    run_stage(main)
