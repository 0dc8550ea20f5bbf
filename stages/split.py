"""Audit the data, then split it into a test part and validation folds: CROP OUT METRICS AUDIT."""

from pathlib import Path

import pandas as pd

from tumorboard.data.audit import audit_manifest, find_copies
from tumorboard.data.quarantine import check_count
from tumorboard.data.shares import class_shares, summarize_shares
from tumorboard.data.shortcuts import count_shortcuts, probe_shortcuts, warn_of_shortcuts
from tumorboard.data.split import check_split, count_table, split_manifest
from tumorboard.data.store import CropStore
from tumorboard.door import run
from tumorboard.params import Params
from tumorboard.tables import read_manifest, read_table, write_json, write_table


def main(params: Params, crop: str, out: str, metrics: str, audit: str) -> None:
    """Write `out` (manifest, counts, duplicates, quarantined, shortcuts) and the metrics of the split and the audit."""
    images = read_table(Path(crop) / "images.csv")
    store = CropStore(Path(crop) / "store")
    cropped = read_manifest(Path(crop) / "manifest.csv")
    found = audit_manifest(cropped, find_copies(cropped, images, store.__getitem__, params.audit), params.audit)
    unusable = read_table(Path(crop) / "quarantined.csv")
    quarantined = pd.concat([unusable, found.quarantined])
    check_count(quarantined, len(cropped) + len(unusable), params.data.max_quarantined)
    manifest, counts = split_manifest(found.manifest, found.pictures, params.split, params.folds, params.seed)
    check_split(manifest, images, found.pairs, copies=params.audit.policy != "report")
    shortcuts = probe_shortcuts(manifest, images, params.seed)
    warn_of_shortcuts(shortcuts, params.audit.shortcut)
    write_table(manifest, Path(out) / "manifest.csv")
    write_table(count_table(manifest), Path(out) / "counts.csv")
    write_table(found.pairs, Path(out) / "duplicates.csv")
    write_table(found.quarantined, Path(out) / "quarantined.csv")
    write_table(shortcuts, Path(out) / "shortcuts.csv")
    shares = class_shares(manifest, found.manifest, params.split)
    write_json(counts | summarize_shares(shares, params.split.tolerance), metrics)
    dropped = {"dropped": len(found.manifest) - len(manifest)}
    write_json(found.counts | dropped | count_shortcuts(shortcuts, params.audit.shortcut), audit)


if __name__ == "__main__":
    run(main)
