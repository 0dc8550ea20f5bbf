"""Writes trained models as ONNX and compares them with torch."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import softmax
from torch import Tensor, nn

from tumorboard.base.errors import InputError, clip
from tumorboard.images.grey import Pixels
from tumorboard.models.views import views_of
from tumorboard.panel.onnx_model import INPUT, OPSET, OUTPUTS, OnnxCard, OnnxModel, open_session
from tumorboard.panel.trained_model import TrainedModel

LARGEST_DIFFERENCE = 1e-4  # the largest accepted difference of a probability from torch's
LARGEST_FILE = 2_000_000_000  # bytes that a protobuf file can have
EXAMPLES = 2  # crops with which the network is traced; a size of 1 would be taken as fixed


class _WholeModel(nn.Module):
    """Maps crops to logits and features: normalization, network and views of test-time augmentation in one graph."""

    def __init__(self, trained: TrainedModel) -> None:
        super().__init__()
        self.network = trained.network
        self.views = views_of(trained.card.recipe.tta)

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Returns logits float32[N, K] and features float32[N, F] of crops uint8[N, S, S, 3]."""
        network = self.network
        images = crops.permute(0, 3, 1, 2).float()
        features: Tensor = network.backbone((images - 255 * network.mean) / (255 * network.std))
        logits: Tensor = network.head(features)
        for view in self.views[1:]:
            logits = logits + network(view(images))
        return logits / len(self.views), features.flatten(1)


def export_onnx(trained: TrainedModel, path: Path) -> None:
    """Writes a model as one ONNX file.

    Its input is `crops`, uint8[N, S, S, 3] in red, green, blue; its outputs are `logits`, float32[N, K], and
    `features`, float32[N, F], what the head reads of the unaltered crops. N is free. Equal models give equal bytes.

    Args:
        trained: the model, on the CPU.
        path: the ONNX file.

    Raises:
        InputError: the network cannot be written as ONNX, or is too large; names the model file.
    """
    side = trained.card.crop.side
    examples = torch.zeros((EXAMPLES, side, side, 3), dtype=torch.uint8)
    model = _WholeModel(trained).eval().to(memory_format=torch.contiguous_format)
    size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    if size > LARGEST_FILE:
        raise InputError(f"{trained.file}: has {size:,} bytes of weights, an ONNX file holds {LARGEST_FILE:,}")
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                model,
                (examples,),
                dynamo=True,
                dynamic_shapes={INPUT: {0: torch.export.Dim("batch")}},
                input_names=[INPUT],
                output_names=list(OUTPUTS),
                opset_version=OPSET,
                verbose=False,
            )
    except Exception as error:  # the exporter raises many kinds for what it cannot express
        raise InputError(
            f"{trained.file}: torch cannot write this network as ONNX: {clip(str(error).strip(), 300)}: export without "
            "--onnx"
        ) from error
    assert program is not None
    proto = program.model_proto
    _drop_traces(proto)
    path.write_bytes(proto.SerializeToString(deterministic=True))


def largest_difference(trained: TrainedModel, path: Path, crops: Pixels) -> float:
    """Returns the largest difference of a probability by onnxruntime from torch's.

    Args:
        trained: the model.
        path: the model's ONNX file.
        crops: uint8[N, S, S, 3].

    Raises:
        InputError: it exceeds LARGEST_DIFFERENCE, or onnxruntime cannot read the file; names the model file.
    """
    card = OnnxCard.model_validate_json(trained.card.model_dump_json())
    session = open_session(path.read_bytes(), str(trained.file))
    mine, theirs = trained.outputs(crops), OnnxModel(path, session, card, None).outputs(crops)
    ours, other = (softmax(one.logits.astype(np.float64), axis=1) for one in (mine, theirs))
    largest = float(np.abs(ours - other).max())
    if not largest <= LARGEST_DIFFERENCE:  # nan too
        raise InputError(
            f"{trained.file}: its probabilities by onnxruntime differ from torch's by up to {largest:.2g}, more than "
            f"{LARGEST_DIFFERENCE:g}: export without --onnx"
        )
    return largest


def _drop_traces(proto: Any) -> None:
    """Removes the exporter's notes on the source code, which name folders of this machine."""
    graphs = [proto.graph, *proto.functions]
    for holder in (proto, *graphs):
        del holder.metadata_props[:]
    for graph in graphs:
        for node in graph.node:
            del node.metadata_props[:]
            node.doc_string = ""
    for value in (*proto.graph.value_info, *proto.graph.input, *proto.graph.output, *proto.graph.initializer):
        del value.metadata_props[:]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporter's progress and warnings from the terminal; its result is compared with torch's."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), Path(os.devnull).open("w") as nowhere:
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            with redirect_stdout(nowhere), redirect_stderr(nowhere):
                yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
