"""Fine-tunes a network with fastai, as its tutorials do, in an environment of its own, without this project.

    python benchmarks/fastai_script.py spec.json

spec.json has: train, a list of [path, label]; test, a list of paths; classes; side in pixels; weights, a safetensors
file with the tensor names of timm; architecture, a name of timm; seconds, the time for training; seed; out, a CSV file
for the probabilities of the test images.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
from fastai.vision.all import (
    CategoryBlock,
    DataBlock,
    ImageBlock,
    Learner,
    Normalize,
    RandomSplitter,
    Resize,
    aug_transforms,
    imagenet_stats,
    set_seed,
    vision_learner,
)
from safetensors.torch import load_file


def make_learner(spec: dict) -> Learner:
    """Returns fastai's learner for a fine-tuning: its default head, loss, optimizer and alterations."""
    frame = pd.DataFrame(spec["train"], columns=["path", "label"])
    loaders = DataBlock(
        blocks=(ImageBlock, CategoryBlock(vocab=spec["classes"])),
        get_x=lambda row: row["path"],
        get_y=lambda row: row["label"],
        splitter=RandomSplitter(0.1, seed=spec["seed"]),
        item_tfms=Resize(spec["side"]),
        batch_tfms=[*aug_transforms(), Normalize.from_stats(*imagenet_stats)],
    ).dataloaders(frame, bs=32, num_workers=2)
    learner = vision_learner(loaders, spec["architecture"], pretrained=False)
    body = learner.model[0].model
    tensors = {name: tensor for name, tensor in load_file(spec["weights"]).items() if name in body.state_dict()}
    missing = body.load_state_dict(tensors, strict=False).missing_keys
    if missing:
        raise SystemExit(f"{spec['weights']}: lacks {missing[0]}")
    learner.freeze()
    return learner


def main() -> None:
    """Measures one epoch, trains for as many as fit into the time, and predicts."""
    spec = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    set_seed(spec["seed"])
    learner = make_learner(spec)
    start = time.perf_counter()
    with learner.no_bar(), learner.no_logging():
        learner.unfreeze()
        learner.fit_one_cycle(1)
    per_epoch = time.perf_counter() - start
    epochs = max(1, int(spec["seconds"] / per_epoch) - 1)  # fine_tune trains the head alone for one more
    set_seed(spec["seed"])
    learner = make_learner(spec)
    start = time.perf_counter()
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(epochs)
        probabilities = learner.get_preds(dl=learner.dls.test_dl(spec["test"]))[0].numpy()
    np.savetxt(spec["out"], probabilities, delimiter=",")
    print(json.dumps({"epochs": epochs + 1, "seconds": time.perf_counter() - start}))


if __name__ == "__main__":
    main()
