"""The stage fetch: it takes the name of the set from the name of its out."""

from pathlib import Path

import pytest

from stages import fetch
from tumorboard.base.params import Params


def test_the_name_of_the_set_is_that_of_the_out_without_the_prefix(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, Path]] = []
    monkeypatch.setattr(fetch, "download", lambda name, target: calls.append((name, target)))
    out = tmp_path / "medmnist:bloodmnist_224"
    fetch.main(params, out=out)
    assert calls == [("bloodmnist_224", out)]
