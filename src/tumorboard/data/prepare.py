"""Prepares cropped images for training: audit, quarantine of label conflicts, split, and the probe for shortcuts."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from tumorboard.base.errors import InputError
from tumorboard.base.params import Params
from tumorboard.base.tables import MANIFEST, Images, Manifest
from tumorboard.data.attributes import Attributes
from tumorboard.data.audit import PAIR_COLUMNS, Copies, Pictures, audit_manifest
from tumorboard.data.control import control_warning, shuffle_labels
from tumorboard.data.label_warnings import describe_placeholders
from tumorboard.data.leave_out import fold_by_value
from tumorboard.data.near_duplicates import Pairs
from tumorboard.data.parts import (
    SHARE_COLUMNS,
    Shares,
    class_shares,
    count_merged,
    few_validation_warning,
    merged_warning,
    shares_warning,
    summarize_shares,
)
from tumorboard.data.preconditions import check_given_parts, check_positive
from tumorboard.data.quarantine import QuarantinedFiles, check_quarantine_limit
from tumorboard.data.shortcuts import (
    PROBE_COLUMNS,
    TEST_COLUMNS,
    ShortcutScores,
    TestShortcutScores,
    count_shortcuts,
    probe_shortcuts,
    probe_test_shortcuts,
    shortcuts_warning,
)
from tumorboard.data.split import (
    LeftOutImages,
    check_split,
    left_out,
    left_out_warning,
    missing_class_warning,
    split_manifest,
)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The prepared data. Where a step raised an InputError, its results and those of later steps are empty."""

    audited: Manifest  # without the images of label conflicts, before the split; as given where the audit failed
    pairs: Pairs  # the copies that the audit joined
    label_conflicts: QuarantinedFiles  # the images that the audit quarantined
    left_out: LeftOutImages  # images that the split leaves out of given parts: path, reason
    manifest: Manifest  # after the split
    shares: Shares  # share of each class in each part
    shortcuts: ShortcutScores  # every probed fact of the files with its scores
    test_shortcuts: TestShortcutScores  # scores on the test set; nothing else depends on its pictures
    audit_metrics: dict[str, Any]  # metrics of the audit and the probe, flat
    split_metrics: dict[str, Any]  # metrics of the split: counts and shares by part
    warnings: tuple[str, ...]  # sentences for the user, each with its step in front, such as "audit: ..."
    error: InputError | None  # error of the step that failed

    def raise_error(self) -> None:
        """Raises the error of the step that failed, if any."""
        if self.error is not None:
            raise self.error


def prepare_data(
    manifest: Manifest,
    images: Images,
    copies: Copies,
    *,
    unusable: QuarantinedFiles,
    params: Params,
    attributes: Attributes | None = None,
) -> Prepared:
    """Audits and splits cropped images, and probes the split for shortcuts.

    An InputError of a step ends the work and is returned as `Prepared.error`, beside everything known until then.

    Args:
        manifest: the Manifest of the cropped images, before the split.
        images: one row per cropped image.
        copies: the copies among these images, from `find_copies`.
        unusable: one row per file that crop quarantined.
        params: `audit`, `data.max_quarantined`, `split`, `folds` and `seed` count.
        attributes: attributes of the cropped images; None: the data has none. Only `split.leave_out` uses them.
    """
    prepared = _before_all_steps(manifest)
    attributes = manifest[["id"]] if attributes is None else attributes
    try:
        for known in _run_steps(prepared, images, copies, unusable=unusable, params=params, attributes=attributes):
            prepared = known
    except InputError as error:
        prepared = replace(prepared, error=error)
    return prepared


def _before_all_steps(manifest: Manifest) -> Prepared:
    return Prepared(
        audited=manifest,
        pairs=pd.DataFrame(columns=list(PAIR_COLUMNS)),
        label_conflicts=pd.DataFrame(columns=["path", "reason", "detail"]),
        left_out=pd.DataFrame(columns=["path", "reason"]),
        manifest=pd.DataFrame(columns=list(MANIFEST)),
        shares=pd.DataFrame(columns=list(SHARE_COLUMNS)),
        shortcuts=pd.DataFrame(columns=list(PROBE_COLUMNS)),
        test_shortcuts=pd.DataFrame(columns=list(TEST_COLUMNS)),
        audit_metrics={},
        split_metrics={},
        warnings=(),
        error=None,
    )


def _run_steps(
    known: Prepared,
    images: Images,
    copies: Copies,
    *,
    unusable: QuarantinedFiles,
    params: Params,
    attributes: Attributes,
) -> Iterator[Prepared]:
    """Yields all that is known after each step."""
    listed, groups = len(known.audited) + len(unusable), known.audited.set_index("id")["group"]
    audit = audit_manifest(known.audited, copies, params.audit)
    known = replace(
        known,
        audited=audit.manifest,
        pairs=audit.pairs,
        label_conflicts=audit.quarantined,
        warnings=_named("audit", *audit.warnings, describe_placeholders(audit.manifest)),
    )
    yield known

    quarantined = pd.concat([unusable, audit.quarantined])
    check_quarantine_limit(quarantined, listed, params.data.max_quarantined)
    dropped = left_out(audit.manifest, audit.pictures)
    known = replace(known, left_out=dropped)
    yield known

    check_given_parts(audit.manifest)
    check_positive(audit.manifest, params.data.positive)
    manifest = audit.manifest
    if params.split.control is not None:  # after the audit, which would quarantine copies with two labels
        manifest = shuffle_labels(manifest, audit.pictures, params.split.control)
    known = replace(
        known,
        warnings=known.warnings + _named("split", control_warning(params.split.control), left_out_warning(dropped)),
    )
    yield known

    known = _divide(known, manifest, audit.pictures, params, attributes, groups)
    yield known

    divided, shares = known.manifest, known.shares
    check_split(divided, images, audit.pairs, copies=params.audit.policy != "report")
    probe = probe_shortcuts(divided, images, params.seed, params.audit.shortcut)
    facts = _named("shortcuts", shortcuts_warning(probe, params.audit.shortcut))
    yield replace(
        known,
        shortcuts=probe,
        test_shortcuts=probe_test_shortcuts(divided, images, params.seed),
        audit_metrics=audit.counts
        | {"dropped": len(audit.manifest) - len(divided)}
        | count_shortcuts(probe, params.audit.shortcut),
        warnings=known.warnings + facts + _named("split", shares_warning(shares, params.split.tolerance)),
    )


def _divide(
    known: Prepared,
    manifest: Manifest,
    pictures: Pictures,
    params: Params,
    attributes: Attributes,
    groups: pd.Series,
) -> Prepared:
    """Adds the split Manifest, the classes' shares in its parts, the metrics and the warnings of the split.

    `groups` has the group of each image as given, by id.
    """
    split, values = params.split, list[str]()
    if split.leave_out is not None:
        manifest, values = fold_by_value(manifest, pictures, attributes, column=split.leave_out, folds=params.folds)
        split = split.model_copy(update={"folds": len(values)})
    divided, counts = split_manifest(manifest, pictures, split=split, folds=params.folds, seed=params.seed)
    if values:
        counts["left_out_values"] = {f"fold_{fold}": value for fold, value in enumerate(values)}
    counts["merged_groups"] = count_merged(groups, divided)
    shares = class_shares(divided, manifest, split)
    merged = merged_warning(groups, divided, params.data.unit)
    few = few_validation_warning(divided, params.folds, split.leave_out)
    warnings = _named("split", merged, missing_class_warning(divided), few)
    return replace(
        known,
        manifest=divided,
        shares=shares,
        split_metrics=counts | summarize_shares(shares),
        warnings=known.warnings + warnings,
    )


def _named(step: str, *warnings: str) -> tuple[str, ...]:
    """Puts the name of the step in front of each warning; drops empty ones."""
    return tuple(f"{step}: {warning}" for warning in warnings if warning)
