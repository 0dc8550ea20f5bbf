"""Tests the file format of a checkpoint with files that are damaged, hold code, or belong to another job."""

import os
import pickle
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch

from tumorboard.training.checkpoint_file import UnusableError, read_checkpoint, write_checkpoint


def test_tensors_keep_their_type_and_layout(tmp_path: Path) -> None:
    image = torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last)
    tree = {"half": torch.rand(3).bfloat16(), "image": image, "list": [{"n": 1, "none": None}, float("inf")]}
    write_checkpoint(tmp_path / "a.ckpt", "key", tree)
    loaded = read_checkpoint(tmp_path / "a.ckpt", "key")
    assert torch.equal(loaded["half"], tree["half"])
    assert loaded["half"].dtype == torch.bfloat16
    assert torch.equal(loaded["image"], image)
    assert loaded["image"].stride() == image.stride()
    assert loaded["list"] == tree["list"]


@pytest.mark.parametrize("place", [0, 100, 3000, -33, -1, None])
def test_a_wrong_byte_anywhere_and_a_missing_end_are_detected(tmp_path: Path, place: int | None) -> None:
    path = tmp_path / "a.ckpt"
    write_checkpoint(path, "key", {"a": torch.zeros(2000)})
    content = bytearray(path.read_bytes())
    if place is None:
        del content[-500:]
    else:
        content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(UnusableError, match="is damaged"):
        read_checkpoint(path, "key")


class _Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("made_by_code",)


def test_code_in_a_file_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.ckpt"
    torch.save({"key": "key", "tree": _Code()}, path)
    for content in (path.read_bytes(), pickle.dumps(_Code(), protocol=2), b""):
        path.write_bytes(content + sha256(content).digest())
        with pytest.raises(UnusableError, match="is no checkpoint"):
            read_checkpoint(path, "key")
    assert not (tmp_path / "made_by_code").exists()


def test_another_jobs_checkpoint_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "a.ckpt", "key", {"a": 1})
    assert read_checkpoint(tmp_path / "a.ckpt", "key") == {"a": 1}
    with pytest.raises(UnusableError, match=r"belongs to another job \(key\)"):
        read_checkpoint(tmp_path / "a.ckpt", "other")
