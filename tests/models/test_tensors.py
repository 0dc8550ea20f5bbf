"""Files of tensors: no code in them runs, each unusable file is named, and tensors are copied by name and shape."""

import pickle
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tumorboard.base.errors import InputError
from tumorboard.models.published import check_suffix, file_digest
from tumorboard.models.tensors import CARD_KEY, copy_tensors, read_safetensors, read_tensors

TENSORS = {"head.weight": torch.arange(6.0).reshape(2, 3), "backbone.0.bias": torch.tensor([7.0])}


class TouchesAFile:
    """A pickle of this object creates the file `touched` when it is loaded."""

    def __reduce__(self):
        return Path.touch, (Path(sys.argv[0]).with_name("touched"),)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_tensors_are_read_by_name(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(TENSORS, path)
    tensors = read_tensors(path)
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)


def test_of_a_model_file_the_backbone_is_read_without_its_prefix(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "model.safetensors", {CARD_KEY: "{}"})
    tensors = read_tensors(tmp_path / "model.safetensors")
    assert list(tensors) == ["0.bias"]
    assert torch.equal(tensors["0.bias"], TENSORS["backbone.0.bias"])


def test_the_header_of_a_model_file_has_the_card_and_a_foreign_one_has_none(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "own", {CARD_KEY: "the card"})
    save_file(TENSORS, tmp_path / "foreign", {"format": "pt"})
    save_file(TENSORS, tmp_path / "plain")
    assert [read_safetensors(tmp_path / name)[1] for name in ("own", "foreign", "plain")] == ["the card", None, None]


@pytest.mark.parametrize("legacy", [True, False])
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path: Path, monkeypatch, legacy: bool) -> None:
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "program")])
    path = tmp_path / "malicious.pth"
    content = {"conv1.weight": TouchesAFile()} | TENSORS
    if legacy:
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path)
    with pytest.raises(InputError, match=r"malicious\.pth: not a file of tensors alone") as caught:
        read_tensors(path)
    assert "pathlib.Path.touch" in str(caught.value) or "getattr" in str(caught.value)
    assert "weights_only" not in str(caught.value)  # torch's message advises running the code
    assert not (tmp_path / "touched").exists()
    torch.load(path, weights_only=False) if not legacy else pickle.loads(path.read_bytes())  # noqa: S301
    assert (tmp_path / "touched").exists(), "the file would have run code"


@pytest.mark.parametrize("name", ["gone.pth", "gone.safetensors"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=rf"{name}: no such file"):
        read_tensors(tmp_path / name)


def test_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").mkdir()
    with pytest.raises(InputError, match=r"weights\.safetensors: is a folder, expected a \.safetensors file"):
        read_tensors(tmp_path / "weights.safetensors")


@pytest.mark.parametrize("name", ["text.pth", "text.safetensors"])
def test_a_file_of_text_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("hello, not weights at all")
    with pytest.raises(InputError, match=rf"{name}: not a"):
        read_tensors(tmp_path / name)


@pytest.mark.parametrize(
    "content",
    [
        {0: torch.zeros(1)},
        {"conv1.weight": torch.zeros(1, device="meta")},
        [torch.zeros(1)],
    ],
)
def test_what_is_no_state_dict_is_named(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(InputError, match=r"odd\.pth: expected a mapping of names to tensors"):
        read_tensors(tmp_path / "odd.pth")


WRAPPED = {
    "lightning": {
        "epoch": 3,
        "state_dict": TENSORS,
        "optimizer_states": [{"state": {0: torch.zeros(1)}}],
        "loops": {"a": 1},
    },
    "timm": {"model": TENSORS, "optimizer": {"state": {}, "param_groups": []}, "epoch": torch.tensor(3)},
    "twice": {"checkpoint": {"model": TENSORS, "epoch": 3}},
    "flat": TENSORS | {"epoch": 3, "lr": 0.1, "name": "resnet", "best": None},
    "flat inside": {"state_dict": TENSORS | {"epoch": 3}, "scaler": {"scale": 65536.0}},
    "beside a mean": {"model": TENSORS, "normalization": {"mean": torch.zeros(3), "count": 9}},
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_the_one_state_dict_of_a_checkpoint_is_read(tmp_path: Path, kind: str) -> None:
    torch.save(WRAPPED[kind], tmp_path / "checkpoint.pth")
    tensors = read_tensors(tmp_path / "checkpoint.pth")
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"model": TENSORS, "model_ema": TENSORS},
            r"; it has several: model, model_ema: save the one you mean by itself",
        ),
        ({"epoch": 3, "lr": 0.1}, r"; it has the entries epoch, lr: save"),
        ({"epoch": 3, "loss": torch.tensor(0.5)}, r"; beside tensors it has epoch \(int\): save"),
        (
            TENSORS | {"epoch": 3, "names": ["a"], "optimizer": {"lr": 0.1}},
            r"; beside tensors it has epoch \(int\), names \(list\), optimizer \(dict\): save",
        ),
    ],
)
def test_a_checkpoint_without_one_state_dict_is_named_with_what_it_has(
    tmp_path: Path, content: object, message: str
) -> None:
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(InputError, match=r"odd\.pth: expected a mapping of names to tensors .*" + message):
        read_tensors(tmp_path / "odd.pth")


def test_a_file_of_another_suffix_is_refused_with_the_known_ones() -> None:
    message = (
        r"'imagnet': expected none, imagenet, packaged or a \.safetensors, \.pth or \.pt file; did you mean imagenet"
    )
    with pytest.raises(InputError, match=message):
        check_suffix("imagnet")
    with pytest.raises(InputError, match=r"'weights\.bin': expected none"):
        read_tensors(Path("weights.bin"))
    for name in ("a.pth", "a.pt", "b.safetensors"):
        check_suffix(name)


def test_the_digest_is_the_sha256(tmp_path: Path) -> None:
    """SHA-256 of "abc", from FIPS 180-2."""
    (tmp_path / "a.pth").write_bytes(b"abc")
    assert file_digest(tmp_path / "a.pth") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    for path in (tmp_path / "gone.pth", tmp_path):
        with pytest.raises(InputError, match=rf"{path}: no such file"):
            file_digest(path)


def test_tensors_are_copied_by_name_and_not_by_position() -> None:
    layer = nn.Linear(3, 2)
    copy_tensors(layer, {"bias": torch.tensor([5.0, 6.0]), "weight": TENSORS["head.weight"]}, "here")
    assert torch.equal(layer.weight, TENSORS["head.weight"])
    assert layer.bias.tolist() == [5, 6]
    assert layer.weight.requires_grad


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({}, r"'bias' \[1\] is missing"),
        ({"bias": torch.ones(2)}, r"'bias' has the shape \[2\], expected \[1\]"),
        ({"bias": torch.ones(1), "x": torch.ones(3)}, r"'x' \[3\] has no place in the network"),
        ({"bias": torch.ones(1, dtype=torch.int8)}, "'bias' has values of type int8, expected floating point"),
        ({"bias": torch.ones(1, dtype=torch.complex64)}, "'bias' has values of type complex64, expected"),
    ],
)
def test_no_tensor_is_copied_when_one_does_not_fit(others: dict[str, torch.Tensor], message: str) -> None:
    layer = nn.Linear(2, 1)
    before = layer.weight.clone()
    with pytest.raises(InputError, match=f"^here: tensor {message}"):
        copy_tensors(layer, {"weight": torch.ones(1, 2)} | others, "here")
    assert torch.equal(layer.weight, before)


def test_floating_point_of_another_width_is_copied_also_for_a_count() -> None:
    layer = nn.BatchNorm1d(2)
    copy_tensors(layer, {name: torch.full_like(one, 3).half() for name, one in layer.state_dict().items()}, "here")
    assert layer.weight.tolist() == [3, 3]
    assert layer.num_batches_tracked.item() == 3


def test_only_a_count_of_batches_may_be_missing() -> None:
    layer = nn.BatchNorm1d(2)
    tensors = {name: torch.full_like(tensor, 3) for name, tensor in layer.state_dict().items()}
    del tensors["num_batches_tracked"]
    copy_tensors(layer, tensors, "here")
    assert layer.running_mean.tolist() == [3, 3]
    assert layer.num_batches_tracked.item() == 0
    del tensors["running_mean"]
    with pytest.raises(InputError, match="'running_mean'"):
        copy_tensors(layer, tensors, "here")
