"""One file's opinion is its row of `predict_images`; the server's tests compare the numbers."""

import sys
from pathlib import Path

import numpy as np
import pytest

from tests.commands.serving import picture, source_of
from tumorboard.base.errors import InputError
from tumorboard.base.params import Params
from tumorboard.commands.panel_source import PanelSource
from tumorboard.images.crop import crop_file
from tumorboard.panel.opinion import classify_file, explain_file


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, params: Params) -> PanelSource:
    return source_of(tmp_path_factory.mktemp("study"), params)


def test_an_opinion_has_the_crop_and_a_vote_per_member(source: PanelSource, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(picture(3))
    card, deciding = source.panel.card, source.deciding
    settings = {"deciding": deciding, "crop": card.crop, "frames": source.frames}
    opinion = classify_file(source.panel, tmp_path / "a", name="b.png", known={}, **settings)
    assert opinion.crop is not None
    assert (opinion.crop == crop_file(picture(3), card.crop, source.frames).square).all()
    assert list(opinion.members) == ["linear", "cnn"]
    assert [np.sum(one) for one in opinion.members.values()] == pytest.approx([1, 1])
    assert opinion.decisions["path"].tolist() == ["b.png"]
    missing = classify_file(source.panel, tmp_path / "none", name="c.png", known={}, **settings)
    assert (missing.crop, missing.members) == (None, {})
    assert list(missing.decisions) == list(opinion.decisions)
    assert missing.decisions["problem"].tolist() == ["broken or outward link"]
    assert missing.decisions["decided"].isna().all()


def test_without_torch_heat_maps_name_what_is_missing(
    source: PanelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(picture(3))
    settings = {"deciding": source.deciding, "crop": source.panel.card.crop, "frames": source.frames}
    assert set(explain_file(source.panel, tmp_path / "a", "b", **settings)) == {"cnn", "vote"}
    monkeypatch.setitem(sys.modules, "tumorboard.panel.explain", None)
    with pytest.raises(InputError, match=r"heat maps need the package .*: pip install 'tumorboard\[train\]'"):
        explain_file(source.panel, tmp_path / "a", "b", **settings)
