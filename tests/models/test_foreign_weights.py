"""Files under the name of weights that hold none, or none in the form of that name: each is named with its cure."""

import io
import re
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save, save_file
from torch import nn

from tumorboard.base.errors import InputError
from tumorboard.models.tensors import read_tensors

TENSORS = {"head.weight": torch.arange(6.0).reshape(2, 3), "backbone.0.bias": torch.tensor([7.0])}
SUFFIXES = [".pth", ".pt", ".safetensors"]


def of_torch(legacy: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(TENSORS, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def message_for(path: Path, content: bytes) -> str:
    """Returns the message about a file of these bytes, which must begin with the file's name."""
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_tensors(path)
    message = str(caught.value).removeprefix("pretrained: ")
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty: download or copy it again"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n",
            "is a pointer of Git LFS .*: git lfs pull",
        ),
        (b"<!DOCTYPE html><html>Sign in</html>", "is a web page: download the file again"),
        (b"\n<html><body>404</body></html>", "is a web page: download the file again"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "is a web page: download the file again"),
        (b'{"error": "Repository not found"}', "is a text in JSON: download the file with the weights"),
        (bytes(4096), "is zeros, .*: download or copy it again"),
        (b"\x89HDF\r\n\x1a\n" + bytes(99), "is an HDF5 file, .*: convert"),
        (b"\x1f\x8b\x08\0" + bytes(99), "is compressed by gzip: unpack it"),
        (of_torch()[:-100], "ends too early, or is damaged: download or copy it again"),
        (of_torch()[:200], "ends too early, or is damaged: download or copy it again"),
    ],
)
def test_what_holds_no_weights_is_named_with_the_cure(
    tmp_path: Path, suffix: str, content: bytes, expected: str
) -> None:
    assert re.match(expected, message_for(tmp_path / f"weights{suffix}", content), re.DOTALL)


def test_a_cut_file_is_named_as_cut(tmp_path: Path) -> None:
    content = save(TENSORS)
    for cut in (1, 20, len(content) - 12):
        assert message_for(tmp_path / "cut.safetensors", content[:-cut]).startswith("ends too early")
    content = of_torch(legacy=True)
    for cut in (1, 20, len(content) // 2):
        assert message_for(tmp_path / "cut.pth", content[:-cut]).startswith("ends too early")


def test_a_file_under_the_name_of_the_other_form_is_to_be_renamed(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "whole.safetensors")
    content = (tmp_path / "whole.safetensors").read_bytes()
    assert message_for(tmp_path / "a.pth", content).startswith(
        "is a .safetensors file: rename it so that its name ends"
    )
    for legacy in (False, True):
        message = message_for(tmp_path / "a.safetensors", of_torch(legacy))
        assert message == "is a file of torch.save: rename it so that its name ends with .pth"
        (tmp_path / "a.safetensors").rename(tmp_path / "a.pth")
        assert torch.equal(read_tensors(tmp_path / "a.pth")["head.weight"], TENSORS["head.weight"])


def test_archives_without_a_state_dict_are_named(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.trace(nn.Linear(3, 2), torch.zeros(1, 3)), tmp_path / "script.pt")
    for name in ("a.pt", "a.safetensors"):
        message = message_for(tmp_path / name, (tmp_path / "script.pt").read_bytes())
        assert message.startswith(
            "is a TorchScript archive, a program with weights: load it with torch.jit.load, if you"
        )
        assert message.endswith("torch.save(model.state_dict(), ...)")
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("weights/plain.pth", b"x")
    assert "is a ZIP archive without weights" in message_for(tmp_path / "b.pth", (tmp_path / "b.zip").read_bytes())


def test_a_whole_file_with_numbers_of_an_unknown_kind_is_not_called_cut(tmp_path: Path) -> None:
    told = message_for(tmp_path / "new.safetensors", save(TENSORS).replace(b'"F32"', b'"F99"'))
    assert "F99" in told
    assert "ends too early" not in told
