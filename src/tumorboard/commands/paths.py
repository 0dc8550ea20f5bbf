"""The outputs of the stages that the commands read, relative to the project's root.

dvc.yaml alone decides where the stages write; tests/commands/test_paths.py compares these paths with it.
"""

from pathlib import Path

STORE = Path("data/crop/store")  # the crops of all images
SPLIT = Path("data/split/manifest.csv")  # the Manifest with the part and the fold of each image
BALANCE = Path("data/balance")  # one folder per fold: the training Manifest with its altered copies, and their store
MODELS = Path("models")  # <model>/<fold>.safetensors
JOINED = Path("predictions/joined")  # <model>.csv: the Predictions of all folds of a model
