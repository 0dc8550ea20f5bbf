"""The README of a package: how to use it, and its preprocessing and its vote in numbers."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tumorboard.base.params import Crop
from tumorboard.panel.package import Preprocessing
from tumorboard.panel.panel_file import PanelFile
from tumorboard.report.model_card import Member, plain, render


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
        "vote": vote_step(content),
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
    if crop.fixed_window is not None:
        low, high = crop.fixed_window
        return f"Grey of more than 8 bits: {low:g} becomes black, {high:g} white, linearly."
    return "Grey of more than 8 bits: by a DICOM header's window, else by the range of its stored bits."


def vote_step(content: PanelFile) -> str:
    """Returns what the heading vote does with the members' probabilities."""
    weights = ", ".join(f"{plain(model)} {weight:.6g}" for model, weight in content.weights.items())
    steps = {
        "single": f"The vote is {plain(content.single)} alone.",
        "hard": "The vote is the share of members that choose a class; ties go by the mean probability.",
        "soft": "The vote is the mean of the members' probabilities.",
        "product": "The vote is the product of the members' probabilities, divided by its sum over the classes.",
        "weighted": f"The vote is the weighted mean of the members' probabilities: {weights}.",
        "stacking": "The vote is a logistic regression on the members' log-probabilities; panel.json has its numbers.",
    }
    temperature = content.vote_temperatures.get(content.vote, 1.0)
    tempered = f" Then softmax(log(p) / {temperature:g})." if temperature != 1 else ""
    return f"{steps[content.vote]}{tempered} `--vote` of `tumorboard predict` chooses another one."


def decision_step(content: PanelFile, abstain: float) -> str:
    """Returns how the vote becomes a class."""
    rule = "The most probable class is decided."
    if content.threshold is not None and content.positive is not None:
        rule = f"{plain(content.positive)} is decided from a probability of {content.threshold:.6g} on, else the other."
    return f"{rule} Below a probability of {abstain:g} nothing is decided." if abstain else rule


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.6g}" for value in values)
