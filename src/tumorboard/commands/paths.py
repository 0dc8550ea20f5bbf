"""The outputs of the stages that the commands read, relative to the project's root.

dvc.yaml alone decides where the stages write; tests/commands/test_paths.py compares these paths with it.
"""

from pathlib import Path

STORE = Path("data/crop/store")  # the crops of all images
SPLIT = Path("data/split/manifest.csv")  # the Manifest with the part and the fold of each image
BALANCE = Path("data/balance")  # one folder per fold: the training Manifest with its altered copies, and their store
MODELS = Path("models")  # <model>/<fold>.safetensors
PANEL = Path("models/panel.json")  # the values that were fitted on validation images
METRICS = Path("metrics/ensemble.json")  # validation scores of the vote that heads the report
TEST_METRICS = Path("metrics/test/ensemble.json")  # its test scores, named test_<score>
UNLIKE = Path("predictions/unlike")  # <model>/<fold>.safetensors: statistics of the training images
HELD_OUT = Path("predictions/held_out")  # <model>/<fold>.safetensors: a training's outputs for its validation images
RECIPES = Path("recipes")  # <model>.json: the resolved recipe
