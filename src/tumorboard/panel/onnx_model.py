"""Models of a package that onnxruntime runs, on a machine without torch."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from tumorboard.base.errors import InputError, clip, printable
from tumorboard.base.params import Crop
from tumorboard.images.grey import Pixels
from tumorboard.panel.package import parse_json
from tumorboard.panel.package_file import Package, PackedModel
from tumorboard.panel.panel import ModelOutputs, chunks_of
from tumorboard.panel.unlike import UnlikeStatistics, load_unlike

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

OPSET = 18  # operator set of the files that `tumorboard export --onnx` writes
INPUT = "crops"  # uint8[N, S, S, 3]
OUTPUTS = ("logits", "features")  # float32[N, K], float32[N, F]


class OnnxCard(BaseModel):
    """What a panel needs of a model's card; the card has more."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: str
    fold: int
    classes: tuple[str, ...]
    crop: Crop
    manifest: str
    intended_use: str


@dataclass(frozen=True)
class OnnxModel:
    """The content of one model file: a network that onnxruntime runs."""

    file: Path
    session: "InferenceSession"
    card: OnnxCard
    unlike: UnlikeStatistics | None

    def outputs(self, crops: Pixels) -> ModelOutputs:
        """Returns logits and features of crops uint8[N, S, S, 3]."""
        parts = [self.session.run(list(OUTPUTS), {INPUT: np.ascontiguousarray(part)}) for part in chunks_of(crops)]
        logits, features = (np.concatenate(one) for one in zip(*parts, strict=True))
        return ModelOutputs(logits, features)


def load_onnx(package: Package, packed: PackedModel, folder: Path) -> OnnxModel:
    """Loads one model of a package.

    Raises:
        InputError: the package has no ONNX file of the model, onnxruntime is missing or refuses the file, or the file
            is of another network.
    """
    if packed.onnx is None:
        raise InputError(
            f"{package.where(packed.weights)}: needs torch, since the package was exported without --onnx: "
            "pip install 'tumorboard[train]', or ask for a package with ONNX files"
        )
    card = parse_json(OnnxCard, package, packed.card)
    if odd := [text for text in (card.name, *card.classes) if not text.isprintable() or not text]:
        raise InputError(f"{package.where(packed.card)}: has a name that cannot be printed: {clip(odd[0])!r}")
    session = open_session(package.read(packed.onnx), package.where(packed.onnx))
    _check_shapes(session, card, package.where(packed.onnx))
    with package.extracted(packed.unlike, folder) as file:
        statistics = load_unlike(file, session.get_outputs()[1].shape[1])
    return OnnxModel(Path(package.where(packed.onnx)), session, card, statistics)


def open_session(content: bytes, where: str) -> "InferenceSession":
    """Returns a session of onnxruntime on the CPU; raises InputError where it cannot be made."""
    try:
        import onnxruntime
    except ImportError:
        raise InputError(
            "neither torch nor onnxruntime is installed: pip install 'tumorboard[predict]' for a package with ONNX "
            "files, or 'tumorboard[train]'"
        ) from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails is reported below
    # The default takes all cores of the machine, also where this process may not use them.
    options.intra_op_num_threads = _threads()
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises many kinds, none of them documented
        raise InputError(f"{where}: onnxruntime cannot read it: {printable(clip(str(error), 300))}") from None


def _threads() -> int:
    limit = os.environ.get("OMP_NUM_THREADS", "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(limit) if limit.isdecimal() and int(limit) else cores


def _check_shapes(session: "InferenceSession", card: OnnxCard, where: str) -> None:
    """Raises InputError unless a network takes the crops of a card and returns logits of its classes."""
    side, classes = card.crop.side, len(card.classes)
    found: dict[str, Any] = {one.name: one.shape[1:] for one in (*session.get_inputs(), *session.get_outputs())}
    expected = {INPUT: [side, side, 3], OUTPUTS[0]: [classes]}
    features = found.pop(OUTPUTS[1], None)
    if found != expected or not (isinstance(features, list) and len(features) == 1):
        raise InputError(
            f"{where}: is of another network: expected the input {INPUT} [N, {side}, {side}, 3] and the outputs "
            f"{OUTPUTS[0]} [N, {classes}] and {OUTPUTS[1]} [N, F]"
        )
