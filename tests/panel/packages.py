"""A small panel in files, with what `tumorboard export` packs beside it, for the tests of packages."""

from pathlib import Path
from typing import NamedTuple

from tests.panel.models import CLASSES, save_untrained
from tests.panel.statistics import made_up_statistics
from tumorboard.base.params import Params
from tumorboard.models.model_file import load_model, save_model
from tumorboard.panel.fitted import Fit
from tumorboard.panel.package import ModelFiles, Preprocessing, package_entries
from tumorboard.panel.package_file import PackedModel, write_package
from tumorboard.panel.panel_file import write_panel
from tumorboard.panel.stacking import Stacking
from tumorboard.panel.trained_model import card_text
from tumorboard.panel.unlike import save_unlike

MEMBERS = (("other", 0), ("other", 1), ("cnn", 0))
FIT = Fit(
    vote="weighted",
    temperatures={"other": 2.0, "cnn": 0.5},
    weights={"other": 0.3, "cnn": 0.7},
    vote_temperatures={"soft": 3.0, "product": 1.3, "weighted": 1.5},
    single="cnn",
    stacking=Stacking(coefficients=((0.1,) * 6, (0.2, -0.3) * 3, (0.0,) * 6), intercepts=(0.1, 0.0, -0.1), penalty=1.0),
)
KNOWN = {"ab" * 32: "train", "cd" * 32: "test"}


class SmallPanel(NamedTuple):
    """A panel in files, whose `cnn` has views of test-time augmentation."""

    folder: Path
    files: list[Path]
    preprocessing: Preprocessing

    def entries(self, onnx: dict[Path, Path] | None = None) -> tuple[dict[str, bytes | Path], list[PackedModel]]:
        models = [
            ModelFiles(
                name=file.parent.name,
                fold=int(file.stem),
                weights=file,
                unlike=self.folder / "unlike" / file.parent.name / file.name,
                card=card_text(file) or "",
                onnx=(onnx or {}).get(file),
            )
            for file in self.files
        ]
        return package_entries(
            models,
            panel=self.folder / "panel.json",
            preprocessing=self.preprocessing,
            known=KNOWN,
            texts={"README.md": "for research"},
        )

    def pack(self, path: Path, onnx: dict[Path, Path] | None = None) -> str:
        entries, models = self.entries(onnx)
        return write_package(path, entries, models=models, version="1.2.3")


def make_small_panel(folder: Path, params: Params) -> SmallPanel:
    """Writes untrained models, statistics of made-up training images, and numbers that nobody fitted."""
    files = []
    for seed, (name, fold) in enumerate(MEMBERS, 1):
        file = save_untrained(folder, params, name, fold, seed)
        network, card = load_model(file, "cpu")
        if name == "cnn":
            recipe = card.recipe.model_copy(update={"tta": ("vflip",)})
            save_model(file, network, card.model_copy(update={"recipe": recipe}))
        save_unlike(made_up_statistics(network.head.in_features), folder / f"unlike/{name}/{fold}.safetensors")
        files.append(file)
    write_panel(folder / "panel.json", FIT, classes=CLASSES, manifest="0" * 16, positive=None, unlike=1.5)
    return SmallPanel(folder, files, Preprocessing(crop=params.crop, frames="middle", abstain=0.4))
