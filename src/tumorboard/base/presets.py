"""Presets: values for kinds of pictures, which fill the empty keys of params.yaml; each value has its reason."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from tumorboard.base.errors import InputError
from tumorboard.base.schema import nearest

DEFAULT = "general"  # the preset of a study that names none


@dataclass(frozen=True)
class Setting:
    """A preset's value of one key, and the reason for it."""

    value: Any  # as params.yaml has it; a pair is a tuple
    reason: str  # one sentence without a final period


@dataclass(frozen=True)
class Preset:
    """Values for one kind of pictures. All presets have the same keys."""

    pictures: str  # the kind of pictures that it is for
    evidence: str  # where it was measured, or a statement that it was not
    settings: Mapping[str, Setting]  # setting by dotted key of params.yaml, such as train.augment.rotate


class Explained(NamedTuple):
    """One row of the table that explains a preset."""

    key: str  # dotted key of params.yaml
    value: Any
    reason: str


_TURNED_BY_TRAINING = 180  # degrees to either side, so any angle; copies keep it instead of half of it


def _for_copies(training: Mapping[str, Setting]) -> dict[str, Setting]:
    """Returns `balance.augment` for `train.augment`: half as strong, since training alters each copy once more."""
    half = "half of training's, which alters each copy once more"
    same = "as in training"
    copies: dict[str, Setting] = {}
    for key, setting in training.items():
        value = setting.value
        if key == "blur":
            copies[key] = Setting(0.0, "training blurs copies as it blurs originals")
        elif key == "zoom":
            copies[key] = Setting(tuple(round(1 + (factor - 1) / 2, 4) for factor in value), half)
        elif key in ("hflip", "vflip", "fill") or value in (0, _TURNED_BY_TRAINING):
            copies[key] = Setting(value, same)
        else:
            copies[key] = Setting(round(value / 2, 4), half)
    return copies


def _preset(
    pictures: str,
    evidence: str,
    *,
    crop: Mapping[str, Setting],
    augment: Mapping[str, Setting],
    copies: Mapping[str, Setting] = MappingProxyType({}),
    views: Setting | None = None,
) -> Preset:
    """Makes a preset from its sections; `augment` overrides that of `general`, `copies` overrides half of `augment`."""
    training = _GENERAL_AUGMENT | dict(augment)
    sections = {
        "crop": crop,
        "train": {"tta": views or _NO_VIEWS},
        "train.augment": training,
        "balance.augment": _for_copies(training) | dict(copies),
    }
    settings = {f"{name}.{key}": setting for name, section in sections.items() for key, setting in section.items()}
    return Preset(pictures, evidence, settings)


_NO_VIEWS = Setting((), "each further view of an image costs one more prediction; docs/results.md has the gains")
_GENERAL_AUGMENT: dict[str, Setting] = {
    "hflip": Setting(0.0, "left and right may be classes: the side of an organ or an eye, a written mark"),
    "vflip": Setting(0.0, "most pictures have an upper end"),
    "rotate": Setting(10, "patient and camera are tilted by some degrees"),
    "zoom": Setting((0.9, 1.1), "distance varies; a stronger change could hide a size that is the finding"),
    "shift": Setting(0.05, "the subject is seldom exactly in the center"),
    "brightness": Setting(0.1, "exposure differs from device to device"),
    "contrast": Setting(0.1, "contrast differs from device to device"),
    "saturation": Setting(0.0, "color may be the finding"),
    "blur": Setting(0.0, "sharpness may be the finding"),
    "fill": Setting("reflect", "an edge that continues the picture adds no straight line to it"),
}
_ANY_DIRECTION = "the picture has no upper end, so that all directions are equally right"
_MIRRORED_TOO = "a mirror image is equally right"
_PRE_TRAINED_SIDE = "the side that most pre-trained networks were trained at; small findings stay visible"
_BLACK_GROUND = "the ground of these pictures is black"
_REASONED = "reasoned from the kind of picture and from published work; not measured here"

PRESETS: dict[str, Preset] = {
    "general": _preset(
        "any picture whose kind is not listed",
        "cautious by design: it changes nothing that may be a finding, a side or an orientation; measured as the "
        "reference in docs/presets.md",
        crop={
            "side": Setting(160, "findings of some pixels survive; a step takes six times as long as at 64"),
            "border": Setting(True, "a dark border tells the device, not the finding; pictures without one stay whole"),
        },
        augment={},
    ),
    "cells": _preset(
        "single cells, cut out of a smear or a culture",
        "drawn up on the embedded set; on BCCD's blood cells within noise of `general` (docs/presets.md)",
        crop={
            "side": Setting(64, "one cell fills the picture: nucleus and cytoplasm are seen at 64 pixels"),
            "border": Setting(True, "a microscope's dark frame is no part of a cell"),
        },
        augment={
            "hflip": Setting(0.5, _MIRRORED_TOO),
            "vflip": Setting(0.5, _ANY_DIRECTION),
            "rotate": Setting(180, _ANY_DIRECTION),
            "zoom": Setting((0.9, 1.1), "a cell's size is a finding: a tenth is left to the way it was cut out"),
        },
        copies={
            "zoom": Setting((1.0, 1.1), "a copy is not made smaller, which would show filled edges"),
            "shift": Setting(0.02, "less than training's, which alters each copy once more"),
        },
    ),
    "skin": _preset(
        "dermatoscopic pictures and photographs of skin",
        _REASONED,
        crop={
            "side": Setting(224, _PRE_TRAINED_SIDE),
            "border": Setting(True, "black frames and round fields of view differ by dermatoscope, and so by clinic"),
        },
        augment={
            "hflip": Setting(0.5, _MIRRORED_TOO),
            "vflip": Setting(0.5, _ANY_DIRECTION),
            "rotate": Setting(180, _ANY_DIRECTION),
            "zoom": Setting((0.8, 1.2), "the distance of a camera varies"),
            "brightness": Setting(0.2, "light differs between rooms, and skin between people"),
            "contrast": Setting(0.2, "light differs between rooms, and skin between people"),
            "saturation": Setting(0.2, "cameras render color differently; hue, the finding, stays"),
            "blur": Setting(0.2, "focus varies, and hairs should not decide"),
        },
    ),
    "xray": _preset(
        "plain radiographs, such as of the chest",
        _REASONED,
        crop={
            "side": Setting(224, _PRE_TRAINED_SIDE),
            "border": Setting(True, "collimation leaves black margins of different width"),
        },
        augment={
            "hflip": Setting(0.0, "the heart's side is a finding (situs inversus), and a mirrored L or R never occurs"),
            "vflip": Setting(0.0, "no radiograph is read upside down"),
            "rotate": Setting(10, "patients stand or lie tilted by some degrees"),
            "brightness": Setting(0.2, "exposure and processing differ between devices"),
            "contrast": Setting(0.2, "exposure and processing differ between devices"),
            "fill": Setting("black", _BLACK_GROUND),
        },
    ),
    "mri": _preset(
        "slices of a head or body scan",
        "measured on brain MRI: better than stronger alterations, and within noise of `general` (docs/presets.md)",
        crop={
            "side": Setting(160, "the side of the trainings on brain MRI in docs/results.md"),
            "border": Setting(True, "the black margin's width tells the scanner's field of view: a shortcut"),
        },
        augment={
            "hflip": Setting(0.5, "a lesion may be on either side; set it to 0 where the side is the class"),
            "brightness": Setting(0.2, "grey values of MRI have no unit and depend on the sequence"),
            "contrast": Setting(0.2, "grey values of MRI have no unit and depend on the sequence"),
            "fill": Setting("black", _BLACK_GROUND),
        },
        views=Setting(
            ("hflip",),
            "a mirrored slice is as right; the held-out loss on brain MRI was lower, for one more prediction per image",
        ),
    ),
    "histology": _preset(
        "tiles of stained tissue sections",
        _REASONED,
        crop={
            "side": Setting(224, _PRE_TRAINED_SIDE),
            "border": Setting(False, "a tile is cut at one magnification, which a trimmed edge would change"),
        },
        augment={
            "hflip": Setting(0.5, _MIRRORED_TOO),
            "vflip": Setting(0.5, _ANY_DIRECTION),
            "rotate": Setting(180, _ANY_DIRECTION),
            "zoom": Setting((0.9, 1.1), "magnification is fixed: the size of nuclei is a finding"),
            "brightness": Setting(0.2, "sections differ in thickness, scanners in light"),
            "contrast": Setting(0.2, "stain differs between laboratories"),
            "saturation": Setting(0.3, "stain differs between laboratories"),
            "blur": Setting(0.1, "a scanner's focus varies within a slide"),
        },
        views=Setting(
            ("hflip", "vflip", "quarter_turns"),
            "a tile turned or mirrored has the same diagnosis; the eight views cost eight predictions per image",
        ),
    ),
    "fundus": _preset(
        "photographs of the retina",
        _REASONED,
        crop={
            "side": Setting(224, _PRE_TRAINED_SIDE),
            "border": Setting(True, "the retina is a disc on black, of different size per camera"),
        },
        augment={
            "hflip": Setting(0.5, "a mirrored left eye looks like a right one"),
            "vflip": Setting(0.0, "a mirror image that is turned is upside down already"),
            "rotate": Setting(180, "a disc has no edge to lose; set 15 where above and below differ, as in glaucoma"),
            "brightness": Setting(0.2, "flash, pupil and lens differ"),
            "contrast": Setting(0.2, "flash, pupil and lens differ"),
            "saturation": Setting(0.1, "cameras render the red ground differently"),
            "fill": Setting("black", _BLACK_GROUND),
        },
    ),
}


def check_preset(name: str) -> str:
    """Returns the name of a preset; raises InputError, with the nearest name, if there is none.

    >>> check_preset("cell")
    Traceback (most recent call last):
    tumorboard.base.errors.InputError: there is no preset 'cell'; did you mean cells?
    """
    if name not in PRESETS:
        raise InputError(f"there is no preset '{name}'{nearest(name, PRESETS)}")
    return name


def explain_preset(name: str) -> list[Explained]:
    """Returns each key that a preset sets, with the value and its reason; raises InputError if there is no such preset.

    >>> explain_preset("xray")[0]
    Explained(key='crop.side', value=224, reason='the side that most pre-trained networks were trained at; \
small findings stay visible')
    """
    settings = PRESETS[check_preset(name)].settings
    return [Explained(key, setting.value, setting.reason) for key, setting in settings.items()]


def explain_study(tree: Mapping[str, Any]) -> list[Explained]:
    """Returns the values that are in effect in a study for the keys of presets; explicit ones are marked as such.

    Args:
        tree: params.yaml as read, before its empty keys are filled.

    >>> rows = explain_study({"preset": "cells", "crop": {"side": 96, "border": None}})
    >>> [(row.value, row.reason) for row in rows if row.key == "crop.side"]
    [(96, 'set in params.yaml')]
    >>> [row.value for row in rows if row.key == "crop.border"]
    [True]
    """
    rows = explain_preset(tree.get("preset") or DEFAULT)
    given = ((row, _value_at(tree, row.key)) for row in rows)
    return [row if value is None else Explained(row.key, value, "set in params.yaml") for row, value in given]


def fill_empty(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Returns params.yaml with the preset's value for each key that is there, empty, and set by presets.

    An explicit value wins. An empty `preset` becomes 'general'; an unknown one is kept for the check that follows, and
    'general' fills the keys, so that only the name is reported. Missing keys and sections stay missing.

    Args:
        tree: mappings, lists and scalars, as read from YAML; it is not changed.

    >>> fill_empty({"preset": "mri", "crop": {"side": None, "border": False, "window": None}})
    {'preset': 'mri', 'crop': {'side': 160, 'border': False, 'window': None}}
    >>> fill_empty({"preset": None})
    {'preset': 'general'}
    """
    filled = _fill(tree, ["preset"], DEFAULT)
    name = filled.get("preset")
    preset = PRESETS[name] if isinstance(name, str) and name in PRESETS else PRESETS[DEFAULT]
    for key, setting in preset.settings.items():
        filled = _fill(filled, key.split("."), setting.value)
    return dict(filled)


def _fill(node: Any, path: list[str], value: Any) -> Any:
    """Returns a tree with a value at a path, if the key there is empty."""
    key, *rest = path
    if not isinstance(node, Mapping) or key not in node:
        return node
    if rest:
        return {**node, key: _fill(node[key], rest, value)}
    return {**node, key: value} if node[key] is None else node


def _value_at(node: Any, key: str) -> Any:
    for step in key.split("."):
        node = node.get(step) if isinstance(node, Mapping) else None
    return node
