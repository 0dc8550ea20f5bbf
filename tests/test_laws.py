"""Laws of the whole pipeline, through DVC, in a copy of the project with a given test part."""

import shutil
from hashlib import sha256
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from tests.data.scenes import scene
from tests.pipeline import Project
from tumorboard.base.schema import read_yaml
from tumorboard.base.tables import read_manifest

CLASSES = ("blast", "normal")
TRAINING_PATIENTS, TEST_PATIENTS, EACH = 20, 8, 4
# What is made of training and validation images, and must not know the test part.
FOLDERS = ("models", "training", "recipes", "data/balance", "predictions", "metrics", "plots")
# The test part's own predictions and scores; tables of the raw files, which list and count the test files too; and what
# differs from run to run.
OF_THE_TEST_PART = (
    "predictions/test/",
    "metrics/test/",
    "metrics/crop.json",
    "metrics/split.json",
    "metrics/audit.json",
    "plots/test/",
    "plots/images/data.png",
    "plots/images/duplicates.png",
)
OF_THE_RUN = ("timings.json", "events.out")
CHANGES = {
    "data": {"raw": "given", "group_pattern": r"(P\d+)_"},
    "crop": {"side": 32, "shards": 4},
    "split": {"folds": 4},
    "train": {"epochs": 2, "batch_size": 16, "warmup_epochs": 0},
    "evaluate": {"bootstrap": 50},
    "runtime": {"device": "cpu", "processes": 1, "workers": 1},
}


def write_picture(file: Path, pixels: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())


def write_part(folder: Path, patients: range) -> None:
    """Writes EACH pictures per patient; those of class blast are darker."""
    for patient in patients:
        name = CLASSES[patient % 2]
        for number in range(EACH):
            pixels = scene(100 * patient + number, 64) // (2 if name == "blast" else 1)
            write_picture(folder / name / f"P{patient:02d}_{number}.png", pixels)


def write_noise(folder: Path) -> None:
    """Replaces a part by pictures of noise, of other patients, with labels that a coin decides."""
    shutil.rmtree(folder)
    random = np.random.default_rng(9)
    for patient in range(50, 50 + TEST_PATIENTS + 2):
        for number in range(EACH - 1):
            pixels = random.integers(0, 256, (70, 64, 3), dtype=np.uint8)
            write_picture(folder / CLASSES[random.integers(2)] / f"P{patient}_{number}.png", pixels)


def digests(project: Project, folders: tuple[str, ...] = FOLDERS) -> dict[str, str]:
    """Returns the SHA-256 of each file below some folders by its path."""
    files = [file for folder in folders for file in (project.folder / folder).rglob("*") if file.is_file()]
    paths = {file.relative_to(project.folder).as_posix(): file for file in sorted(files)}
    return {path: sha256(file.read_bytes()).hexdigest() for path, file in paths.items()}


def images_by_part(project: Project) -> dict[str, int]:
    counts = read_manifest(project.folder / "data/split/manifest.csv")["split"].value_counts()
    return {str(part): int(count) for part, count in counts.items()}


def is_of_the_test_part(path: str) -> bool:
    return path.startswith(OF_THE_TEST_PART)


def without_run(listed: dict[str, str]) -> dict[str, str]:
    return {path: digest for path, digest in listed.items() if not any(name in path for name in OF_THE_RUN)}


@pytest.mark.slow
def test_the_test_part_decides_nothing_but_its_own_predictions_and_scores(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Replaces the test images and labels by noise: every other artifact keeps its hash.

    What lists, counts or draws the raw files (data/crop, data/split, their metrics and pictures) and the report show
    the test files themselves, so they change. Where a training image is a copy of a test image, it leaves the training
    part; so the pictures here are no copies.
    """
    project = Project(tmp_path_factory.mktemp("laws"))
    file = project.folder / "params.yaml"
    params = read_yaml(file)
    params |= {"models": ["linear", "cnn"], "folds": [0, 1]}
    for section, values in CHANGES.items():
        params[section] |= values
    file.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    write_part(project.folder / "given/Training", range(TRAINING_PATIENTS))
    write_part(project.folder / "given/Testing", range(TRAINING_PATIENTS, TRAINING_PATIENTS + TEST_PATIENTS))
    project("dvc", "repro")
    before = without_run(digests(project))
    assert images_by_part(project) == {"train": TRAINING_PATIENTS * EACH, "test": TEST_PATIENTS * EACH}

    write_noise(project.folder / "given/Testing")
    project("dvc", "repro")
    after = without_run(digests(project))
    assert images_by_part(project) == {"train": TRAINING_PATIENTS * EACH, "test": (TEST_PATIENTS + 2) * (EACH - 1)}

    # Some pictures exist only where there is something to show, such as those of mistakes on test images.
    changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    assert {path for path in changed if not is_of_the_test_part(path)} == set()
    # The runs did differ: the test predictions of each member and vote did, and the scores.
    tables = [path for path in before if path.startswith("predictions/test/")]
    assert len(tables) >= 2 * 2 + 2 + 3
    assert set(tables) <= changed
    assert "metrics/test/ensemble.json" in changed
    # And what must not change is there.
    kept = set(before) - changed
    for folder in (
        "models/panel.json",
        "models/cnn/1.safetensors",
        "predictions/held_out/",
        "predictions/joined/cnn.csv",
    ):
        assert any(path.startswith(folder) for path in kept), folder
