"""The README of a package: how to use it, and its preprocessing and its vote in numbers."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tumorboard.base.params import Crop
from tumorboard.images.grey import GREY_DEPTHS
from tumorboard.panel.package import Preprocessing
from tumorboard.panel.panel_file import PanelFile
from tumorboard.panel.stacking import LOWEST, Column
from tumorboard.panel.stacking_columns import columns_of_vote
from tumorboard.panel.votes import STACKING
from tumorboard.report.model_card import Member, column_words, plain, render

HARD = "(the number of members that choose it + the mean of the members' probabilities of it) / (members + 1)"


def render_readme(
    study: str,
    content: PanelFile,
    members: Sequence[Member],
    preprocessing: Preprocessing,
    *,
    opset: int | None,
    checked: str,
    differences: Mapping[str, float],
) -> str:
    """Returns the README as Markdown.

    Args:
        study: name of the study.
        content: the values that were fitted on validation images.
        members: the models in the order of the panel.
        preprocessing: how an image file becomes a crop.
        opset: opset of the ONNX files; None without any.
        checked: the images on which they were compared with torch.
        differences: the largest difference of a probability, by model file.
    """
    facts: dict[str, Any] = {
        "study": study,
        "onnx": opset is not None,
        "opset": opset,
        "side": preprocessing.crop.side,
        "classes": [plain(name) for name in content.classes],
        "tta": any(member.recipe.get("tta") for member in members),
        "steps": list(crop_steps(preprocessing)),
        "normalization": [
            f"{plain(member.name)}: mean {_numbers(member.card['mean'])}; standard deviation "
            f"{_numbers(member.card['std'])}"
            for member in members
        ],
        "temperatures": [f"{plain(model)}: T = {value:g}" for model, value in content.temperatures.items()],
        "columns": [column_words(column) for column in columns_of_vote(content.vote, content.stacking)],
        "vote": vote_step(content),
        "features": list(stacking_features(content)),
        "decision": decision_step(content, preprocessing.abstain),
        "checked": checked,
        "differences": [{"name": name, "difference": f"{value:.1e}"} for name, value in differences.items()],
    }
    return render("package_readme.md.j2", facts)


def crop_steps(preprocessing: Preprocessing) -> Iterator[str]:
    """Yields what happens to an image file, in order."""
    crop = preprocessing.crop
    frames = preprocessing.frames
    yield (
        f"Refuse files of more than {crop.max_bytes:,} bytes or {crop.max_pixels:,} pixels, with a side below "
        f"{crop.min_side} pixels or sides of more than {crop.max_aspect:g} to 1."
        + (f" Of a file with several frames take the {frames} one." if frames else " Refuse files of several frames.")
    )
    yield (
        "Decode to 8 bits in red, green, blue; apply the EXIF orientation; put transparent pixels over "
        f"{tuple(crop.background)}. {_window(crop)}"
    )
    if crop.scaled_decoding is not None:
        least = crop.scaled_decoding * crop.side * (2 if crop.border else 1)
        yield (
            f"Reduce a picture to 1/2, 1/4, 1/8 … while its shorter side keeps {least:g} pixels: a JPEG by its "
            "decoder, others by averaging blocks."
        )
    if crop.border:
        yield (
            f"Cut off the outer rows and columns in which at most {100 * crop.border_tolerance:g} % of the pixels have "
            f"a channel above {crop.border_threshold}."
        )
    yield "Cut out the center square; its side is the shorter side, (long - short) // 2 pixels from the edge."
    yield (
        f"Scale it to {crop.side} pixels: while the side is even and at least twice that, average 2 × 2 pixels; then, "
        "for a remaining factor s between 1 and 4, blur by a Gaussian of variance (s² - 1) / 6 and interpolate "
        "bilinearly (from 4 on average over areas; below 1 only interpolate). `images/crop.py` of tumorboard is this "
        "step; another library's scaling gives slightly other pixels, and so other probabilities."
    )


def _window(crop: Crop) -> str:
    inverted = "MONOCHROME1 and a TIFF whose 0 is white are inverted; a DICOM's padding is in no range, and black."
    if crop.fixed_window is not None:
        low, high = crop.fixed_window
        return (
            f"Grey of more than 8 bits, and a DICOM's rescaled grey of any depth: {low:g} becomes black, {high:g} "
            f"white, linearly; values outside are clipped. {inverted}"
        )
    *lower, highest = (2**bits - 1 for bits in GREY_DEPTHS)
    depth = f"from 0 to the first of {', '.join(map(str, lower))}, {highest} that no visible pixel of it exceeds"
    return (
        "Grey of more than 8 bits is scaled linearly from black to white, and values outside of the range are clipped. "
        f"A PNG, TIFF or .npy file: {depth}; floats, negative numbers and larger ones are refused. A DICOM file, "
        "after its rescaling: by the header's first VOI LUT or window; without one over the rescaled range of "
        "BitsStored, if BitsStored is below 16, no pixel is outside and there is no modality LUT sequence; else, for "
        f"whole numbers from 0 to {highest}, as a PNG; else from the file's least to its largest number. {inverted}"
    )


def vote_step(content: PanelFile) -> str:
    """Returns what the heading vote does with the members' probabilities."""
    weights = ", ".join(f"{plain(model)} {weight:.6g}" for model, weight in content.weights.items())
    steps = {
        "single": f"The vote is {plain(content.single)} alone.",
        "hard": f"The vote's number for a class is {HARD}; it is no probability.",
        "soft": "The vote is the mean of the members' probabilities.",
        "product": "The vote is the product of the members' probabilities, divided by its sum over the classes.",
        "weighted": f"The vote is the weighted mean of the members' probabilities: {weights}.",
        "stacking": _regression(content),
    }
    temperature = content.vote_temperatures.get(content.vote, 1.0)
    tempered = f" Then softmax(log(p) / {temperature:g})." if temperature != 1 else ""
    other = "" if content.vote == "hard" else f"; the number of the hard vote for a class is {HARD}, no probability"
    return f"{steps[content.vote]}{tempered} `--vote` of `tumorboard predict` chooses another one{other}."


def _regression(content: PanelFile) -> str:
    if (stacking := content.stacking) is None:
        return ""
    count, width = len(content.classes), len(stacking.coefficients[0])
    return (
        f"The vote is a multinomial logistic regression, softmax(C x + b) with the {width} features x below. In "
        f"panel.json `stacking` has C, `coefficients` [{count}, {width}], one row per class in the order "
        f"{', '.join(map(plain, content.classes))}, and b, `intercepts` [{count}]."
    )


def stacking_features(content: PanelFile) -> Iterator[str]:
    """Yields what the features of the heading vote are, in order; nothing for a vote other than stacking."""
    if content.vote != STACKING or content.stacking is None:
        return
    members, classes = list(content.temperatures), len(content.classes)
    yield (
        f"{len(members)} × {classes} features, member after member in the order {', '.join(map(plain, members))}: for "
        f"each class log(max(p, {LOWEST:g})) of the model's probabilities p from step 2, less the mean of these "
        f"{classes} logarithms."
    )
    for column in content.stacking.columns:
        yield _encoding(column)
    if content.stacking.columns:
        yield (
            "Missing is an empty cell or `unknown`. `stacking.columns` in panel.json has means, standard deviations "
            "(`scale`) and texts (`values`) in full."
        )


def _encoding(column: Column) -> str:
    """Returns how a cell of a column becomes numbers."""
    name = f"{plain(column.name)}, {column.width} features"
    if column.mean is not None:
        return (
            f"{name}: (number - {column.mean:.6g}) / {column.scale:.6g}, or 0 where it is missing; then 1 where it is "
            "missing, else 0."
        )
    texts = "".join(f"1 where the text is {plain(value)}, else 0; " for value in column.values)
    return f"{name}: {texts}1 where it is missing, else 0. Another text has 0 in all of them."


def decision_step(content: PanelFile, abstain: float) -> str:
    """Returns how the vote becomes a class."""
    rule = "The most probable class is decided."
    if content.threshold is not None and content.positive is not None:
        rule = f"{plain(content.positive)} is decided from a probability of {content.threshold:.6g} on, else the other."
    return f"{rule} Below a probability of {abstain:g} nothing is decided." if abstain else rule


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.6g}" for value in values)
