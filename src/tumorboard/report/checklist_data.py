"""Answers to reporting checklists that are about the data; what no file contains is left to the author."""

from tumorboard.base.errors import counted
from tumorboard.base.tables import classes_of
from tumorboard.panel.votes import STACKING
from tumorboard.report.conclusions import Conclusions
from tumorboard.report.front import percent
from tumorboard.report.results import Results, name_of_vote

NOT_KNOWN = "Not known"


def sources(results: Results, _: Conclusions) -> str:
    """Reports where the images lie."""
    return f"{results.raw}: {_counted(results)}. For the author: where and when they were collected."


def exclusions(results: Results, _: Conclusions) -> str:
    """Counts excluded files and dropped images."""
    dropped = sum(value for name, value in results.split_metrics.items() if name.startswith("dropped_"))
    files = len(results.quarantined)
    text = (
        f"{_files(files)} excluded, each with its reason under 'Quarantined files'" if files else "No file was excluded"
    )
    if dropped:
        text += f"; {dropped:,} training or validation images because their picture or group is in a part that scores"
    return f"{text}. For the author: criteria for {results.units}."


def preprocessing(results: Results, _: Conclusions) -> str:
    """Reports how a file becomes a crop."""
    crop = results.crop
    start = "A dark border is removed, then each" if crop.border else "Each"
    window = "" if crop.window is None else f"; grey values beyond 8 bits by crop.window: {crop.window}"
    return f"{start} image is cropped to a square of {crop.side} pixels{window}; the same for all parts."


def participants(results: Results, conclusions: Conclusions) -> str:
    """Counts excluded files and leaves the setting to the author."""
    return f"{exclusions(results, conclusions)} Also for the author: setting and treatments."


def flow(results: Results, conclusions: Conclusions) -> str:
    """Joins numbers and characteristics."""
    return f"{included(results, conclusions)} {characteristics(results, conclusions)}"


def subsets(results: Results, _: Conclusions) -> str:
    """Reports that all usable images are in the run."""
    return f"{_counted(results)}: all usable ones. For the author: whether {results.raw} is itself a selection."


def missing(results: Results, _: Conclusions) -> str:
    """Reports the handling of unusable files and empty cells."""
    text = f"Nothing is imputed; {_files(len(results.quarantined))} left out."
    columns = [name for name in results.attributes.columns if name != "id"]
    return f"{text} An empty cell of {', '.join(columns)} counts as 'unknown'." if columns else text


def partitions(results: Results, _: Conclusions) -> str:
    """Reports how images were assigned to parts."""
    how = f"parts that the data gives are kept, others are drawn with seed {results.seed}"
    if results.split.leave_out is not None:
        how = f"one fold per value of {results.split.leave_out}; the test part is that of the data or drawn"
    return f"{_parts(results)}; {how}."


def disjointness(results: Results, _: Conclusions) -> str:
    """Reports which level is not divided between parts, from the table of the split."""
    manifest, unit = results.manifest, results.unit
    places = manifest["split"] + manifest["fold"].fillna(-1).astype(str)
    divided = int((places.groupby(manifest["group"]).nunique() > 1).sum())
    copies = " Copies of pictures may be on both sides." if results.audit_metrics["may_leak"] else ""
    if unit is None:
        return (
            f"{NOT_KNOWN} for patients: nobody said what a group is (data.unit). {divided} groups are divided.{copies}"
        )
    text = f"{divided} of {manifest['group'].nunique():,} {results.units} are divided between parts or folds.{copies}"
    return text if unit == "patient" else f"{text} {NOT_KNOWN} for patients: a group is a {unit}."


def sample_size(_: Results, conclusions: Conclusions) -> str:
    """Reports how exact the run is."""
    return f"For the author: the intended size. {conclusions.precision}."


def external(results: Results, _: Conclusions) -> str:
    """Reports what the files know about data from elsewhere."""
    text = f"{NOT_KNOWN}: all images are in {results.raw}"
    if results.split.leave_out is not None:
        text = f"Each fold validates on a value of {results.split.leave_out} that its models never saw"
    return f"{text}. For the author: whether test images come from elsewhere."


def included(results: Results, _: Conclusions) -> str:
    """Counts included and excluded images."""
    text = f"Included: {_counted(results)}: {_parts(results)}. Excluded: {counted(len(results.quarantined), 'file')}."
    return text if results.unit == "patient" else f"{text} {NOT_KNOWN}: the number of patients."


def characteristics(results: Results, _: Conclusions) -> str:
    """Reports which characteristics the data's table has."""
    columns = [name for name in results.attributes.columns if name != "id"]
    known = f" Columns of the data's table: {', '.join(columns)}." if columns else " The data has no further columns."
    return f"Classes by part are under 'The data'.{known} For the author: demographic and clinical facts."


def outcome(results: Results, _: Conclusions) -> str:
    """Names the classes."""
    return f"The label: {', '.join(classes_of(results.shown.heading))}. For the author: how and by whom it was decided."


def predictors(results: Results, _: Conclusions) -> str:
    """Reports the inputs of the models and the vote."""
    text = f"The models see the pixels of the crop ({results.crop.side} pixels) alone"
    fit = results.fit
    if fit.stacking is None or not fit.stacking.columns:
        return f"{text}; no column of the data's table is used."
    columns = ", ".join(column.name for column in fit.stacking.columns)
    return f"{text}. The {name_of_vote(STACKING)} also uses the columns {columns} of the data's table."


def imbalance(results: Results, _: Conclusions) -> str:
    """States the shares of the training labels and how their imbalance is handled."""
    train = results.manifest[results.manifest["split"] == "train"]["label"]
    shares = [f"{name} {percent(float((train == name).mean()))}" for name in classes_of(results.shown.heading)]
    return f"Training labels: {', '.join(shares)}. {balancing(results)}"


def differences_of_parts(results: Results, _: Conclusions) -> str:
    """Compares the labels of training and test part."""
    rows = {part: results.manifest[results.manifest["split"] == part]["label"] for part in ("train", "test")}
    shares = [
        f"{name} {' and '.join(percent(float((labels == name).mean())) for labels in rows.values())}"
        for name in classes_of(results.shown.heading)
    ]
    return f"Shares in training and test part: {', '.join(shares)}. For the author: differences of setting."


def development(results: Results, _: Conclusions) -> str:
    """Counts images per part."""
    return f"{_parts(results)}; 'The data' has the labels."


def _files(count: int) -> str:
    return counted(count, "file was", "files were")


def _counted(results: Results) -> str:
    return f"{len(results.manifest):,} images of {results.counted_groups(results.manifest['group'].nunique())}"


def _parts(results: Results) -> str:
    """Returns the numbers of images and groups of training and test part."""
    grouped = results.manifest.groupby("split", sort=False)
    counts = {str(part): (len(rows), rows["group"].nunique()) for part, rows in grouped}
    names = {"train": "Training and validation", "test": "test"}
    return ", ".join(
        f"{names[part]} {counts[part][0]:,} images of {results.counted_groups(counts[part][1])}"
        for part in names
        if part in counts
    )


def balancing(results: Results) -> str:
    """Reports the handling of classes of different size."""
    if results.balance == "none":
        return "Classes are not balanced."
    return f"Classes are balanced by balance.strategy: {results.balance}."
