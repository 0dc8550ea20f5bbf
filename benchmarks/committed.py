"""Measures what the documentation states of the committed run: which pictures are unlike, and the patient effect.

    python -m benchmarks.committed --data ../shared/data/brain_mri

- unlike: the share of pictures that `tumorboard predict` calls unlike the training images, and how well the score
  separates them from the panel's own test images (area under the ROC curve): test images with inverted colors, noise,
  and files of another folder.
- patient effect: the intraclass correlation of being right, by the one-way analysis of variance with unequal numbers of
  images per patient (Donner 1986).

It needs the models and predictions of the run: `dvc repro`, or `dvc pull`.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from benchmarks import ROOT, argument_parser, machine
from tumorboard.base.params import load_params
from tumorboard.base.tables import Predictions, classes_of, probabilities_of, read_manifest, read_predictions
from tumorboard.commands.panel_source import PanelSource, open_source
from tumorboard.data.new_files import list_new_files, open_decoders

NOISE_SIDE = 96  # pixels


def write_inverted(files: Sequence[Path], folder: Path) -> list[Path]:
    """Writes copies of images with inverted colors and returns their files."""
    folder.mkdir()
    copies = []
    for number, file in enumerate(files):
        copies.append(folder / f"{number}.png")
        cv2.imwrite(str(copies[-1]), cv2.bitwise_not(cv2.imread(str(file), cv2.IMREAD_COLOR)))  # type: ignore[arg-type]
    return copies


def write_noise(count: int, folder: Path) -> list[Path]:
    """Writes images of uniform noise and returns their files."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    files = [folder / f"{number}.png" for number in range(count)]
    for file in files:
        cv2.imwrite(str(file), generator.integers(0, 256, (NOISE_SIDE, NOISE_SIDE, 3), dtype=np.uint8))
    return files


def unlike_scores(source: PanelSource, files: Sequence[Path]) -> NDArray[np.float64]:
    """Returns the column `unlike` of each file; 1 is the threshold."""
    with open_decoders(len(files), 1, None) as decoders:
        scores: NDArray[np.float64] = source.predict(files, decoders)["unlike"].to_numpy(np.float64)
    return scores


def print_unlike(other: Path | None, count: int) -> None:
    """Prints a row per kind of picture.

    Args:
        other: folder of images of another kind; None: none.
        count: pictures per kind, at most.
    """
    params = load_params("params.yaml")
    source = open_source(params)
    manifest = read_manifest("data/split/manifest.csv")
    test = [Path(params.data.raw) / path for path in manifest[manifest["split"] == "test"]["path"]]
    own = unlike_scores(source, test)
    print(f"| pictures | called unlike | AUROC |\n|---|---|---|\n| own test images | {share(own)} | |")
    with tempfile.TemporaryDirectory() as folder:
        kinds = {
            "own test images, inverted": write_inverted(test[:count], Path(folder) / "inverted"),
            "noise": write_noise(count, Path(folder) / "noise"),
        }
        if other:
            files = list_new_files([other])
            kinds[other.name] = files[:: max(1, len(files) // count)][:count]
        for name, files in kinds.items():
            scores = unlike_scores(source, files)
            truth = np.repeat([0, 1], [len(own), len(scores)])
            print(f"| {name} | {share(scores)} | {roc_auc_score(truth, np.concatenate([own, scores])):.3f} |")


def share(scores: NDArray[np.float64]) -> str:
    """Returns how many scores reach the threshold.

    >>> share(np.array([0.5, 1.0, 2.0]))
    '2 of 3'
    """
    return f"{int((scores >= 1).sum())} of {len(scores)}"


def intraclass_correlation(values: NDArray[np.float64], groups: NDArray[np.object_]) -> float:
    """Returns the share of the variance of values [N] that lies between groups [N], by analysis of variance.

    >>> groups = np.array(["a", "a", "b", "b"], dtype=object)
    >>> intraclass_correlation(np.array([1.0, 1.0, 0.0, 0.0]), groups)
    1.0
    >>> intraclass_correlation(np.array([1.0, 0.0, 1.0, 0.0]), groups)
    -1.0
    """
    _, codes = np.unique(groups, return_inverse=True)
    sizes = np.bincount(codes)
    means = np.bincount(codes, values) / sizes
    between = (sizes * (means - values.mean()) ** 2).sum() / (len(sizes) - 1)
    within = ((values - means[codes]) ** 2).sum() / (len(values) - len(sizes))
    typical = (len(values) - (sizes**2).sum() / len(values)) / (len(sizes) - 1)
    return float((between - within) / (between + (typical - 1) * within))


def is_right(table: Predictions) -> NDArray[np.float64]:
    """Returns 1 for each row whose most probable class is its label, else 0."""
    decided = np.array(classes_of(table), dtype=object)[probabilities_of(table).argmax(1)]
    return np.asarray(decided == table["label"].to_numpy(object), dtype=np.float64)


def print_patient_effect(models: Sequence[str]) -> None:
    """Prints the correlation of being right within patients, of each model and of the heading vote."""
    names = {**{model: f"joined/{model}.csv" for model in models}, "heading vote": "votes/heading.csv"}
    print("\n| intraclass correlation of being right | validation | test |\n|---|---|---|")
    for name, path in names.items():
        cells = []
        for folder in ("predictions", "predictions/test"):
            table = read_predictions(Path(folder) / path)
            cells.append(f"{intraclass_correlation(is_right(table), table['group'].to_numpy(object)):.2f}")
        print(f"| {name} | {' | '.join(cells)} |")


def main() -> None:
    """Prints both tables."""
    parser = argument_parser(__doc__)
    parser.add_argument("--data", type=Path, help="folder of images of another kind")
    parser.add_argument("--count", type=int, default=50, help="pictures per kind (default: %(default)s)")
    options = parser.parse_args()
    print_unlike(options.data, options.count)
    print_patient_effect(load_params(ROOT / "params.yaml").models)
    print(machine())


if __name__ == "__main__":
    main()
