"""Writes histograms of a network's weights for TensorBoard, before and during its training."""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

RUN = "weights"  # a run of its own in TensorBoard, which follows one file per run


class WeightHistograms:
    """Writes one histogram per layer's weights and epoch to <folder>/weights; nothing where `on` is False.

    Epoch 0 is the network before its first step. A resumed training has the epochs from there on. Reading weights
    changes no result. Nothing is opened before the first histogram.
    """

    def __init__(self, folder: Path, *, on: bool) -> None:
        """Prepares the folder's run.

        Args:
            folder: folder of the training's TensorBoard runs.
            on: whether anything is written, as the recipe's `tensorboard` sets it on rank 0.
        """
        self._folder, self._on = folder / RUN, on

    @cached_property
    def _board(self) -> "SummaryWriter":
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and seldom needed

        return SummaryWriter(self._folder)

    def add(self, model: nn.Module, epoch: int) -> None:
        """Writes the histograms of an epoch; weights that are not finite have none."""
        if not self._on:
            return
        for name, values in model.named_parameters():
            weights = values.detach().float().cpu()
            if weights.isfinite().all():
                self._board.add_histogram(name, weights, epoch)
        self._board.flush()
