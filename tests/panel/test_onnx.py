"""Networks as ONNX: onnxruntime's outputs against torch's, and a panel that is used without torch."""

import subprocess
import sys
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.panel.models import save_untrained
from tests.panel.packages import FIT, SmallPanel, make_small_panel
from tumorboard.base.errors import InputError
from tumorboard.base.params import Params
from tumorboard.models.model_file import load_model
from tumorboard.panel import onnx_export
from tumorboard.panel.deciding import Deciding
from tumorboard.panel.onnx_export import export_onnx, largest_difference
from tumorboard.panel.onnx_model import OnnxCard, OnnxModel, load_onnx, open_session
from tumorboard.panel.package import load_package
from tumorboard.panel.predict import predict_images
from tumorboard.panel.trained_model import load_packed, load_panel, load_trained
from tumorboard.panel.votes import VOTES

CROPS = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, params: Params) -> SmallPanel:
    return make_small_panel(tmp_path_factory.mktemp("study"), params)


@pytest.fixture(scope="module")
def onnx(small: SmallPanel) -> dict[Path, Path]:
    """The ONNX file of each model file."""
    files = {file: small.folder / f"{file.parent.name}{file.stem}.onnx" for file in small.files}
    for file, target in files.items():
        export_onnx(load_trained(file, "cpu", None), target)
    return files


@pytest.fixture(scope="module")
def package(small: SmallPanel, onnx: dict[Path, Path]) -> Path:
    small.pack(small.folder / "panel.zip", onnx)
    return small.folder / "panel.zip"


def test_outputs_are_those_of_torch_for_any_number_of_crops(small, onnx):
    """The logits are the mean over the views, computed here by NumPy; the features are those of the crops alone."""
    file = small.files[2]  # the one with views
    network, card = load_model(file, "cpu")
    session = open_session(onnx[file].read_bytes(), "here")
    model = OnnxModel(file, session, OnnxCard.model_validate_json(card.model_dump_json()), None)
    views = [CROPS, CROPS[:, ::-1]]
    with torch.inference_mode():
        tensors = [torch.from_numpy(view.copy()).permute(0, 3, 1, 2) for view in views]
        logits = torch.stack([network(tensor) for tensor in tensors]).mean(0).numpy()
        features = network.backbone((tensors[0] - 255 * network.mean) / (255 * network.std)).numpy()
    assert np.abs(logits - network(tensors[0]).detach().numpy()).max() > 1e-3
    for count in (1, 5):
        logits_of, features_of = model.outputs(CROPS[:count])
        np.testing.assert_allclose(logits_of, logits[:count], atol=1e-5)
        np.testing.assert_allclose(features_of, features[:count], atol=1e-4)


def test_equal_models_give_equal_bytes_without_names_of_this_machine(small, onnx, tmp_path):
    file = small.files[0]
    export_onnx(load_trained(file, "cpu", None), tmp_path / "again.onnx")
    content = onnx[file].read_bytes()
    assert (tmp_path / "again.onnx").read_bytes() == content
    assert content != onnx[small.files[1]].read_bytes()
    for name in (str(Path(onnx_export.__file__).parents[1]), str(Path(torch.__file__).parent), "forward"):
        assert name.encode() not in content


def test_a_network_that_differs_is_named(small, onnx, monkeypatch):
    trained = load_trained(small.files[2], "cpu", None)
    assert 0 <= largest_difference(trained, onnx[small.files[2]], CROPS) < 1e-5
    with torch.no_grad():
        trained.network.head.bias[0] += 0.01
    with pytest.raises(InputError, match=r"models/cnn/0\.safetensors: its probabilities by onnxruntime differ"):
        largest_difference(trained, onnx[small.files[2]], CROPS)
    trained.network.head.bias.data[:] = torch.nan
    with pytest.raises(InputError, match="differ from torch's by up to nan"):
        largest_difference(trained, onnx[small.files[2]], CROPS)
    monkeypatch.setattr(onnx_export, "LARGEST_FILE", 1000)
    with pytest.raises(InputError, match=r"models/cnn/0\.safetensors: has [\d,]+ bytes of weights"):
        export_onnx(trained, small.folder / "large.onnx")


def test_a_network_that_cannot_be_written_is_named(small, tmp_path, monkeypatch):
    class Stubborn(torch.nn.Module):
        def forward(self, images):
            return torch.zeros(len(images), int(images.sum()) % 3 + 1)

    trained = load_trained(small.files[2], "cpu", None)
    monkeypatch.setattr(trained.network, "backbone", Stubborn())
    with pytest.raises(InputError, match=r"models/cnn/0\.safetensors: torch cannot write this network as ONNX"):
        export_onnx(trained, tmp_path / "none.onnx")
    assert not (tmp_path / "none.onnx").exists()


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    files = []
    for number in range(6):
        noise = np.random.default_rng(number).integers(0, 256, (50, 60, 3), dtype=np.uint8)
        files.append(tmp_path / f"{number}.png")
        Image.fromarray(noise).save(files[-1])
    return files


def test_a_panel_on_onnxruntime_decides_as_on_torch(small, package, pictures):
    panels = {
        "torch": load_panel(small.files, "cpu", unlike=small.folder / "unlike"),
        "onnx": load_package(package, load_onnx).panel,
    }
    assert all(isinstance(one, OnnxModel) for folds in panels["onnx"].models.values() for one in folds)
    for vote in VOTES:
        deciding = Deciding(fit=FIT, vote=vote, positive=None, abstain=0.0, unlike=1.5)
        tables = [
            predict_images(panel, pictures, deciding=deciding, frames=None, known={}) for panel in panels.values()
        ]
        for column in ("path", "decided", "agreeing", "problem"):
            assert tables[0][column].tolist() == tables[1][column].tolist()
        for column in ("probability", "p_a", "p_b", "p_c", "unlike"):
            np.testing.assert_allclose(*(table[column].astype(float) for table in tables), atol=1e-4)
        assert tables[1]["unlike"].astype(float).nunique() == 6


def test_predict_imports_neither_torch_nor_what_else_trains(package, pictures):
    """In a Python in which these libraries cannot be imported."""
    code = """
import sys
blocked = "torch torchvision timm scipy sklearn cleanlab matplotlib jinja2 dvc dvclive tensorboard onnx".split()
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in blocked else found(name, package)
from tumorboard.commands.app import app
app(["predict", *sys.argv[2:], "--panel", sys.argv[1]])
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(package), *map(str, pictures)],
        capture_output=True,
        text=True,
        cwd=pictures[0].parent,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "6 of 6 files classified by 2 models, weighted vote" in done.stderr
    assert len(done.stdout.splitlines()) == 7


def test_a_package_without_onnx_says_what_it_needs(small, tmp_path):
    small.pack(tmp_path / "panel.zip")
    with pytest.raises(InputError, match=r"models/other/0\.safetensors: needs torch.*'tumorboard\[train\]'"):
        load_package(tmp_path / "panel.zip", load_onnx)


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime"])
def test_of_two_networks_the_one_that_computes_is_read_and_refused_where_it_was_altered(package, tmp_path, runtime):
    """An altered file of the other runtime is not noticed, since nothing uses it."""
    load = partial(load_packed, device="cpu") if runtime == "torch" else load_onnx
    used, other = ("models/cnn/0.safetensors", "onnx/cnn/0.onnx")[:: 1 if runtime == "torch" else -1]
    for name in (other, used):
        with zipfile.ZipFile(package) as file, zipfile.ZipFile(tmp_path / "panel.zip", "w") as target:
            for entry in file.namelist():
                content = file.read(entry)
                altered = bytes([content[0] ^ 1]) + content[1:]
                target.writestr(entry, altered if entry == name else content)
        if name == other:
            assert load_package(tmp_path / "panel.zip", load).panel.models.keys() == {"other", "cnn"}
        else:
            with pytest.raises(InputError, match=f"{used}: was altered"):
                load_package(tmp_path / "panel.zip", load)


def test_a_file_that_is_no_onnx_or_of_another_network_is_named(small, onnx, tmp_path, params):
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    files = dict(onnx)
    files[small.files[2]] = tmp_path / "bad.onnx"
    small.pack(tmp_path / "panel.zip", files)
    with pytest.raises(InputError, match=r"panel\.zip: onnx/cnn/0\.onnx: onnxruntime cannot read it"):
        load_package(tmp_path / "panel.zip", load_onnx)
    two_classes = save_untrained(tmp_path, params, "cnn", 0, 1, classes=("b", "a"))
    other = SmallPanel(small.folder, [two_classes], small.preprocessing)
    other.pack(tmp_path / "panel.zip", {two_classes: onnx[small.files[2]]})
    with pytest.raises(InputError, match=r"onnx/cnn/0\.onnx: is of another network: expected the input crops"):
        load_package(tmp_path / "panel.zip", load_onnx)
