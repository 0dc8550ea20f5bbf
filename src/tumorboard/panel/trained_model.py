"""Model files that torch runs, loaded into a panel."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from pydantic import BaseModel
from safetensors import SafetensorError, safe_open
from torch import nn

from tumorboard.base.errors import InputError
from tumorboard.images.grey import Pixels
from tumorboard.models.inference import crop_logits
from tumorboard.models.model_file import ModelCard, load_model
from tumorboard.models.registry import Classifier
from tumorboard.models.study_code import is_study_code
from tumorboard.models.tensors import CARD_KEY
from tumorboard.panel.fit_unlike import collected_features
from tumorboard.panel.package import parse_json
from tumorboard.panel.package_file import Package, PackedModel
from tumorboard.panel.panel import ModelOutputs, Panel, chunks_of, join_models
from tumorboard.panel.unlike import UnlikeStatistics, load_unlike


class _Recipe(BaseModel):
    architecture: str


class _Card(BaseModel):
    recipe: _Recipe


class TrainedModel(NamedTuple):
    """The content of one model file: a network that was trained on one fold."""

    file: Path
    network: Classifier
    card: ModelCard
    unlike: UnlikeStatistics | None = None  # statistics of its training images; None: not loaded

    def outputs(self, crops: Pixels) -> ModelOutputs:
        """Returns logits and features of crops uint8[N, S, S, 3], fewer at a time where the memory of a GPU runs out.

        Raises:
            torch.OutOfMemoryError: the memory does not suffice for one crop.
        """
        parts: list[ModelOutputs] = []
        start, size = 0, len(chunks_of(crops)[0])
        while start < len(crops):
            try:
                parts.append(self._outputs_at_once(crops[start : start + size]))
                start += size
            except torch.OutOfMemoryError:
                if size == 1:
                    raise
                size //= 2
        return ModelOutputs(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))

    def _outputs_at_once(self, crops: Pixels) -> ModelOutputs:
        recipe = self.card.recipe
        with collected_features(self.network) as features:
            logits = crop_logits(
                self.network,
                crops,
                precision="off",
                channels_last=recipe.channels_last,
                device=self.network.mean.device,
                tta=recipe.tta,
            )
        return ModelOutputs(logits, features[0])  # features of the first view, which is the unaltered one


def load_panel(files: Iterable[Path], device: str, *, unlike: Path | None = None) -> Panel:
    """Loads the models of a panel, in the order of their files.

    Args:
        files: the model files, as `save_model` writes them.
        device: 'cpu' or 'cuda'.
        unlike: folder with the statistics of each model's training images, <model>/<fold>.safetensors; None: they are
            not loaded.

    Raises:
        InputError: where a file is no model, two models differ in classes, manifest or crop, two files hold the same
            fold of the same model, there is no file, or statistics are missing or damaged.
    """
    return join_models(load_trained(file, device, unlike) for file in files)


def load_trained(file: Path, device: str, unlike: Path | None) -> TrainedModel:
    """Loads one model; the arguments are those of `load_panel`."""
    network, card = load_model(file, device)
    width = _width_of_features(network)
    statistics = load_unlike(unlike / card.name / f"{card.fold}.safetensors", width) if unlike else None
    return TrainedModel(file, network, card, statistics)


def load_packed(package: Package, packed: PackedModel, folder: Path, *, device: str) -> TrainedModel:
    """Loads one model of a package.

    Args:
        package: the open package.
        packed: names of the model's entries.
        folder: a folder for temporary files.
        device: 'cpu' or 'cuda'.

    Raises:
        InputError: an entry is damaged, foreign or of another network, or the network is code of the study, which a
            package does not hold.
    """
    with package.extracted(packed.weights, folder) as file:
        _check_card(file, package, packed)
        network, card = load_model(file, device)
    with package.extracted(packed.unlike, folder) as file:
        statistics = load_unlike(file, _width_of_features(network))
    return TrainedModel(Path(package.where(packed.weights)), network, card, statistics)


def _width_of_features(network: Classifier) -> int | None:
    """Returns the number of features that the first linear layer of a network's head reads; None: it has none."""
    return next((layer.in_features for layer in network.head.modules() if isinstance(layer, nn.Linear)), None)


def _check_card(file: Path, package: Package, packed: PackedModel) -> None:
    """Raises InputError where the card beside a model file is not its own or names code; a damaged file has none."""
    text = card_text(file)
    if text is None:
        return
    if text.encode() != package.read(packed.card):
        raise InputError(f"{package.where(packed.card)}: is not the card of {packed.weights}: get the package again")
    if is_study_code(parse_json(_Card, package, packed.card).recipe.architecture):
        raise InputError(f"{package.where(packed.weights)}: its network is code of a study, and a package holds none")


def card_text(file: Path) -> str | None:
    """Returns the JSON of the card in a model file; None where the file is damaged or has none."""
    try:
        with safe_open(file, framework="np") as opened:
            text: str | None = (opened.metadata() or {}).get(CARD_KEY)
            return text
    except (SafetensorError, OSError):
        return None
