"""Maps of the panel: the weights of its vote, the members without a map, and how they are drawn."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from tumorboard.base.errors import InputError
from tumorboard.panel import explain
from tumorboard.panel.deciding import Deciding
from tumorboard.panel.explain import explain_by_fold, explain_crops
from tumorboard.panel.fitted import Fit
from tumorboard.panel.heat_maps import VOTE, draw_maps

CROPS = np.full((2, 4, 4, 3), 100, np.uint8)
MAPS = {"a": 0.8, "b": 0.2, "c": 0.4}


PANEL = SimpleNamespace(models={name: (name, name) for name in MAPS})  # three models with two folds each


def deciding(vote, **fitted):
    fit = {"temperatures": dict.fromkeys(MAPS, 1.0), "weights": {}, "vote_temperatures": {}} | fitted
    return Deciding(fit=Fit(vote=vote, **fit), vote=vote, positive=None, abstain=0.0)


@pytest.fixture
def maps(monkeypatch):
    def map_of(trained, crops, targets):
        assert targets == [0, 1]
        if trained == "c":
            raise InputError("architecture linear has no layer that keeps the places")
        return np.full(crops.shape[:3], MAPS[trained], np.float32)

    monkeypatch.setattr(explain, "_map_of", map_of)
    return lambda one: explain_crops(PANEL, CROPS, [0, 1], one)


def test_equal_votes_take_the_mean_of_the_members_that_have_a_map(maps):
    for vote in ("hard", "soft", "product", "stacking"):
        by_model = maps(deciding(vote))
        assert list(by_model) == ["a", "b", VOTE]
        assert by_model[VOTE] == pytest.approx(0.5)


def test_weights_count_among_the_members_that_have_a_map(maps):
    voted = maps(deciding("weighted", weights={"a": 0.3, "b": 0.1, "c": 0.6}))[VOTE]
    assert voted == pytest.approx((0.3 * 0.8 + 0.1 * 0.2) / 0.4)
    assert maps(deciding("single", single="b"))[VOTE] == pytest.approx(0.2)


def test_a_vote_whose_members_have_no_map_says_why(maps):
    with pytest.raises(InputError, match="the single vote has no map of its evidence: c: architecture linear has no"):
        maps(deciding("single", single="c"))


def test_the_map_of_a_model_is_the_mean_over_its_folds(monkeypatch):
    values = iter([0.2, 0.6])
    monkeypatch.setattr(explain, "_map_of", lambda *_: np.full((2, 4, 4), next(values), np.float32))
    panel = SimpleNamespace(models={"a": ("first", "second")})
    assert explain_crops(panel, CROPS, [0, 1], deciding("soft"))["a"] == pytest.approx(0.4)


def a_panel_of_two_folds(**fitted):
    """A panel of one model on folds 0 and 1, and what was fitted for it."""
    folds = [SimpleNamespace(card=SimpleNamespace(fold=fold)) for fold in (0, 1)]
    card = SimpleNamespace(crop=SimpleNamespace(side=4), classes=("x", "y"))
    content = SimpleNamespace(fit=deciding("soft", **fitted).fit, vote="soft", positive=None)
    return SimpleNamespace(models={"a": folds}, card=card), content


def test_a_validation_image_is_explained_by_the_models_that_did_not_see_it(monkeypatch):
    """A test image has no fold: all models explain it, and its map is their mean."""
    panel, content = a_panel_of_two_folds()
    seen = []

    def member_maps(models, crops, targets):
        folds = [one.card.fold for one in models.models["a"]]
        seen.append((folds, crops[:, 0, 0, 0].tolist(), list(targets)))
        return {"a": np.full((len(crops), 4, 4), 0.1 * (1 + sum(folds)), np.float32)}, {}

    monkeypatch.setattr(explain, "member_maps", member_maps)
    monkeypatch.setattr(explain, "Panel", lambda models: SimpleNamespace(models=models))

    class Crops:
        def __getitem__(self, ids):
            return np.array([int(name) for name in ids], np.uint8).reshape(-1, 1, 1, 1) + np.zeros(
                (1, 4, 4, 3), np.uint8
            )

    manifest = pd.DataFrame({"id": ["0", "1", "2", "3"], "fold": pd.array([1, 0, None, 1], dtype="Int64")})
    members, vote = explain_by_fold(
        panel, ["0", "1", "2", "3"], ["y", "x", "x", "x"], content, crops=Crops(), manifest=manifest
    )
    assert seen == [([1], [0, 3], [1, 0]), ([0], [1], [0]), ([0, 1], [2], [0])]
    assert members["a"][:, 0, 0] == pytest.approx([0.2, 0.1, 0.2, 0.2])
    assert vote == pytest.approx(members["a"])


def test_without_evidence_the_picture_shows_and_with_it_the_color():
    maps = np.zeros((2, 4, 4), np.float32)
    maps[0, 1, 2] = 1
    drawn = draw_maps(CROPS, maps)
    assert (drawn[1] == CROPS[1]).all()
    changed = (drawn[0] != CROPS[0]).any(-1)
    assert changed.sum() == 1
    assert changed[1, 2]
    red, _, blue = drawn[0, 1, 2].astype(int)
    assert red > blue, "the warm end of the colors, half over the picture"
    assert drawn.dtype == np.uint8
